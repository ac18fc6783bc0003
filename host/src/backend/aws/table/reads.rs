//! Reads: of single items, of parts of a partition, and of the indexes.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use tokio::sync::oneshot;

use super::{AGAIN_FIRST, AGAIN_MAX, Table, failed, jittered};
use crate::backend::aws::gather::Gather;
use crate::backend::aws::item::{Item, Key, number, text};
use crate::backend::aws::resources::names;
use crate::backend::{Error, PAGE_BYTES_MAX, Result};

/// Keys in one `BatchGetItem`.
const GETS_MAX: usize = 100;
/// Single reads that go at once, though others are on their way, and how many requests of them there may be.
const GATHERED: usize = 25;
const GATHERED_MAX: usize = 8;

/// Reads of single items that wait for others.
#[derive(Debug)]
pub struct Reads(Gather<Read>);

#[derive(Debug)]
struct Read {
    key: Key,
    told: oneshot::Sender<Result<Option<Item>>>,
}

impl Default for Reads {
    fn default() -> Self {
        Self(Gather::new(GATHERED, GATHERED_MAX))
    }
}

/// What a read may show, and cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// All that was written.
    Latest,
    /// Perhaps not what was written a moment ago, at half the price.
    Eventual,
}

/// Part of a partition: sort keys from `from` up to and with `to`.
#[derive(Clone, Debug)]
pub struct Span {
    pub partition: String,
    pub from: String,
    pub to: String,
    pub newest_first: bool,
    pub limit: usize,
}

/// Entries of an index, by number.
#[derive(Clone, Debug)]
pub struct Indexed {
    pub partition: String,
    /// From this on.
    pub from: u64,
    /// Up to and with this.
    pub to: u64,
    pub newest_first: bool,
    pub limit: usize,
}

impl Table {
    /// One item, asked for together with others that are asked for at the same time.
    pub async fn get(&self, key: &Key) -> Result<Option<Item>> {
        let (told, answer) = oneshot::channel();
        if self.reads.0.push(Read { key: key.clone(), told }) {
            let table = self.clone();
            tokio::spawn(async move {
                while let Some(reads) = table.reads.0.take(together) {
                    table.answer(reads).await;
                }
            });
        }
        answer.await.unwrap_or_else(|_| Err(Error::Unavailable("the host ends".into())))
    }

    async fn answer(&self, reads: Vec<Read>) {
        if let [read] = &*reads {
            let answer = self.get_alone(&read.key).await;
            for read in reads {
                drop(read.told.send(answer.clone()));
            }
            return;
        }
        let found = self.get_all(reads.iter().map(|read| read.key.clone())).await;
        for read in reads {
            let answer = found.as_ref().map(|found| found.get(&read.key).cloned()).map_err(Clone::clone);
            // Who asked may be gone.
            drop(read.told.send(answer));
        }
    }

    async fn get_alone(&self, key: &Key) -> Result<Option<Item>> {
        let request = self.client.get_item().table_name(&self.name).set_key(Some(key.attributes()));
        let answer = request.consistent_read(true).send().await.map_err(|error| failed("GetItem", &error))?;
        Ok(answer.item.map(Item::from))
    }

    /// Those that are there, by key.
    pub async fn get_all(&self, keys: impl IntoIterator<Item = Key>) -> Result<HashMap<Key, Item>> {
        self.get_all_as(Freshness::Latest, keys).await
    }

