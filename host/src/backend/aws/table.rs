//! The table: reads, and writes that hold together.
//!
//! **Invariants**
//! - What is decided on is read consistently; the index alone is not, and only shows where to look.
//! - A transaction that was not answered, or that another one was in the way of, is sent again as the very same: its token
//!   makes it one. It is refused only by its own conditions.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, ConsumedCapacity, Delete, KeysAndAttributes, Put, ReturnConsumedCapacity,
    TransactWriteItem, Update,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::item::{Item, Key, number, text};
use super::resources::names;
use crate::backend::{Error, Result};
use crate::telemetry::meters;

/// What DynamoDB takes in one transaction.
pub const WRITES_MAX: usize = 100;
/// Keys in one `BatchGetItem`.
const GETS_MAX: usize = 100;
/// How long a transaction is sent again before somebody is told that it may be done or not. Its token is good for 10 minutes.
const TRANSACT_MAX: Duration = Duration::from_secs(30);
/// Between two tries, as the first and the longest wait.
const AGAIN_FIRST: Duration = Duration::from_millis(10);
const AGAIN_MAX: Duration = Duration::from_millis(1_000);

/// The table of one prefix. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Table {
    client: aws_sdk_dynamodb::Client,
    name: String,
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
    pub fn new(client: aws_sdk_dynamodb::Client, name: String) -> Self {
        Self { client, name }
    }

    pub async fn get(&self, key: &Key) -> Result<Option<Item>> {
        let request = self.client.get_item().table_name(&self.name).set_key(Some(key.attributes()));
        let answer = request.consistent_read(true).send().await.map_err(|error| failed("GetItem", &error))?;
        Ok(answer.item.map(Item::from))
    }

    /// Those that are there, by key.
    pub async fn get_all(&self, keys: impl IntoIterator<Item = Key>) -> Result<HashMap<Key, Item>> {
        let mut wanted: Vec<Key> = keys.into_iter().collect();
        wanted.sort_by(|one, other| (&one.pk, &one.sk).cmp(&(&other.pk, &other.sk)));
        wanted.dedup();
        let mut found = HashMap::new();
        for chunk in wanted.chunks(GETS_MAX) {
            let mut open: Vec<HashMap<String, AttributeValue>> = chunk.iter().map(Key::attributes).collect();
            let mut wait = AGAIN_FIRST;
            while !open.is_empty() {
                let asked = KeysAndAttributes::builder().set_keys(Some(open)).consistent_read(true).build();
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
            found.extend(answer.items.unwrap_or_default().into_iter().map(Item::from));
            start = answer.last_evaluated_key;
            if start.is_none() || found.len() >= limit {
                return Ok(found);
            }
        }
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

    /// How many items a partition has, counted up to about `limit`.
    pub async fn count(&self, partition: &str, limit: u64) -> Result<u64> {
        let (mut count, mut start) = (0, None);
        loop {
            let request = self.client.query().table_name(&self.name).select(aws_sdk_dynamodb::types::Select::Count);
            let request = request
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", text(partition))
                .set_exclusive_start_key(start);
            let answer = request.send().await.map_err(|error| failed("Query", &error))?;
            count += u64::try_from(answer.count).unwrap_or_default();
            start = answer.last_evaluated_key;
            if start.is_none() || count >= limit {
                return Ok(count);
            }
        }
    }

    /// Deletes every item whose partition begins with `prefix`, by going through the whole table.
    pub async fn clear(&self, prefix: &str) -> Result<()> {
        let mut start = None;
        loop {
            let request = self.client.scan().table_name(&self.name).filter_expression("begins_with(pk, :prefix)");
            let request = request
                .projection_expression("pk, sk")
                .expression_attribute_values(":prefix", text(prefix))
                .set_exclusive_start_key(start);
            let answer = request.send().await.map_err(|error| failed("Scan", &error))?;
            for item in answer.items.unwrap_or_default().into_iter().map(Item::from) {
                self.delete(&Key { pk: item.text("pk")?.to_owned(), sk: item.text("sk")?.to_owned() }).await?;
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(());
            }
        }
    }

    pub async fn clear_partition(&self, partition: &str) -> Result<()> {
        let (from, to) = ("\u{1}".to_owned(), "\u{10ffff}".to_owned());
        let span = Span { partition: partition.to_owned(), from, to, newest_first: false, limit: usize::MAX };
        for item in self.query(span).await? {
            self.delete(&Key { pk: partition.to_owned(), sk: item.text("sk")?.to_owned() }).await?;
        }
        Ok(())
    }

    pub async fn delete(&self, key: &Key) -> Result<()> {
        let request = self.client.delete_item().table_name(&self.name).set_key(Some(key.attributes()));
        request.send().await.map(drop).map_err(|error| failed("DeleteItem", &error))
    }

    /// One update. `None` where its condition does not hold, else the item as it is then.
    pub async fn update(&self, key: &Key, change: Change) -> Result<Option<Item>> {
        let request = self.client.update_item().table_name(&self.name).set_key(Some(key.attributes()));
        let request = request
            .update_expression(change.update)
            .set_condition_expression(change.condition)
            .set_expression_attribute_names(some(change.names))
            .set_expression_attribute_values(some(change.values))
            .return_values(aws_sdk_dynamodb::types::ReturnValue::AllNew);
        match request.send().await {
            Ok(answer) => Ok(Some(answer.attributes.map(Item::from).unwrap_or_default())),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(None),
            Err(error) => Err(failed("UpdateItem", &error)),
        }
    }

    /// All of the writes or none. Those whose conditions do not hold are in the error, by what they were marked with.
    pub async fn transact<M>(&self, transaction: Transaction<M>) -> Result<Result<(), Vec<M>>> {
        let Transaction { writes } = transaction;
        let (marks, writes): (Vec<M>, Vec<Write>) = writes.into_iter().unzip();
        let writes = writes.into_iter().map(|write| write.item(&self.name)).collect::<Result<Vec<_>>>()?;
        let token = Uuid::now_v7().to_string();
        let deadline = Instant::now() + TRANSACT_MAX;
        let mut wait = AGAIN_FIRST;
        loop {
            let request = self.client.transact_write_items().set_transact_items(Some(writes.clone()));
            let request = request.client_request_token(&token).return_consumed_capacity(ReturnConsumedCapacity::Total);
            let error = match request.send().await {
                Ok(answer) => {
                    let units: f64 =
                        answer.consumed_capacity().iter().filter_map(ConsumedCapacity::capacity_units).sum();
                    meters::aws_write_units(units);
                    return Ok(Ok(()));
                }
                Err(error) => error,
            };
            match verdict(&error) {
                Verdict::Refused(refused) => {
                    let refused = marks.into_iter().zip(refused).filter_map(|(mark, it)| it.then_some(mark));
                    return Ok(Err(refused.collect()));
                }
                Verdict::Again if Instant::now() < deadline => {
                    tokio::time::sleep(jittered(wait)).await;
                    wait = (wait * 2).min(AGAIN_MAX);
                }
                Verdict::Again | Verdict::Failed => return Err(failed("TransactWriteItems", &error)),
            }
        }
    }
}

enum Verdict {
    /// Which of the writes.
    Refused(Vec<bool>),
    Again,
    Failed,
}

fn verdict(error: &SdkError<TransactWriteItemsError>) -> Verdict {
    match error {
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => return Verdict::Again,
        SdkError::ConstructionFailure(_) => return Verdict::Failed,
        _ => {}
    }
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
            let codes: Vec<&str> =
                cancelled.cancellation_reasons().iter().map(|reason| reason.code().unwrap_or("None")).collect();
            let refused: Vec<bool> = codes.iter().map(|code| *code == "ConditionalCheckFailed").collect();
            if refused.contains(&true) {
                return Verdict::Refused(refused);
            }
            let passing =
                ["None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"].as_slice();
            if codes.iter().all(|code| passing.contains(code)) { Verdict::Again } else { Verdict::Failed }
        }
        _ if passes(error.code()) => Verdict::Again,
        _ => Verdict::Failed,
    }
}

