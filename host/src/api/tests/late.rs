//! Streams of a journal in which events come to stand in front of others, as where hosts share it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::*;
use crate::api::limits::STREAM_LOOK_AGAIN;
use crate::clock::Timestamp;
use crate::event::Body as Told;

/// Events at positions, and up to where no other comes to stand.
#[derive(Default)]
struct Young {
    events: Mutex<BTreeMap<u64, Arc<Event>>>,
    settled: AtomicU64,
}

impl Young {
    fn add(&self, position: u64) {
        let data = RawValue::from_string("null".to_owned()).unwrap().into();
        let (kind, source, subject) = ("com.a".into(), "/a".into(), position.to_string().into());
        let body = Told::Custom(Custom { kind, source, origin_id: None, subject, order_id: None, data });
        let (id, position) = (EventId::generate(), Position::new(position).unwrap());
        let event = Event { id, position, time: Timestamp::now(), cause: None, depth: 0, body };
        self.events.lock().insert(position.get(), Arc::new(event));
    }

    fn settle(&self, position: u64) {
        self.settled.store(position, Ordering::SeqCst);
    }
}

#[async_trait]
impl Journal for Young {
    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        Full.order(id).await
    }

    async fn orders(&self, query: OrderQuery) -> Result<Page<Order>> {
        Full.orders(query).await
    }

    async fn events_of(&self, id: OrderId) -> Result<Vec<Arc<Event>>> {
        Full.events_of(id).await
    }

    async fn deliveries_of(&self, id: OrderId) -> Result<Vec<DeliveryReport>> {
        Full.deliveries_of(id).await
    }

    async fn events_after(&self, after: Option<Position>, limit: usize) -> Result<Vec<Arc<Event>>> {
        let after = after.map_or(0, Position::get);
        Ok(self.events.lock().range(after + 1..).take(limit).map(|(_, event)| Arc::clone(event)).collect())
    }

    async fn newest(&self) -> Result<Option<Position>> {
        Ok(self.events.lock().keys().next_back().copied().and_then(Position::new))
    }

    async fn positions(&self, after: Option<Position>, to: Position, limit: usize) -> Result<Vec<Position>> {
        let after = after.map_or(0, Position::get);
        Ok(self.events.lock().range(after + 1..=to.get()).take(limit).filter_map(|it| Position::new(*it.0)).collect())
    }

    fn settled(&self) -> Option<Position> {
        Position::new(self.settled.load(Ordering::SeqCst).max(1))
    }

    async fn messages(&self, after: Option<String>, limit: usize) -> Result<Page<MessageReport>> {
        Full.messages(after, limit).await
    }

    async fn records(&self, dataset: &str, after: Option<String>, limit: usize) -> Result<Page<String>> {
        Full.records(dataset, after, limit).await
    }

    async fn ready(&self) -> Result<()> {
        Full.ready().await
    }
}

struct Stream {
    body: Body,
    ids: Vec<String>,
}

impl Stream {
    async fn open(journal: &Arc<Young>, query: &str, last: Option<&str>) -> Self {
        let mut request = Request::builder().uri(format!("/v1/events{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let api = Api { journal: Arc::clone(journal) as _, ..full_store() };
        let answer = router(api).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        Self { body: answer.into_body(), ids: Vec::new() }
    }

    /// What the next pieces tell: subjects, and what is left out as `after..before`. It ends with so many.
    async fn tells(&mut self, count: usize) -> Vec<String> {
        let mut told = Vec::new();
        while told.len() < count {
            let piece = self.body.frame().await.unwrap().unwrap().into_data().unwrap();
            let text = String::from_utf8(piece.to_vec()).unwrap();
            self.ids.extend(text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned));
            for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
                let data: Value = serde_json::from_str(data).unwrap();
                told.push(match data["subject"].as_str() {
                    Some(subject) => subject.to_owned(),
                    None => format!("{}..{}", data["after"], data["before"]),
                });
            }
        }
        told
    }

    fn last(&self) -> &str {
        self.ids.last().unwrap()
    }
}

fn young(positions: &[u64]) -> Arc<Young> {
    let journal = Arc::new(Young::default());
    positions.iter().for_each(|position| journal.add(*position));
    journal
}

#[tokio::test]
async fn what_comes_to_stand_in_front_of_what_was_told_is_told_once_it_has_settled() {
    let journal = young(&[10, 30]);
    let mut stream = Stream::open(&journal, "?after=0", None).await;
    assert_eq!(stream.tells(2).await, ["10", "30"]);
    journal.add(20);
    journal.add(40);
    assert_eq!(stream.tells(1).await, ["40"]);
    tokio::time::sleep(STREAM_LOOK_AGAIN * 2).await;
    journal.add(50);
    assert_eq!(stream.tells(1).await, ["50"], "others may still come there");
    journal.settle(45);
    assert_eq!(stream.tells(1).await, ["20"]);
    journal.settle(60);
    journal.add(70);
    assert_eq!(stream.tells(1).await, ["70"], "and not once more");
}

#[tokio::test]
async fn a_stream_that_is_resumed_goes_on_with_what_it_was_told_or_says_that_something_is_missing() {
    let journal = young(&[10, 30]);
    let mut stream = Stream::open(&journal, "?after=0", None).await;
    assert_eq!(stream.tells(2).await, ["10", "30"]);
    let id = stream.last().to_owned();

    let mut resumed = Stream::open(&journal, "", Some(&id)).await;
    journal.add(20);
    journal.add(40);
    assert_eq!(resumed.tells(1).await, ["40"]);
    journal.settle(45);
    assert_eq!(resumed.tells(1).await, ["20"], "it came after the stream was resumed");

    let mut late = Stream::open(&journal, "", Some(&id)).await;
    assert_eq!(late.tells(2).await, ["0..31", "40"], "it came before, and nobody knows which one it is");
    let mut whole = Stream::open(&journal, "", Some(resumed.last())).await;
    journal.add(90);
    assert_eq!(whole.tells(1).await, ["90"]);
}

#[tokio::test]
async fn new_events_are_those_that_come_and_what_is_yet_to_come_is_waited_for() {
    let journal = young(&[10, 30]);
    let mut new = Stream::open(&journal, "", None).await;
    let mut waits = Stream::open(&journal, "?after=50", None).await;
    journal.add(20);
    journal.add(40);
    assert_eq!(new.tells(1).await, ["40"]);
    journal.settle(45);
    assert_eq!(new.tells(1).await, ["20"], "it is new, though it stands in front");
    journal.add(60);
    assert_eq!(waits.tells(1).await, ["60"]);
    assert_eq!(waits.last(), "60-50-1");
}
