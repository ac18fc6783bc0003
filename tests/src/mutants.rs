//! Plugin files that are none, in any number: the same seed makes the same files.
//!
//! A mutant is made from a good plugin in one of many ways ([`Way`]): by what copying, disks and editors do to bytes, and by
//! what people do who build the wrong thing, which is WebAssembly all the same and is found out later.

mod bytes;
mod guest;
mod wasm;

use crate::crash::goods::Dice;

pub use guest::guest;
pub use wasm::of_contract;

/// One file.
pub struct Mutant {
    pub way: Way,
    pub bytes: Vec<u8>,
}

/// How it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    // Bytes.
    BitsFlipped,
    Cut,
    BlockLost,
    BlockTwice,
    BlockBlank,
    BlockForeign,
    LengthChanged,
    Noise,
    TypesInTypes,
    // WebAssembly that is no plugin, or a bad one.
    CoreModule,
    OtherWorld,
    OtherContract,
    TwoContracts,
    HollowHandler,
    HandlerOfOtherTypes,
    UnknownImport,
    ImportOfOtherTypes,
    BadDescription,
    TrapsAtOnce,
    TooManyParts,
    DeeplyNested,
    LongNames,
}

impl Way {
    pub const ALL: [Self; 22] = [
        Self::BitsFlipped,
        Self::Cut,
        Self::BlockLost,
        Self::BlockTwice,
        Self::BlockBlank,
        Self::BlockForeign,
        Self::LengthChanged,
        Self::Noise,
        Self::TypesInTypes,
        Self::CoreModule,
        Self::OtherWorld,
        Self::OtherContract,
        Self::TwoContracts,
        Self::HollowHandler,
        Self::HandlerOfOtherTypes,
        Self::UnknownImport,
        Self::ImportOfOtherTypes,
        Self::BadDescription,
        Self::TrapsAtOnce,
        Self::TooManyParts,
        Self::DeeplyNested,
        Self::LongNames,
    ];

    /// Whether what comes of it is WebAssembly, valid from end to end, which no host may run as a plugin.
    #[must_use]
    pub fn is_valid_wasm(self) -> bool {
        self >= Self::CoreModule
    }
}

/// A plugin that does nothing, as small as can be, and so many mutants of it, each way in turn.
pub fn of(good: &[u8], seed: u64) -> impl Iterator<Item = Mutant> {
    let mut dice = Dice::new(seed);
    Way::ALL.into_iter().cycle().map(move |way| Mutant { way, bytes: make(way, good, &mut dice) })
}

/// One mutant.
#[must_use]
pub fn make(way: Way, good: &[u8], dice: &mut Dice) -> Vec<u8> {
    match way {
        Way::BitsFlipped => bytes::flip(good, dice),
        Way::Cut => bytes::cut(good, dice),
        Way::BlockLost => bytes::lose(good, dice),
        Way::BlockTwice => bytes::repeat(good, dice),
        Way::BlockBlank => bytes::blank(good, dice),
        Way::BlockForeign => bytes::splice(good, dice),
        Way::LengthChanged => bytes::stretch(good, dice),
        Way::Noise => bytes::noise(dice),
        Way::TypesInTypes => wasm::types_in_types(dice),
        Way::CoreModule => wasm::core_module(dice),
        Way::OtherWorld => wasm::other_world(dice),
        Way::OtherContract => wasm::other_contract(good, dice),
        Way::TwoContracts => wasm::two_contracts(good, dice),
        Way::HollowHandler => wasm::hollow_handler(dice),
        Way::HandlerOfOtherTypes => wasm::handler_of_other_types(dice),
        Way::UnknownImport => wasm::unknown_import(dice),
        Way::ImportOfOtherTypes => wasm::import_of_other_types(dice),
        Way::BadDescription => wasm::bad_description(dice),
        Way::TrapsAtOnce => wasm::traps_at_once(dice),
        Way::TooManyParts => wasm::too_many_parts(good, dice),
        Way::DeeplyNested => wasm::deeply_nested(dice),
        Way::LongNames => wasm::long_names(dice),
    }
}

/// Whether it is WebAssembly from end to end, in as few types as any tool makes.
#[must_use]
pub fn is_valid(bytes: &[u8]) -> bool {
    wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(bytes).is_ok()
}

/// `good` in a file of its own: the same code, another hash.
#[must_use]
pub fn stamped(good: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = good.to_vec();
    wasm::push_custom(&mut bytes, "stamp", &number.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_files_and_others_differ() {
        let good = guest::guest();
        let files = |seed| of(&good, seed).take(200).map(|mutant| mutant.bytes).collect::<Vec<_>>();
        assert_eq!(files(1), files(1));
        assert_ne!(files(1), files(2));
        let distinct: BTreeSet<_> = files(3).into_iter().collect();
        assert!(distinct.len() > 170, "{} files", distinct.len());
    }

    #[test]
    fn what_is_called_valid_is_valid() {
        let good = guest::guest();
        for Mutant { way, bytes } in of(&good, 4).take(400).filter(|mutant| mutant.way.is_valid_wasm()) {
            let valid = wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(&bytes);
            let refused = valid.err().map(|error| error.to_string());
            assert_eq!(refused, None, "{way:?}");
        }
    }
}
