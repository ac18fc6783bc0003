//! A disk that loses power: what was written and not synced is gone, in whole, in part, or not at all.
//!
//! SIGKILL leaves the page cache alive, so a host that never calls fsync survives it. `power.c`, preloaded into the host,
//! notes every write with what was there before; [`Disk::cut_power`] takes back what no fsync covered:
//!
//! - of each unsynced write, any subset of its sectors stays (512 or 4,096 bytes: writes tear);
//! - of the unsynced changes of a folder (created, renamed, removed), any beginning stays, as on a journaling file system;
//!   a file whose folder was not synced may be gone with all that was synced in it;
//! - SQLite's shared memory is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::goods::Dice;
use crate::TestHost;

const SHIM: &str = include_str!("power.c");

pub struct Disk {
    root: PathBuf,
    state: PathBuf,
    unsynced: u64,
    lost: u64,
}

/// What fsync does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    Works,
    /// Says that it did, and did not: as good as `synchronous=OFF`.
    Lies,
    /// EIO.
    Fails,
}

impl Disk {
    /// Makes a host that does not run yet keep its data on such a disk. Mail is kept elsewhere: it is not synced, and says so.
    ///
    /// # Panics
    /// Without a C compiler.
    #[must_use]
    pub fn under(host: &mut TestHost) -> Self {
        let (root, state) = (host.folder().join("disk"), host.folder().join("power"));
        for folder in [&root, &state] {
            fs::create_dir(folder).expect("a new folder");
        }
        let shim = compile(&state);
        fs::write(state.join("control"), b"w").expect("a new file");
        let mail = host.folder().join("mail");
        host.keep_data_in(root.join("data"));
        for (name, value) in
            [("LD_PRELOAD", &shim), ("POWER_ROOT", &root), ("POWER_STATE", &state), ("FANFARE_MAIL_FOLDER", &mail)]
        {
            host.variable(name, value.to_str().expect("a path that is text"));
        }
        Self { root, state, unsynced: 0, lost: 0 }
    }

    /// From now on, for hosts that run too.
    ///
    /// # Panics
    /// If the disk cannot be told.
    pub fn fsync(&self, fsync: Fsync) {
        let mode = match fsync {
            Fsync::Works => b"w",
            Fsync::Lies => b"l",
            Fsync::Fails => b"e",
        };
        let control = OpenOptions::new().write(true).open(self.state.join("control")).expect("the control file");
        control.write_all_at(mode, 0).expect("a byte");
    }

    /// Unsynced changes so far, and how many of them were lost or torn.
    #[must_use]
    pub fn tally(&self) -> (u64, u64) {
        (self.unsynced, self.lost)
    }

    /// Takes back what was not synced; the host must be gone.
    ///
    /// # Panics
    /// If a file cannot be read or written.
    pub fn cut_power(&mut self, seed: u64) {
        let log = fs::read(self.state.join("ops")).unwrap_or_default();
        let ops = parse(&log);
        let mut dice = Dice::new(seed);
        self.lose_writes(&ops, &mut dice);
        self.lose_names(&ops, &mut dice);
        for entry in fs::read_dir(&self.state).expect("the folder of the disk") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name == "ops" || name.to_string_lossy().starts_with("grave-")) {
                fs::remove_file(path).expect("a file to remove");
            }
        }
        for path in files(&self.root).filter(|path| path.to_string_lossy().ends_with("-shm")) {
            fs::remove_file(path).expect("a file to remove");
        }
    }

    fn lose_writes(&mut self, ops: &[Op<'_>], dice: &mut Dice) {
        let mut covered: HashMap<u64, u64> = HashMap::new();
        for op in ops.iter().filter(|op| op.kind == SYNC) {
            let covers = covered.entry(op.inode).or_default();
            *covers = op.covers.max(*covers);
        }
        let mut unsynced: BTreeMap<u64, Vec<&Op<'_>>> = BTreeMap::new();
        for op in ops.iter().filter(|op| op.kind == WRITE || op.kind == TRUNCATE) {
            if op.number >= covered.get(&op.inode).copied().unwrap_or_default() {
                unsynced.entry(op.inode).or_default().push(op);
            }
        }
        let everywhere = files(&self.root).chain(files(&self.state));
        let paths: HashMap<u64, PathBuf> =
            everywhere.filter_map(|path| Some((fs::symlink_metadata(&path).ok()?.ino(), path))).collect();
        let sector = if dice.below(2) == 0 { 512 } else { 4_096 };
        // Of a hundred sectors; all, none and some are different worlds.
        let kept = [0, 50, 90, 99][usize::try_from(dice.below(4)).unwrap_or_default()];
        for (inode, ops) in unsynced {
            // A file that was removed for good.
            let Some(path) = paths.get(&inode) else { continue };
            let file = OpenOptions::new().write(true).read(true).open(path).expect("a file of the disk");
            self.unsynced += ops.len() as u64;
            ops.iter().rev().for_each(|op| undo(&file, op));
            let redone = ops.iter().filter(|op| redo(&file, op, sector, &mut || dice.below(100) < kept));
            self.lost += (ops.len() - redone.count()) as u64;
        }
    }

    fn lose_names(&mut self, ops: &[Op<'_>], dice: &mut Dice) {
        let mut covered: HashMap<&str, u64> = HashMap::new();
        for op in ops.iter().filter(|op| op.kind == DIRSYNC) {
            let covers = covered.entry(op.path).or_default();
            *covers = op.covers.max(*covers);
        }
        let mut unsynced: BTreeMap<&str, Vec<&Op<'_>>> = BTreeMap::new();
        for op in ops.iter().filter(|op| matches!(op.kind, CREATE | UNLINK | RENAME | MKDIR)) {
            let folder = op.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if op.number >= covered.get(folder).copied().unwrap_or_default() {
                unsynced.entry(folder).or_default().push(op);
            }
        }
        let mut lost: Vec<&Op<'_>> = Vec::new();
        for ops in unsynced.values() {
            let kept = usize::try_from(dice.below(ops.len() as u64 + 1)).unwrap_or_default();
            self.unsynced += ops.len() as u64;
            lost.extend(&ops[kept..]);
        }
        self.lost += lost.len() as u64;
        lost.sort_unstable_by_key(|op| std::cmp::Reverse(op.number));
        lost.iter().for_each(|op| self.undo_name(op));
    }

    /// A name that a later change took away already is left alone.
    fn undo_name(&self, op: &Op<'_>) {
        let grave = self.state.join(format!("grave-{}", op.grave));
        let is = |path: &str| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.ino() == op.inode);
        match op.kind {
            CREATE if is(op.path) => fs::remove_file(op.path).expect("a file to remove"),
            MKDIR if is(op.path) => fs::remove_dir_all(op.path).expect("a folder to remove"),
            UNLINK if op.grave > 0 && !Path::new(op.path).exists() => {
                fs::hard_link(grave, op.path).expect("a file to bring back");
            }
            RENAME if is(op.path2) => {
                fs::rename(op.path2, op.path).expect("a file to rename");
                if op.grave > 0 {
                    fs::hard_link(grave, op.path2).expect("a file to bring back");
                }
            }
            _ => {}
        }
    }
}

