//! The table: reads, and writes that hold together.
//!
//! **Invariants**
//! - What is decided on is read consistently; the index alone is not, and only shows where to look.
//! - A transaction that was not answered, or that another one was in the way of, is sent again as the very same: its token
//!   makes it one. It is refused only by its own conditions.

mod reads;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{ConsumedCapacity, DeleteRequest, PutRequest, ReturnConsumedCapacity, WriteRequest};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use self::reads::Reads;
pub use self::reads::{Freshness, Indexed, Span, Tally};
use self::transaction::some;
pub use self::transaction::{Change, Transaction, Write};
use super::clients::{is_of_another, said};
use super::item::{Item, Key, text};
use crate::backend::{Error, Result};
use crate::telemetry::meters;

/// What DynamoDB takes in one transaction.
pub const WRITES_MAX: usize = 100;
/// Items in one `BatchWriteItem`.
pub const PUTS_MAX: usize = 25;
/// How long a transaction is sent again before somebody is told that it may be done or not. Its token is good for 10 minutes.
const TRANSACT_MAX: Duration = Duration::from_secs(30);
/// Between two tries, as the first and the longest wait.
const AGAIN_FIRST: Duration = Duration::from_millis(10);
const AGAIN_MAX: Duration = Duration::from_millis(1_000);
/// How much longer an answer is waited for in a hurry. The client tries again by itself, and may be between two tries.
const HURRIED_MAX: Duration = Duration::from_millis(300);

/// The table of one prefix. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Table {
    client: aws_sdk_dynamodb::Client,
    name: String,
    reads: Arc<Reads>,
    /// Whether what does not succeed at once is given up.
    hurries: Arc<watch::Sender<bool>>,
}

impl Table {
    pub fn new(client: aws_sdk_dynamodb::Client, name: String) -> Self {
        Self { client, name, reads: Arc::default(), hurries: Arc::new(watch::Sender::new(false)) }
    }

    /// From now on no transaction is sent again, whatever became of it, or waited for much longer; or as often as it takes.
    pub fn hurry(&self, hurries: bool) {
        self.hurries.send_replace(hurries);
    }

