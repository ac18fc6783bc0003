//! How much a consumer keeps: the bytes of all keys and values of its state, in one row that commits keep true.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::commit::StateNumber;
use super::rows;

const COUNTER_BYTES: u64 = 8;

pub fn of_entry(key: &str, value: &[u8]) -> u64 {
    bytes(key) + u64::try_from(value.len()).unwrap_or(u64::MAX)
}

pub fn of_counter(key: &str) -> u64 {
    bytes(key) + COUNTER_BYTES
}

fn bytes(key: &str) -> u64 {
    u64::try_from(key.len()).unwrap_or(u64::MAX)
}

pub fn read(disk: &Connection, state: StateNumber) -> rusqlite::Result<u64> {
    let bytes = disk
        .prepare_cached("SELECT bytes FROM state_sizes WHERE state = ?1")?
        .query_row([state], |row| row.get(0))
        .optional()?;
    Ok(rows::unsigned(bytes.unwrap_or(0)))
}

/// Once a batch for every state that changed.
pub fn write(disk: &Connection, sizes: &mut HashMap<StateNumber, u64>) -> rusqlite::Result<()> {
    let mut set = disk.prepare_cached(
        "INSERT INTO state_sizes (state, bytes) VALUES (?1, ?2) ON CONFLICT (state) DO UPDATE SET bytes = excluded.bytes",
    )?;
    for (state, bytes) in sizes.drain() {
        set.execute(params![state, rows::signed(bytes)])?;
    }
    Ok(())
}