/// Whether the same request may succeed later.
fn passes(code: Option<&str>) -> bool {
    matches!(
        code,
        Some(
            "InternalServerError"
                | "LimitExceededException"
                | "ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "ServiceUnavailable"
                | "ThrottlingException"
                | "TransactionConflictException"
                | "TransactionInProgressException"
        )
    )
}

/// From half of `wait` to all of it.
pub fn jittered(wait: Duration) -> Duration {
    wait / 2 + (wait / 2).mul_f64(fastrand::f64())
}

/// What a call of a service ended with, as the ports say it.
pub fn failed<E, R>(operation: &str, error: &SdkError<E, R>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let shown = aws_sdk_dynamodb::error::DisplayErrorContext(error);
    let text = format!("{operation} of AWS did not succeed: {shown}");
    let transient = match error {
        SdkError::ServiceError(_) => passes(error.code()),
        SdkError::ConstructionFailure(_) => false,
        _ => true,
    };
    if transient { Error::Unavailable(text.into()) } else { Error::Failed(text.into()) }
}

fn some<V>(map: HashMap<String, V>) -> Option<HashMap<String, V>> {
    (!map.is_empty()).then_some(map)
}

/// An update of one item, and the condition under which it is made. Expressions as DynamoDB reads them.
#[derive(Clone, Debug, Default)]
pub struct Change {
    update: String,
    condition: Option<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Change {
    /// `SET …`, `REMOVE …` or both.
    pub fn of(update: impl Into<String>) -> Self {
        Self { update: update.into(), ..Self::default() }
    }

    #[must_use]
    pub fn update(mut self, update: impl Into<String>) -> Self {
        self.update = update.into();
        self
    }

    /// What `name`, such as `#ttl`, stands for where the attribute's own name is a word of DynamoDB.
    #[must_use]
    pub fn name(mut self, name: &str, attribute: &str) -> Self {
        self.names.insert(name.to_owned(), attribute.to_owned());
        self
    }

    /// What the attributes are after `SET a = :a, …`.
    #[cfg(test)]
    pub fn written(&self) -> HashMap<String, AttributeValue> {
        let set = self.update.trim_start_matches("SET ").split(" REMOVE ").next().unwrap_or_default();
        let pairs = set.split(", ").filter_map(|pair| pair.split_once(" = "));
        pairs.filter_map(|(name, value)| Some((name.to_owned(), self.values.get(value)?.clone()))).collect()
    }

    #[must_use]
    pub fn only_if(mut self, condition: impl Into<String>) -> Self {
        self.condition = Some(condition.into());
        self
    }

    /// What `name`, such as `:value`, stands for.
    #[must_use]
    pub fn value(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }
}

/// Writes that are made together or not at all. Each is marked with what a refusal of it means.
#[derive(Debug)]
pub struct Transaction<M> {
    writes: Vec<(M, Write)>,
}

impl<M> Default for Transaction<M> {
    fn default() -> Self {
        Self { writes: Vec::new() }
    }
}

#[derive(Debug)]
enum Write {
    /// Where nothing is yet.
    New(Item),
    Put(Item),
    Update(Key, Change),
    /// Nothing is written, and the condition of the change must hold.
    Check(Key, Change),
    /// The condition of the change must hold.
    Delete(Key, Change),
}

impl<M> Transaction<M> {
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    pub fn create(&mut self, mark: M, item: Item) {
        self.writes.push((mark, Write::New(item)));
    }

