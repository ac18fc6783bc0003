use std::io::Cursor;

use wasmsign2::{Module, PublicKeySet, SecretKey};

use super::*;

/// A component of two custom sections.
fn component() -> Vec<u8> {
    let mut file = COMPONENT_HEADER.to_vec();
    file.extend([0, 5, 3, b'o', b'n', b'e', 1, 0, 5, 3, b't', b'w', b'o', 2]);
    file
}

fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32]).unwrap()
}

fn publics(seeds: &[u8]) -> Vec<PublicKey> {
    seeds.iter().map(|seed| key(*seed).public()).collect()
}

fn signed(seeds: &[u8]) -> Vec<u8> {
    seeds.iter().fold(component(), |file, seed| sign(&file, &key(*seed)).unwrap())
}

/// The other tool's form of the same key.
fn their_key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&key_pair_file(&[seed; 32], key(seed).public())).unwrap()
}

fn module(file: &[u8]) -> Module {
    Module::deserialize(&mut Cursor::new(file)).unwrap()
}

fn bytes(module: &Module) -> Vec<u8> {
    let mut file = Vec::new();
    module.serialize(&mut file).unwrap();
    file
}

fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A component that begins with a signature section of this content.
fn with_section(content: &[u8]) -> Vec<u8> {
    let content = [&[9], b"signature".as_slice(), content].concat();
    [&COMPONENT_HEADER, [0].as_slice(), &number(content.len()), &content, &component()[8..]].concat()
}

#[test]
fn a_file_is_that_of_whoever_signed_it() {
    assert_eq!(verify(&component(), &publics(&[1])), Err(Refused::Unsigned));
    assert_eq!(verify(&signed(&[1]), &publics(&[1])), Ok(publics(&[1])));
    assert_eq!(verify(&signed(&[1]), &publics(&[2, 1])), Ok(publics(&[1])), "one of two keys is enough");
    assert_eq!(verify(&signed(&[3]), &publics(&[1, 2])), Err(Refused::UnknownKey(vec![key(3).public().id()])));
    assert_eq!(
        verify(&signed(&[1, 2, 3]), &publics(&[3, 1])),
        Ok(publics(&[3, 1])),
        "one of three signatures is enough"
    );
    assert_eq!(claims(&signed(&[1, 2])).unwrap(), publics(&[1, 2]).iter().map(PublicKey::id).collect::<Vec<_>>());
    assert_eq!(signed(&[1, 2, 2]), signed(&[1, 2]), "signing again changes nothing");
    assert_eq!(sign(b"\0asm\x01\0\0\0", &key(1)), Err(Refused::NotAComponent));
    assert_eq!(verify(b"", &publics(&[1])), Err(Refused::NotAComponent));
}

#[test]
fn no_bit_of_a_signed_file_can_be_another() {
    let good = signed(&[1]);
    for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut file = good.clone();
        file[at] ^= 1 << bit;
        assert!(verify(&file, &publics(&[1])).is_err(), "bit {bit} of byte {at}");
    }
    for bytes in 0..good.len() {
        assert!(verify(&good[..bytes], &publics(&[1])).is_err(), "cut after {bytes} bytes");
    }
}

#[test]
fn a_file_that_was_changed_says_so() {
    let changed = |file: &[u8]| assert_eq!(verify(file, &publics(&[1])), Err(Refused::Changed));
    let mut appended = signed(&[1]);
    appended.extend([0, 4, 3, b'n', b'e', b'w']);
    changed(&appended);
    assert_eq!(sign(&appended, &key(2)), Err(Refused::Changed), "a second key vouches for no change");
    let mut last = signed(&[1]);
    *last.last_mut().unwrap() ^= 1;
    changed(&last);
    // Moved behind another section, it is no signature any more.
    let whole = signed(&[1]);
    let section = &whole[8..whole.len() - component().len() + 8];
    let moved = [&component()[..15], section, &component()[15..]].concat();
    assert_eq!(verify(&moved, &publics(&[1])), Err(Refused::Unsigned));
}

#[test]
fn a_signature_under_a_trusted_keys_name_is_forged() {
    let mut forged = signed(&[1]);
    let at = forged.len() - component().len() + 8 - 1;
    forged[at] ^= 1;
    assert_eq!(verify(&forged, &publics(&[2, 1])), Err(Refused::Forged(key(1).public())));
    assert_eq!(verify(&forged, &publics(&[2])), Err(Refused::UnknownKey(vec![key(1).public().id()])));
    let beside = sign(&forged, &key(2)).unwrap();
    assert_eq!(verify(&beside, &publics(&[1, 2])), Ok(publics(&[2])), "it takes nothing from one that is right");
}

