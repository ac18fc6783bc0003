//! What an operator set, checked: `fanfare.toml`, then `FANFARE_…`, then flags.

pub mod toml_at;
