//! Gives free pages back to the file system, so that the file shrinks after a purge.

use rusqlite::Connection;

use super::{Step, Worker};

/// Free pages that stay, for what comes next: 4 MiB, or an eighth of the file where that is more.
const FREE_MIN: i64 = 1_024;
const FREE_SHARE: i64 = 8;
/// Pages given back in one task; each may be another page moved to its place.
const PAGES: i64 = 32;

pub fn give_back(worker: &mut Worker) -> Step<()> {
    loop {
        let surplus = worker.read(surplus)?;
        if surplus <= 0 {
            return Ok(());
        }
        let before = surplus;
        worker.commit(move |writer| {
            let mut vacuum = writer.connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
            let mut freed = vacuum.query([])?;
            // A row for each page; none is wanted.
            while freed.next()?.is_some() {}
            Ok(())
        })?;
        // A file from before it was made to shrink does not.
        if worker.read(self::surplus)? >= before {
            return Ok(());
        }
    }
}

fn surplus(disk: &Connection) -> rusqlite::Result<i64> {
    let number = |pragma: &str| disk.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    let (free, all) = (number("freelist_count")?, number("page_count")?);
    Ok(free - FREE_MIN.max(all / FREE_SHARE))
}