#[test]
fn lengths_that_lie_and_counts_without_end_are_refused_at_once() {
    let refused = |content: &[u8]| verify(&with_section(content), &publics(&[1])).unwrap_err();
    let endless = [0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(matches!(refused(&[]), Refused::Damaged(_)));
    assert!(matches!(refused(&[2, 1, 1, 0]), Refused::Damaged(_)), "another format");
    assert!(matches!(refused(&[[1, 1, 1].as_slice(), &endless].concat()), Refused::Damaged(_)), "sets");
    assert!(matches!(refused(&[[1, 1, 1, 1].as_slice(), &endless].concat()), Refused::Damaged(_)), "a set's length");
    assert!(matches!(refused(&[[1, 1, 1, 1, 5].as_slice(), &endless].concat()), Refused::Damaged(_)), "hashes");
    assert!(matches!(refused(&[1, 1, 1, 0, 0]), Refused::Damaged(_)), "something behind");
    assert_eq!(refused(&[1, 1, 1, 0]), Refused::Changed, "no signature is no signature of this");
    assert!(matches!(refused(&[0x80; 17 << 10]), Refused::Damaged("it is too large")));
    let section_of_4_gib = [&COMPONENT_HEADER, [0].as_slice(), &endless, &[9], b"signature"].concat();
    assert!(matches!(verify(&section_of_4_gib, &publics(&[1])), Err(Refused::Damaged(_))));
    // As many of the shortest signatures as the section has room for.
    let bomb = [number(0), number(4_000), [3, 0, 1, 0].repeat(4_000)].concat();
    assert_eq!(refused(&[[1, 1, 1, 1].to_vec(), number(bomb.len()), bomb].concat()), Refused::TooMany);
    let seeds: Vec<u8> = (1..=17).collect();
    let full = signed(&seeds[..16]);
    assert_eq!(verify(&full, &publics(&[16])), Ok(publics(&[16])));
    assert_eq!(sign(&full, &key(17)), Err(Refused::TooMany));
    let too_many = their_key(17).sign_multi(module(&full), None, false, false).unwrap().0;
    assert_eq!(verify(&bytes(&too_many), &publics(&[1])), Err(Refused::TooMany));
}

#[test]
fn what_others_sign_is_verified_here() {
    let id = key(1).public().id().0.to_vec();
    for key_id in [None, Some(&id)] {
        let alone = their_key(1).sign(module(&component()), key_id).unwrap();
        assert_eq!(verify(&bytes(&alone), &publics(&[2, 1])), Ok(publics(&[1])), "{key_id:?}");
        let both = their_key(2).sign_multi(alone, None, false, false).unwrap().0;
        assert_eq!(verify(&bytes(&both), &publics(&[1, 2])), Ok(publics(&[1, 2])), "{key_id:?}");
    }
    let theirs = their_key(1).sign(module(&component()), None).unwrap();
    assert!(matches!(verify(&bytes(&theirs), &publics(&[2])), Err(Refused::UnknownKey(ids)) if ids.is_empty()));
}

#[test]
fn what_is_signed_here_others_verify() {
    let ours = signed(&[1, 2]);
    for seed in [1, 2] {
        let pk = wasmsign2::PublicKey::from_bytes(&key(seed).public().to_file()).unwrap();
        pk.clone().attach_default_key_id().verify(&mut Cursor::new(&ours), None).unwrap();
        pk.verify(&mut Cursor::new(&ours), None).unwrap();
    }
    let pks: PublicKeySet =
        PublicKeySet::new([wasmsign2::PublicKey::from_bytes(&key(3).public().to_file()).unwrap()].into());
    assert!(pks.verify(&mut Cursor::new(&ours), None).is_err());
}

#[test]
fn a_file_signed_in_parts_is_taken_whole_and_never_cut_at_a_part() {
    let module = module(&component()).split(|section| format!("{section}").contains("one")).unwrap();
    let parts = their_key(1).sign_multi(module, None, false, false).unwrap().0;
    let file = bytes(&parts);
    assert_eq!(verify(&file, &publics(&[1])), Ok(publics(&[1])));
    assert_eq!(verify(&sign(&file, &key(2)).unwrap(), &publics(&[2])), Ok(publics(&[2])));

    let mut cut = parts.clone();
    let delimiter = cut.sections.iter().position(wasmsign2::Section::is_signature_delimiter).unwrap();
    cut.sections.truncate(delimiter + 1);
    let cut = bytes(&cut);
    assert!(cut.len() < file.len());
    let pk = wasmsign2::PublicKey::from_bytes(&key(1).public().to_file()).unwrap();
    assert!(pk.verify(&mut Cursor::new(&cut), None).is_ok(), "it looks signed to who takes the hash of any part");
    assert_eq!(verify(&cut, &publics(&[1])), Err(Refused::Changed));
}

#[test]
fn keys_are_read_as_they_are_written() {
    let (pair, public) = (key(7), key(7).public());
    assert_eq!(public.to_string().parse(), Ok(public));
    assert_eq!(PublicKey::from_file(&public.to_file()), Ok(public));
    let file = key_pair_file(&[7; 32], public);
    assert_eq!((file.len(), KeyPair::from_file(&file).unwrap().public()), (KEY_PAIR_BYTES, public));
    assert!(KeyPair::from_file(&key_pair_file(&[8; 32], public)).is_err(), "the public key of another");
    assert!(PublicKey::from_file(&file).is_err() && KeyPair::from_file(&public.to_file()).is_err());
    let theirs = wasmsign2::PublicKey::from_bytes(&pair.public().to_file()).unwrap().attach_default_key_id();
    assert_eq!(theirs.key_id().unwrap(), public.id().0.as_slice());
}