    /// Those that are there, by key.
    pub async fn get_all_as(
        &self,
        freshness: Freshness,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<HashMap<Key, Item>> {
        let consistent = freshness == Freshness::Latest;
        let mut wanted: Vec<Key> = keys.into_iter().collect();
        wanted.sort_by(|one, other| (&one.pk, &one.sk).cmp(&(&other.pk, &other.sk)));
        wanted.dedup();
        let mut found = HashMap::new();
        for chunk in wanted.chunks(GETS_MAX) {
            let mut open: Vec<HashMap<String, AttributeValue>> = chunk.iter().map(Key::attributes).collect();
            let mut wait = AGAIN_FIRST;
            while !open.is_empty() {
                let asked = KeysAndAttributes::builder().set_keys(Some(open)).consistent_read(consistent).build();
                let asked = asked.map_err(|error| Error::Failed(error.to_string().into()))?;
                let answer = self.client.batch_get_item().request_items(&self.name, asked).send().await;
                let mut answer = answer.map_err(|error| failed("BatchGetItem", &error))?;
                let items = answer.responses.as_mut().and_then(|tables| tables.remove(&self.name)).unwrap_or_default();
                for item in items.into_iter().map(Item::from) {
                    let key = Key { pk: item.text("pk")?.to_owned(), sk: item.text("sk")?.to_owned() };
                    found.insert(key, item);
                }
                let rest = answer.unprocessed_keys.as_mut().and_then(|tables| tables.remove(&self.name));
                open = rest.map(|rest| rest.keys).unwrap_or_default();
                if !open.is_empty() {
                    tokio::time::sleep(jittered(wait)).await;
                    wait = (wait * 2).min(AGAIN_MAX);
                }
            }
        }
        Ok(found)
    }

    /// At most `limit` items of a partition, in the order of their sort keys.
    pub async fn query(&self, span: Span) -> Result<Vec<Item>> {
        self.query_until(span, |_| false).await
    }

    /// What of a span stands on a page of at most its limit and [`PAGE_BYTES_MAX`], and one item more where there is more; how
    /// many of them the page holds at most, which is always one.
    pub async fn page(&self, span: Span) -> Result<(Vec<Item>, usize)> {
        let limit = span.limit;
        let (mut count, mut bytes) = (0, 0);
        let is_over = |item: &Item| {
            count += 1;
            bytes += item.bytes();
            count > 1 && bytes > PAGE_BYTES_MAX
        };
        let items = self.query_until(Span { limit: limit.saturating_add(1), ..span }, is_over).await?;
        let holds = if bytes > PAGE_BYTES_MAX { items.len().saturating_sub(1).max(1) } else { limit };
        Ok((items, holds))
    }

    /// As [`Table::query`], up to and with the first item that is the last.
    async fn query_until(&self, span: Span, mut is_last: impl FnMut(&Item) -> bool) -> Result<Vec<Item>> {
        let Span { partition, from, to, newest_first, limit } = span;
        if from > to {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut start = None;
        loop {
            let request = self.client.query().table_name(&self.name).consistent_read(true);
            let request = request
                .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
                .expression_attribute_values(":pk", text(&partition))
                .expression_attribute_values(":from", text(&from))
                .expression_attribute_values(":to", text(&to))
                .scan_index_forward(!newest_first)
                .set_limit(i32::try_from(limit - found.len()).ok())
                .set_exclusive_start_key(start);
            let answer = request.send().await.map_err(|error| failed("Query", &error))?;
            for item in answer.items.unwrap_or_default().into_iter().map(Item::from) {
                let ends = is_last(&item);
                found.push(item);
                if ends {
                    return Ok(found);
                }
            }
            start = answer.last_evaluated_key;
            if start.is_none() || found.len() >= limit {
                return Ok(found);
            }
        }
    }

    /// At most `limit` items of the whole table, from behind `after` on in an order of DynamoDB's own, and where to go on.
    pub async fn scan(&self, after: Option<&Key>, limit: usize) -> Result<(Vec<Item>, Option<Key>)> {
        let request = self.client.scan().table_name(&self.name).consistent_read(true);
        let request = request.set_limit(i32::try_from(limit).ok()).set_exclusive_start_key(after.map(Key::attributes));
        let answer = request.send().await.map_err(|error| failed("Scan", &error))?;
        let items = answer.items.unwrap_or_default().into_iter().map(Item::from).collect();
        Ok((items, answer.last_evaluated_key.map(|key| Item::from(key).key()).transpose()?))
    }

    /// Keys of items, and what the index sorts them by. What was written a moment ago may not be in it yet.
    pub async fn indexed(&self, indexed: Indexed) -> Result<Vec<(Key, u64)>> {
        let Indexed { partition, from, to, newest_first, limit } = indexed;
        if from > to {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut start = None;
        loop {
            let request = self.client.query().table_name(&self.name).index_name(names::LOG_INDEX);
            let request = request
                .key_condition_expression("lp = :lp AND ls BETWEEN :from AND :to")
                .expression_attribute_values(":lp", text(&partition))
                .expression_attribute_values(":from", number(from))
                .expression_attribute_values(":to", number(to))
                .scan_index_forward(!newest_first)
                .set_limit(i32::try_from(limit - found.len()).ok())
                .set_exclusive_start_key(start);
            let answer = request.send().await.map_err(|error| failed("Query", &error))?;
            for item in answer.items.unwrap_or_default().into_iter().map(Item::from) {
                let key = Key { pk: item.text("pk")?.to_owned(), sk: item.text("sk")?.to_owned() };
                found.push((key, item.number(names::LOG_SORT)?));
            }
            start = answer.last_evaluated_key;
            if start.is_none() || found.len() >= limit {
                return Ok(found);
            }
        }
    }

    /// Orders of a customer, newest first: their ids, from below `before` on.
    pub async fn of_customer(&self, customer: &str, before: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let request = self.client.query().table_name(&self.name).index_name(names::CUSTOMER_INDEX);
        let request = request.expression_attribute_values(":cp", text(customer)).scan_index_forward(false);
        let request = match before {
            Some(before) => request
                .key_condition_expression("cp = :cp AND cs < :before")
                .expression_attribute_values(":before", text(before)),
            None => request.key_condition_expression("cp = :cp"),
        };
        let answer = request.set_limit(i32::try_from(limit).ok()).send().await;
        let items = answer.map_err(|error| failed("Query", &error))?.items.unwrap_or_default();
        items.into_iter().map(|item| Item::from(item).text(names::CUSTOMER_SORT).map(str::to_owned)).collect()
    }

    /// How many items a partition has.
    pub async fn count(&self, partition: &str) -> Result<Tally> {
        let (mut tally, mut start) = (Tally::default(), None);
        loop {
            let request = self.client.query().table_name(&self.name).select(aws_sdk_dynamodb::types::Select::Count);
            let request = request
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", text(partition))
                .set_exclusive_start_key(start);
            let answer = request.send().await.map_err(|error| failed("Query", &error))?;
            tally.items += u64::try_from(answer.count).unwrap_or_default();
            tally.answers += 1;
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(tally);
            }
        }
    }
}

/// A count, and how many answers of the table it took: each is of a megabyte at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub items: u64,
    pub answers: u32,
}

/// As many as fit into one request; who asks for the same is told the same.
fn together(waiting: &mut std::collections::VecDeque<Read>) -> Vec<Read> {
    let (mut keys, mut reads) = (HashSet::new(), Vec::new());
    while let Some(read) = waiting.pop_front() {
        if !keys.contains(&read.key) && keys.len() == GETS_MAX {
            waiting.push_front(read);
            break;
        }
        keys.insert(read.key.clone());
        reads.push(read);
    }
    reads
}
