//! The imports of the contract that only tests serve, on the same [`Handling`](super::Handling) as those of 0.1.

use super::v0_1::Imports;
use crate::sandbox::contract::v0_2 as wit;

impl wit::state::Host for Imports<'_> {
    async fn put(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Option<Vec<u8>>> {
        let handling = self.handling(key.len() + value.len())?;
        let before = handling.get(&key).await?;
        handling.put(key, Some(value))?;
        Ok(before.map(|value| value.to_vec()))
    }
}