fn compile(folder: &Path) -> PathBuf {
    let (source, shim) = (folder.join("power.c"), folder.join("power.so"));
    fs::write(&source, SHIM).expect("a new file");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(&source)
        .args(["-ldl", "-lpthread"])
        .output();
    let compiled = compiled.expect("a C compiler called cc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    shim
}

/// Every file under `folder`, whatever its name.
fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => _ = found.insert(path),
            }
        }
    }
    found.into_iter()
}

fn undo(file: &File, op: &Op<'_>) {
    file.write_all_at(op.old, op.offset).expect("bytes to take back");
    file.set_len(op.size_before).expect("a size to take back");
}

/// Writes what `keeps` lets through; whether that is all of it.
fn redo(file: &File, op: &Op<'_>, sector: u64, keeps: &mut impl FnMut() -> bool) -> bool {
    if op.kind == TRUNCATE {
        let kept = keeps();
        if kept {
            file.set_len(op.offset).expect("a size");
        }
        return kept;
    }
    let (mut rest, mut at, mut whole) = (op.new, op.offset, true);
    while !rest.is_empty() {
        let until_next = usize::try_from(sector - at % sector).unwrap_or(usize::MAX).min(rest.len());
        let (piece, behind) = rest.split_at(until_next);
        if keeps() {
            file.write_all_at(piece, at).expect("bytes");
        } else {
            whole = false;
        }
        at += piece.len() as u64;
        rest = behind;
    }
    whole
}

const WRITE: u32 = 1;
const TRUNCATE: u32 = 2;
const SYNC: u32 = 3;
const CREATE: u32 = 4;
const UNLINK: u32 = 5;
const RENAME: u32 = 6;
const DIRSYNC: u32 = 7;
const MKDIR: u32 = 8;

/// `struct op` in power.c, and what follows it there.
struct Op<'a> {
    number: u64,
    kind: u32,
    grave: u32,
    inode: u64,
    offset: u64,
    size_before: u64,
    covers: u64,
    path: &'a str,
    path2: &'a str,
    old: &'a [u8],
    new: &'a [u8],
}

/// A note that SIGKILL cut short is of a change that was not made.
fn parse(log: &[u8]) -> Vec<Op<'_>> {
    let mut rest = log;
    std::iter::from_fn(|| parse_one(&mut rest)).zip(0..).map(|(op, number)| Op { number, ..op }).collect()
}

fn parse_one<'a>(rest: &mut &'a [u8]) -> Option<Op<'a>> {
    let mut take = |bytes: usize| rest.split_off(..bytes);
    let mut short = || Some(u32::from_ne_bytes(take(4)?.try_into().ok()?));
    let (kind, path, path2, old, new, grave) = (short()?, short()?, short()?, short()?, short()?, short()?);
    let mut long = || Some(u64::from_ne_bytes(take(8)?.try_into().ok()?));
    let (inode, offset, size_before, covers) = (long()?, long()?, long()?, long()?);
    let mut text = |bytes| std::str::from_utf8(take(usize::try_from(bytes).ok()?)?).ok();
    let (path, path2) = (text(path)?, text(path2)?);
    let mut bytes = |bytes| take(usize::try_from(bytes).ok()?);
    let (old, new) = (bytes(old)?, bytes(new)?);
    Some(Op { number: 0, kind, grave, inode, offset, size_before, covers, path, path2, old, new })
}