    #[cfg(test)]
    pub fn hurries(&self) -> bool {
        *self.hurries.borrow()
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

    /// How many items are in partitions that begin and end like this.
    #[cfg(test)]
    pub async fn count_all(&self, prefix: &str, suffix: &str) -> Result<u64> {
        let (mut start, mut count) = (None, 0);
        loop {
            let request = self.client.scan().table_name(&self.name).filter_expression("begins_with(pk, :prefix)");
            let request = request.consistent_read(true).projection_expression("pk");
            let request = request.expression_attribute_values(":prefix", text(prefix)).set_exclusive_start_key(start);
            let answer = request.send().await.map_err(|error| failed("Scan", &error))?;
            for item in answer.items.unwrap_or_default().into_iter().map(Item::from) {
                count += u64::from(item.text("pk")?.ends_with(suffix));
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(count);
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

    /// Those that are there go.
    pub async fn delete_all(&self, keys: Vec<Key>) -> Result<()> {
        let delete = |key: Key| DeleteRequest::builder().set_key(Some(key.attributes())).build();
        let requests = keys.into_iter().map(|key| Ok(WriteRequest::builder().delete_request(delete(key)?).build()));
        self.write_each(requests.collect()).await
    }

    /// Writes items whole, whatever stands there. They may be written twice where an answer is lost, and late.
    pub async fn put_all(&self, items: Vec<Item>) -> Result<()> {
        let put = |item: Item| PutRequest::builder().set_item(Some(item.0)).build();
        let requests = items.into_iter().map(|item| Ok(WriteRequest::builder().put_request(put(item)?).build()));
        self.write_each(requests.collect()).await
    }

    /// Writes of which none is in another's way, in as few requests as it takes.
    async fn write_each(&self, writes: std::result::Result<Vec<WriteRequest>, BuildError>) -> Result<()> {
        let writes = writes.map_err(|error| Error::Failed(error.to_string().into()))?;
        for chunk in writes.chunks(PUTS_MAX) {
            let mut open = chunk.to_vec();
            let mut wait = AGAIN_FIRST;
            while !open.is_empty() {
                let answer = self.client.batch_write_item().request_items(&self.name, open).send().await;
                let mut answer = answer.map_err(|error| failed("BatchWriteItem", &error))?;
                let rest = answer.unprocessed_items.as_mut().and_then(|tables| tables.remove(&self.name));
                open = rest.unwrap_or_default();
                if !open.is_empty() {
                    tokio::time::sleep(jittered(wait)).await;
                    wait = (wait * 2).min(AGAIN_MAX);
                }
            }
        }
        Ok(())
    }

    /// What comes afterwards under the same key stays, however late a try of this arrives.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        self.write(&[&Write::Delete(key.clone(), Change::default())]).await.map(drop)
    }

    /// One update that is made once, however late a try of it arrives: what is decided afterwards stays. Takes twice what
    /// [`Table::update`] takes. `None` where its condition does not hold, else the item as it is soon after.
    pub async fn update_once(&self, key: &Key, change: Change) -> Result<Option<Item>> {
        match self.write(&[&Write::Update(key.clone(), change)]).await? {
            Ok(()) => self.get(key).await,
            Err(_) => Ok(None),
        }
    }

    /// One update. `None` where its condition does not hold, else the item as it is then. It may be made twice where its
    /// answer is lost, and late: its condition has to hold as long as that is right, and to allow for what it did itself.
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
        let done = self.write(&writes.iter().map(|(_, write)| write).collect::<Vec<_>>()).await?;
        Ok(done.map_err(|refused| {
            let marks = writes.into_iter().enumerate().filter(|(index, _)| refused.contains(index));
            marks.map(|(_, (mark, _))| mark).collect()
        }))
    }

    /// All of the writes or none. Those whose conditions do not hold are in the error, by their place in the list.
    pub async fn write(&self, writes: &[&Write]) -> Result<Result<(), Vec<usize>>> {
        let writes = writes.iter().map(|write| write.item(&self.name)).collect::<Result<Vec<_>>>()?;
        let token = Uuid::now_v7().to_string();
        let deadline = Instant::now() + TRANSACT_MAX;
        let mut wait = AGAIN_FIRST;
        let mut hurries = self.hurries.subscribe();
        loop {
            let request = self.client.transact_write_items().set_transact_items(Some(writes.clone()));
            let request = request.client_request_token(&token).return_consumed_capacity(ReturnConsumedCapacity::Total);
            let error = match in_time(Box::pin(request.send()), &mut hurries).await {
                None => {
                    let why = "a transaction was not answered in time; it may be made or not";
                    return Err(Error::Unavailable(why.into()));
                }
                Some(Ok(answer)) => {
                    let units: f64 =
                        answer.consumed_capacity().iter().filter_map(ConsumedCapacity::capacity_units).sum();
                    meters::aws_write_units(units);
                    return Ok(Ok(()));
                }
                Some(Err(error)) => error,
            };
            match verdict(&error) {
                Verdict::Refused(refused) => return Ok(Err(refused)),
                Verdict::Again if Instant::now() < deadline && !*hurries.borrow() => {
                    drop(timeout(jittered(wait), hurries.wait_for(|hurries| *hurries)).await);
                    wait = (wait * 2).min(AGAIN_MAX);
                }
                Verdict::Again | Verdict::Failed => return Err(failed("TransactWriteItems", &error)),
            }
        }
    }
}

/// What `sent` ends with; `None` where it takes longer than there is time.
async fn in_time<T>(sent: impl Future<Output = T>, hurries: &mut watch::Receiver<bool>) -> Option<T> {
    let over = async {
        drop(hurries.wait_for(|hurries| *hurries).await);
        tokio::time::sleep(HURRIED_MAX).await;
    };
    tokio::select! {
        biased;
        done = sent => Some(done),
        () = over => None,
    }
}

enum Verdict {
    /// Which of the writes.
    Refused(Vec<usize>),
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
            let refused = codes.iter().enumerate().filter(|(_, code)| **code == "ConditionalCheckFailed");
            let refused: Vec<usize> = refused.map(|(index, _)| index).collect();
            if !refused.is_empty() {
                return Verdict::Refused(refused);
            }
            let passing =
                ["None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"].as_slice();
            if codes.iter().all(|code| passing.contains(code)) { Verdict::Again } else { Verdict::Failed }
        }
        _ if passes(error.code()) || is_of_another(error) => Verdict::Again,
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
pub fn failed<E>(operation: &str, error: &SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if error.code() == Some("ResourceNotFoundException") {
        let why = "the table of this store is not there, or not whole; `fanfare provision` says what is missing";
        return Error::Unavailable(format!("{why}: {operation} of AWS: {}", said(error)).into());
    }
    let text = format!("{operation} of AWS did not succeed: {}", said(error));
    let transient = match error {
        SdkError::ServiceError(_) => passes(error.code()) || is_of_another(error),
        SdkError::ConstructionFailure(_) => false,
        _ => true,
    };
    if transient { Error::Unavailable(text.into()) } else { Error::Failed(text.into()) }
}
