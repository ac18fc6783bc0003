//! A consumer that is backfilled while it lives, against all that was ever recorded.

use super::*;

#[derive(Clone, Debug)]
pub enum Step {
    Place,
    Confirm(usize),
    Publish(u8),
    Lease,
    End(usize, u8),
    Steer(BackfillStep),
    Reopen,
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Place),
        3 => (0_usize..12).prop_map(Step::Confirm),
        2 => (0_u8..3).prop_map(Step::Publish),
        6 => Just(Step::Lease),
        5 => (0_usize..8, 0_u8..6).prop_map(|(which, how)| Step::End(which, how)),
        1 => prop_oneof![Just(BackfillStep::Pause), Just(BackfillStep::Resume)].prop_map(Step::Steer),
        1 => Just(Step::Reopen),
    ]
}

/// A consumer, what it was handed, and what it has done, in order.
pub struct Story {
    home: Place,
    store: Option<Backend>,
    inbox: Option<Arc<dyn Inbox>>,
    orders: Vec<Order>,
    confirmed: BTreeSet<usize>,
    /// Events that were recorded.
    recorded: usize,
    leased: Vec<Delivery>,
    done: Vec<Arc<Event>>,
    /// What was handed out before the backfill began: no promise of order binds it.
    early: BTreeSet<u64>,
    began: bool,
}

impl Story {
    pub async fn run(home: Place, history: Vec<Step>, before: Vec<Step>, during: Vec<Step>) {
        let backend = home.open().await;
        let mut story = Self {
            home,
            store: Some(backend),
            inbox: None,
            orders: vec![],
            confirmed: BTreeSet::new(),
            recorded: 0,
            leased: vec![],
            done: vec![],
            early: BTreeSet::new(),
            began: false,
        };
        story.play(history).await;
        story.inbox = Some(attach(story.backend()).await);
        let began = story.recorded;
        story.play(before).await;
        story.began = true;
        let report = start(story.backend(), everything()).await;
        assert_eq!(report.events, u64::try_from(began).unwrap());
        story.play(during).await;
        story.end().await;
    }

    fn backend(&self) -> &Backend {
        self.store.as_ref().unwrap()
    }

    async fn play(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Place => {
                    self.orders.push(place(self.backend()).await);
                    self.recorded += 1;
                }
                Step::Confirm(which) => {
                    if let Some(order) = self.orders.get(which) {
                        confirm(self.backend(), order.id).await;
                        self.recorded += usize::from(self.confirmed.insert(which));
                    }
                }
                Step::Publish(subject) => {
                    publish(self.backend(), &format!("subject-{subject}")).await;
                    self.recorded += 1;
                }
                Step::Lease => {
                    if let Some(delivery) = self.inbox.as_ref().and_then(|inbox| inbox.lease()) {
                        self.early.extend((!self.began).then_some(delivery.event.position.get()));
                        self.leased.push(delivery);
                    }
                }
                Step::End(which, how) => self.finish(which, how).await,
                Step::Steer(step) => {
                    steer_if_any(self.backend(), step).await;
                }
                Step::Reopen => self.reopen().await,
            }
        }
    }

    async fn finish(&mut self, which: usize, how: u8) {
        let (Some(inbox), false) = (&self.inbox, self.leased.is_empty()) else { return };
        let delivery = self.leased.remove(which % self.leased.len());
        let cause = Cause::new(CauseKind::Reject, "no");
        let settlement = match how {
            0 => Settlement::Released,
            1 => Settlement::Dead { cause, ran: ran() },
            2 => Settlement::Retry { at: Timestamp::now(), cause, ran: ran() },
            _ => {
                self.done.push(Arc::clone(&delivery.event));
                done(Effects {
                    adjustments: vec![Adjustment { key: "done".into(), by: 1, floor: None }],
                    ..Effects::default()
                })
            }
        };
        accept(inbox, delivery, settlement).await;
    }

    /// What was handed out and not finished is forgotten, as in a crash.
    async fn reopen(&mut self) {
        self.leased.clear();
        let attached = self.inbox.take().is_some();
        let store = self.store.take().unwrap();
        self.store = Some(self.home.reopen(store).await);
        if attached {
            self.inbox = Some(attach(self.backend()).await);
        }
    }

    async fn end(mut self) {
        steer_if_any(self.backend(), BackfillStep::Resume).await;
        let deadline = Deadline::new();
        loop {
            while !self.leased.is_empty() {
                self.finish(0, u8::MAX).await;
            }
            let inbox = Arc::clone(self.inbox.as_ref().unwrap());
            while let Some(delivery) = inbox.lease() {
                self.leased.push(delivery);
                self.finish(0, u8::MAX).await;
            }
            self.backend().dead_letters.retry(&name(CONSUMER), Which::All.first(100)).await.unwrap().into_inner();
            let (report, backfill) = (report(self.backend(), CONSUMER).await, latest(self.backend()).await);
            if report.pending == 0 && backfill.state == BackfillState::Done {
                break;
            }
            deadline.pause((report, self.done.len())).await;
        }
        self.judge().await;
    }

    async fn judge(&self) {
        let journal = events(self.backend(), self.recorded).await;
        let lanes = |events: &[Arc<Event>]| {
            let mut lanes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for event in events.iter().filter(|event| !self.early.contains(&event.position.get())) {
                let text = match event.lane() {
                    Lane::Order(id) => id.to_string(),
                    Lane::Subject(subject) => subject.to_string(),
                };
                lanes.entry(text).or_default().push(event.position.get());
            }
            lanes
        };
        assert_eq!(lanes(&self.done), lanes(&journal), "each lane in journal order, each event once");
        assert_eq!(self.done.len(), journal.len());
        let query = StateQuery { limit: 10, ..StateQuery::default() };
        let state = self.backend().consumers.state(&name(CONSUMER), query).await.unwrap();
        assert_eq!(state.counters.first().map_or(0, |(_, count)| *count), i64::try_from(journal.len()).unwrap());
    }
}

async fn steer_if_any(backend: &Backend, step: BackfillStep) -> Option<Steered> {
    backend.backfills.steer(&name(CONSUMER), step).await.ok().map(|steered| steered.into_inner())
}
