//! What happens to bytes: on the way, on a disk, under an editor.

use crate::crash::goods::Dice;

/// Longest block that is lost, repeated or written over.
const BLOCK_BYTES_MAX: u64 = 256;

pub fn flip(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=dice.below(8) {
        let at = place(&bytes, dice);
        bytes[at] ^= 1 << dice.below(8);
    }
    bytes
}

pub fn cut(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    good[..place(good, dice)].to_vec()
}

pub fn lose(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (from, to) = block(good, dice);
    [&good[..from], &good[to..]].concat()
}

pub fn repeat(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (from, to) = block(good, dice);
    [&good[..to], &good[from..]].concat()
}

pub fn blank(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let (from, to) = block(good, dice);
    bytes[from..to].fill(if dice.below(2) == 0 { 0 } else { 0xff });
    bytes
}

/// A block of the file stands where another was.
pub fn splice(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let (from, to) = block(good, dice);
    let at = place(good, dice).min(good.len() - (to - from));
    bytes[at..at + (to - from)].copy_from_slice(&good[from..to]);
    bytes
}

/// Bytes that look like lengths say more than there is, or less.
pub fn stretch(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let at = place(good, dice);
    let length = [0x00, 0x01, 0x7f, 0x80, 0xff][usize::try_from(dice.below(5)).unwrap_or(0)];
    let written = 1 + usize::try_from(dice.below(5)).unwrap_or(0);
    let end = (at + written).min(bytes.len());
    bytes[at..end].fill(length);
    bytes
}

/// The beginning of a component, and then anything.
pub fn noise(dice: &mut Dice) -> Vec<u8> {
    let length = usize::try_from(8 + dice.below(4_000)).unwrap_or(8);
    let mut bytes: Vec<u8> = (0..length).map(|_| u8::try_from(dice.below(256)).unwrap_or(0)).collect();
    bytes[..8].copy_from_slice(b"\0asm\x0d\0\x01\0");
    bytes
}

/// Somewhere behind the first eight bytes, which say what it is.
fn place(bytes: &[u8], dice: &mut Dice) -> usize {
    let behind = u64::try_from(bytes.len() - 8).unwrap_or(1);
    8 + usize::try_from(dice.below(behind)).unwrap_or(0)
}

fn block(bytes: &[u8], dice: &mut Dice) -> (usize, usize) {
    let from = place(bytes, dice);
    let length = usize::try_from(1 + dice.below(BLOCK_BYTES_MAX)).unwrap_or(1);
    (from, (from + length).min(bytes.len()))
}