    pub fn put(&mut self, mark: M, item: Item) {
        self.writes.push((mark, Write::Put(item)));
    }

    pub fn update(&mut self, mark: M, key: Key, change: Change) {
        self.writes.push((mark, Write::Update(key, change)));
    }

    pub fn check(&mut self, mark: M, key: Key, change: Change) {
        self.writes.push((mark, Write::Check(key, change)));
    }

    /// The condition of `change` must hold.
    pub fn delete(&mut self, mark: M, key: Key, change: Change) {
        self.writes.push((mark, Write::Delete(key, change)));
    }
}

impl Write {
    fn item(self, table: &str) -> Result<TransactWriteItem> {
        let wrong = |error: aws_sdk_dynamodb::error::BuildError| Error::Failed(error.to_string().into());
        let item = TransactWriteItem::builder();
        Ok(match self {
            Self::New(new) => {
                let put = Put::builder().table_name(table).set_item(Some(new.0));
                item.put(put.condition_expression("attribute_not_exists(pk)").build().map_err(wrong)?)
            }
            Self::Put(new) => item.put(Put::builder().table_name(table).set_item(Some(new.0)).build().map_err(wrong)?),
            Self::Update(key, Change { update, condition, names, values }) => item.update(
                Update::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .update_expression(update)
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(some(names))
                    .set_expression_attribute_values(some(values))
                    .build()
                    .map_err(wrong)?,
            ),
            Self::Check(key, Change { condition, names, values, .. }) => item.condition_check(
                ConditionCheck::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(some(names))
                    .set_expression_attribute_values(some(values))
                    .build()
                    .map_err(wrong)?,
            ),
            Self::Delete(key, Change { condition, names, values, .. }) => item.delete(
                Delete::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(some(names))
                    .set_expression_attribute_values(some(values))
                    .build()
                    .map_err(wrong)?,
            ),
        }
        .build())
    }
}
