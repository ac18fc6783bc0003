//! Rows of data sets: what one delivery appends to one data set is one item.

use std::sync::Arc;

use super::item::{Item, Key, json, number, text};
use super::store::Store;
use super::table::Span;
use crate::backend::{Error, PAGE_BYTES_MAX, Page, Result};
use crate::clock::Timestamp;
use crate::effects::Record;
use crate::event::Event;
use crate::policy::ConsumerName;

/// Rows in one item, in bytes as they stand there: an item may have 400 KB.
const ITEM_BYTES_MAX: usize = 300 << 10;

pub fn items(
    name: &ConsumerName,
    event: &Event,
    records: &[Record],
    now: Timestamp,
    expires: Option<u64>,
) -> Result<Vec<Item>> {
    let mut chunks: Vec<(&Arc<str>, Vec<&str>, usize)> = Vec::new();
    for Record { dataset, row } in records {
        match chunks.iter_mut().rev().find(|(of, ..)| *of == dataset) {
            Some((_, rows, bytes)) if *bytes + length(row) <= ITEM_BYTES_MAX => {
                rows.push(row);
                *bytes += length(row);
            }
            _ => chunks.push((dataset, vec![row], length(row))),
        }
    }
    let item = |(index, (dataset, rows, _)): (usize, (&Arc<str>, Vec<&str>, usize))| {
        let Key { pk, sk } = Key::records(dataset, event.position.get(), index);
        Ok(Item::at(&Key { pk, sk: format!("{sk}#{name}") })
            .with("by", text(name.as_str()))
            .with("e", text(event.id.to_string()))
            .with("t", number(now.as_millis()))
            .with("rows", json(&rows)?)
            .with_some("ttl", expires.map(number)))
    };
    chunks.into_iter().enumerate().map(item).collect()
}

/// Of a row in a list of texts: what is JSON itself has its quotes there twice, as it were.
fn length(row: &str) -> usize {
    const AROUND: usize = 3;
    let surplus = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    row.len() + row.bytes().map(surplus).sum::<usize>() + AROUND
}

/// Rows of a data set, oldest first. The cursor is the item, and how many rows of it were seen.
pub async fn page(store: &Store, dataset: &str, after: Option<&str>, limit: usize) -> Result<Page<String>> {
    let wrong = |text: &str| Error::NotACursor(text.into());
    let (from, mut skip) = match after {
        Some(after) => {
            let (item, rows) = after.rsplit_once('+').ok_or_else(|| wrong(after))?;
            (item.to_owned(), rows.parse::<usize>().map_err(|_| wrong(after))?)
        }
        None => ("0".to_owned(), 0),
    };
    let span = Span {
        partition: format!("r#{dataset}"),
        from: from.clone(),
        to: "9".into(),
        newest_first: false,
        limit: limit + 1,
    };
    let (items, holds) = store.table.page(span).await?;
    let is_cut = items.len() > holds;
    let (mut page, mut bytes) = (Page { items: Vec::new(), next: None }, 0);
    for item in items {
        let rows: Vec<String> = item.json("rows")?;
        if item.text("sk")? != from {
            // The item of the cursor has gone by age meanwhile.
            skip = 0;
        }
        let count = rows.len();
        for (index, row) in rows.into_iter().enumerate().skip(std::mem::take(&mut skip)) {
            if page.items.len() == limit || bytes >= PAGE_BYTES_MAX {
                page.next = Some(format!("{}+{index}", item.text("sk")?));
                return Ok(page);
            }
            bytes += row.len();
            page.items.push(row);
        }
        // For where it is the last one that was read, and not the last one that is there.
        page.next = is_cut.then(|| item.text("sk").map(|item| format!("{item}+{count}"))).transpose()?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::contract::custom;
    use crate::event::{Body, EventId, Position};

    #[test]
    fn many_rows_with_many_quotes_fit_into_items() {
        const ITEM_BYTES: usize = 400_000;
        let (id, body) = (EventId::generate(), Body::Custom(custom("tea")));
        let event = Event { id, position: Position::FIRST, time: Timestamp::now(), cause: None, depth: 0, body };
        let row =
            |number: usize| Record { dataset: "rows".into(), row: format!(r#"{{"a":"","b":"","c":"{number}"}}"#) };
        let records: Vec<Record> = (0..30_000).map(row).collect();
        let items = items(&"alpha".parse().unwrap(), &event, &records, Timestamp::now(), None).unwrap();
        let rows = items.iter().map(|item| item.text("rows").unwrap());
        assert!(rows.clone().all(|rows| rows.len() < ITEM_BYTES), "{:?}", rows.map(str::len).collect::<Vec<_>>());
        let told: Vec<String> = items.iter().flat_map(|item| item.json::<Vec<String>>("rows").unwrap()).collect();
        assert!(told.iter().eq(records.iter().map(|record| &*record.row)), "in their order");
    }
}
