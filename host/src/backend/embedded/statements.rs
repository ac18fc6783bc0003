//! Statements that a batch runs again and again: each is looked up by the text of its SQL once, and by where that text
//! stands from then on.

use rusqlite::{CachedStatement, Connection, Params};

pub struct Statements<'a> {
    connection: &'a Connection,
    /// A dozen at most: looking through them is quicker than hashing a page of SQL.
    prepared: Vec<(&'static str, CachedStatement<'a>)>,
}

impl<'a> Statements<'a> {
    pub fn new(connection: &'a Connection) -> Self {
        Self { connection, prepared: Vec::new() }
    }

    pub fn execute(&mut self, sql: &'static str, params: impl Params) -> rusqlite::Result<usize> {
        self.statement(sql)?.execute(params)
    }

    pub fn statement(&mut self, sql: &'static str) -> rusqlite::Result<&mut CachedStatement<'a>> {
        let index = match self.prepared.iter().position(|(known, _)| std::ptr::eq(*known, sql)) {
            Some(index) => index,
            None => {
                self.prepared.push((sql, self.connection.prepare_cached(sql)?));
                self.prepared.len() - 1
            }
        };
        // The index is one of this very list.
        self.prepared.get_mut(index).map(|(_, statement)| statement).ok_or(rusqlite::Error::InvalidQuery)
    }
}
