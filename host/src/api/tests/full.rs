//! A store that accepts nothing.

use super::*;

/// A store with a full disk: empty to read, and never accepting.
pub struct Full;

fn full<T>() -> Result<T> {
    Err(Error::Unavailable("the disk is full".into()))
}

#[async_trait]
impl Intake for Full {
    async fn place(&self, _: Placement) -> Result<Durable<Placed>> {
        full()
    }

    async fn change(&self, _: OrderId, _: Change) -> Result<Durable<Changed>> {
        full()
    }

    async fn publish(&self, _: Vec<Custom>) -> Result<Durable<Vec<Published>>> {
        full()
    }
}

#[async_trait]
impl Journal for Full {
    async fn order(&self, _: OrderId) -> Result<Option<Order>> {
        Ok(None)
    }

    async fn orders(&self, _: OrderQuery) -> Result<Page<Order>> {
        Ok(Page { items: Vec::new(), next: None })
    }

    async fn events_of(&self, _: OrderId) -> Result<Vec<Arc<Event>>> {
        Ok(Vec::new())
    }

    async fn deliveries_of(&self, _: OrderId) -> Result<Vec<DeliveryReport>> {
        Ok(Vec::new())
    }

    async fn events_after(&self, _: Option<Position>, _: usize) -> Result<Vec<Arc<Event>>> {
        Ok(Vec::new())
    }

    async fn newest(&self) -> Result<Option<Position>> {
        Ok(None)
    }

    async fn positions(&self, _: Option<Position>, _: Position, _: usize) -> Result<Vec<Position>> {
        Ok(Vec::new())
    }

    fn settled(&self) -> Option<Position> {
        None
    }

    async fn messages(&self, _: Option<String>, _: usize) -> Result<Page<MessageReport>> {
        Ok(Page { items: Vec::new(), next: None })
    }

    async fn records(&self, _: &str, _: Option<String>, _: usize) -> Result<Page<String>> {
        Ok(Page { items: Vec::new(), next: None })
    }

    async fn ready(&self) -> Result<()> {
        full()
    }
}

#[async_trait]
impl Timelines for Full {
    async fn timeline(&self, _: OrderId, _: Option<String>, _: usize) -> Result<Page<Moment>> {
        full()
    }
}

#[async_trait]
impl Consumers for Full {
    async fn attach(&self, _: &ConsumerName, _: Start) -> Result<Arc<dyn Inbox>> {
        full()
    }

    async fn introduce(&self, _: &ConsumerName, _: Start) -> Result<()> {
        full()
    }

    async fn known(&self) -> Result<Vec<ConsumerReport>> {
        Ok(Vec::new())
    }

    async fn state(&self, _: &ConsumerName, _: StateQuery) -> Result<StatePage> {
        full()
    }

    async fn forget(&self, _: &ConsumerName) -> Result<Durable<Forgotten>> {
        full()
    }

    async fn set_pause(&self, _: &ConsumerName, _: Option<Pause>) -> Result<Durable<bool>> {
        full()
    }

    async fn pause(&self, _: &ConsumerName) -> Result<Option<Pause>> {
        Ok(None)
    }
}

#[async_trait]
impl Upkeep for Full {
    fn retain(&self, _: Retention) {}

    async fn check(&self, _: CheckPlace) -> Result<CheckStep> {
        full()
    }

    fn check_rate(&self) -> Option<Rate> {
        None
    }

    async fn backup(&self, _: tokio::sync::watch::Sender<Copied>) -> Result<Snapshot> {
        full()
    }
}

#[async_trait]
impl DeadLetters for Full {
    async fn list(&self, _: &ConsumerName, _: LetterQuery) -> Result<Page<DeadLetter>> {
        full()
    }

    async fn causes(&self, _: &ConsumerName, _: usize) -> Result<Vec<CauseCount>> {
        full()
    }

    async fn show(&self, _: &ConsumerName, _: EventId) -> Result<Option<LetterShown>> {
        full()
    }

    async fn retry(&self, _: &ConsumerName, _: Selection) -> Result<Durable<Redriven>> {
        full()
    }

    async fn retry_edited(&self, _: &ConsumerName, _: EventId, _: event::Body) -> Result<Durable<bool>> {
        full()
    }

    async fn discard(&self, _: &ConsumerName, _: Selection) -> Result<Durable<Redriven>> {
        full()
    }
}

#[async_trait]
impl Backfills for Full {
    async fn count(&self, _: &ConsumerName, _: &Backfill) -> Result<Option<u64>> {
        full()
    }

    async fn start(&self, _: &ConsumerName, _: Backfill) -> Result<Durable<Started>> {
        full()
    }

    async fn latest(&self, _: &ConsumerName) -> Result<Option<BackfillReport>> {
        full()
    }

    async fn steer(&self, _: &ConsumerName, _: BackfillStep) -> Result<Durable<Steered>> {
        full()
    }
}

impl Catalogue for Full {
    fn list(&self) -> Vec<ConsumerStatus> {
        Vec::new()
    }

    fn forget(&self, _: &ConsumerName) {}

    fn shadow(&self, _: &ConsumerName) -> Option<crate::delivery::shadow::Report> {
        None
    }

    fn let_go(&self, _: Vec<Hash>) {}
}

#[async_trait]
impl Versions for Full {
    async fn record(&self, _: &ConsumerName, _: Turn, _: usize) -> Result<Durable<Vec<Hash>>> {
        full()
    }

    async fn standing(&self, _: &ConsumerName) -> Result<Option<Standing>> {
        full()
    }

    async fn history(&self, _: &ConsumerName, _: usize) -> Result<Vec<HistoryEntry>> {
        full()
    }

    async fn kept(&self) -> Result<BTreeSet<Hash>> {
        full()
    }
}

#[async_trait]
impl Layouts for Full {
    async fn lay_out(&self, _: &ConsumerName, _: u32, _: u64, _: bool) -> Result<Durable<LaidOut>> {
        full()
    }

    async fn former(&self, _: &ConsumerName) -> Result<Option<Former>> {
        full()
    }

    async fn set_out(&self, _: &ConsumerName, _: WayBack, _: event::Subscriptions) -> Result<Durable<SetOut>> {
        full()
    }

    async fn way_back(&self, _: &ConsumerName) -> Result<Option<WayBack>> {
        full()
    }

    fn handed_over(&self) -> Arc<tokio::sync::Notify> {
        Arc::default()
    }
}

#[async_trait]
impl Steering for Full {
    async fn step(&self, _: &ConsumerName, _: Step) -> Result<(), Refusal> {
        Err(Refusal::Store(Error::Unavailable("the disk is full".into())))
    }
}

pub fn full_store() -> Api {
    let store = Arc::new(Full);
    Api {
        intake: store.clone(),
        journal: store.clone(),
        timelines: store.clone(),
        consumers: store.clone(),
        dead_letters: store.clone(),
        upkeep: store.clone(),
        backfills: store.clone(),
        versions: store.clone(),
        layouts: store.clone(),
        fleet: Arc::new(crate::backend::Alone),
        catalogue: store.clone(),
        steering: store,
        metrics: Arc::new(|| Box::pin(std::future::ready(String::new()))),
        hosts: Hosts::Any,
        stopping: CancellationToken::new(),
    }
}
