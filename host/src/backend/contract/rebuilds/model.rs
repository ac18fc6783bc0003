//! A consumer with a past, rebuilt again and again while orders come, deliveries fail and the store is opened anew; and its
//! state is always what the journal says.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::{CONSUMER, attach, done, expected, fail, journal, latest, layouts, listens, rebuild, state, steer};
use crate::backend::contract::wait::{Deadline, tell};
use crate::backend::contract::{Place, name, place, publish, ran, report, report_when};
use crate::backend::{
    Backend, BackfillState, BackfillStep, Cause, CauseKind, Delivery, Finished, Inbox, InboxPolicy, LetterQuery,
    Origin, Settlement, TurnOutcome, Which,
};
use crate::clock::Timestamp;
use crate::effects::Reads;
use crate::order::{Change, OrderId};
use crate::policy::Start;

#[derive(Clone, Debug)]
enum Step {
    Place,
    Cancel(usize),
    Publish(u8),
    Lease,
    End(usize, How),
    Retry,
    Discard,
    Rebuild,
    Steer(BackfillStep),
    /// A version with another layout comes.
    TakeOver,
    /// Back to the state that is kept.
    SetOut,
    /// The directory looks at what the store says.
    Follow,
    Reopen,
    Look,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Done,
    Retry,
    Dead,
    Released,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![6 => Just(How::Done), 1 => Just(How::Retry), 1 => Just(How::Dead), 1 => Just(How::Released)];
    let steer =
        prop_oneof![1 => Just(BackfillStep::Pause), 3 => Just(BackfillStep::Resume), 1 => Just(BackfillStep::Cancel)];
    prop_oneof![
        2 => Just(Step::Place),
        2 => (0_usize..8).prop_map(Step::Cancel),
        3 => (0_u8..3).prop_map(Step::Publish),
        8 => Just(Step::Lease),
        8 => (0_usize..8, how).prop_map(|(which, how)| Step::End(which, how)),
        1 => Just(Step::Retry),
        1 => Just(Step::Discard),
        2 => Just(Step::Rebuild),
        1 => steer.prop_map(Step::Steer),
        1 => Just(Step::Reopen),
        1 => Just(Step::Look),
    ]
}

fn relaid_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => step(),
        2 => Just(Step::TakeOver),
        4 => Just(Step::SetOut),
        4 => Just(Step::Follow),
    ]
}

/// A consumer with a past that it was not there for, rebuilt again and again.
struct Story {
    home: Place,
    store: Option<Backend>,
    inbox: Option<Arc<dyn Inbox>>,
    orders: Vec<OrderId>,
    leased: Vec<Delivery>,
    /// Positions whose dead letters were given up.
    discarded: BTreeSet<u64>,
    /// Positions from before the consumer began.
    missed: u64,
    relaid: Option<Relaid>,
}

/// Layouts of the version that runs, and of the newest one.
#[derive(Clone, Copy)]
struct Relaid {
    runs: u32,
    newest: u32,
}

impl Story {
    async fn run(home: Place, history: Vec<Step>, steps: Vec<Step>) {
        Self::open(home, history).await.tell(steps).await;
    }

    async fn open(home: Place, history: Vec<Step>) -> Self {
        let store = Some(home.open().await);
        let (orders, leased, discarded) = (Vec::new(), Vec::new(), BTreeSet::new());
        let (inbox, missed, relaid) = (None, 0, None);
        let mut story = Self { home, store, inbox, orders, leased, discarded, missed, relaid };
        story.play(history).await;
        story.inbox = Some(attach(story.backend(), Start::Now).await);
        story.missed = journal(story.backend()).await.len() as u64;
        story
    }

    async fn tell(mut self, steps: Vec<Step>) {
        self.play(steps).await;
        self.end().await;
    }

    fn backend(&self) -> &Backend {
        self.store.as_ref().unwrap()
    }

    fn inbox(&self) -> Arc<dyn Inbox> {
        Arc::clone(self.inbox.as_ref().unwrap())
    }

    async fn play(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Place => self.orders.push(place(self.backend()).await.id),
                Step::Cancel(which) => {
                    if let Some(order) = self.orders.get(which) {
                        let cancel = Change::Cancelled { reason: "no".into() };
                        let _ = self.backend().intake.change(*order, cancel).await.unwrap().into_inner();
                    }
                }
                Step::Publish(subject) => publish(self.backend(), &format!("subject-{subject}")).await,
                _ if self.inbox.is_none() => {}
                Step::Lease => self.leased.extend(self.inbox().lease()),
                Step::End(which, how) => self.finish(which, how).await,
                Step::Retry => drop(self.letters(true).await),
                Step::Discard => {
                    let letters = self.letters(false).await;
                    self.discarded.extend(letters);
                }
                Step::Rebuild => {
                    self.release().await;
                    let _ = self.backend().backfills.start(&name(CONSUMER), rebuild()).await.unwrap().into_inner();
                }
                Step::Steer(step) => drop(steer(self.backend(), step).await),
                Step::TakeOver => self.take_over().await,
                Step::SetOut => self.set_out().await,
                Step::Follow => self.follow().await,
                Step::Reopen => self.reopen().await,
                Step::Look => self.look().await,
            }
        }
    }

    /// Whoever starts a rebuild waits until nothing of the one before is on its way.
    async fn release(&mut self) {
        while let Some(index) = self.leased.iter().position(|delivery| delivery.origin == Origin::Backfill) {
            self.finish(index, How::Released).await;
        }
    }

    async fn letters(&self, retry: bool) -> Vec<u64> {
        self.durable().await;
        let (letters, all) = (&self.backend().dead_letters, Which::All.first(1_000));
        let query = LetterQuery { limit: 1_000, ..LetterQuery::default() };
        let found = letters.list(&name(CONSUMER), query).await.unwrap().items;
        let _ = match retry {
            true => letters.retry(&name(CONSUMER), all).await.unwrap().into_inner(),
            false => letters.discard(&name(CONSUMER), all).await.unwrap().into_inner(),
        };
        found.iter().map(|letter| letter.position.get()).collect()
    }

    /// Waits until everything that was finished is on disk.
    async fn durable(&self) {
        let paused = report(self.backend(), CONSUMER).await.paused;
        let _ = self.backend().consumers.set_pause(&name(CONSUMER), paused).await.unwrap().into_inner();
    }

    async fn finish(&mut self, which: usize, how: How) {
        if self.leased.is_empty() {
            return;
        }
        let (inbox, delivery) = (self.inbox(), self.leased.remove(which % self.leased.len()));
        let cause = Cause::new(CauseKind::Reject, "no");
        let settlement = match how {
            How::Done => return done(&inbox, delivery).await,
            How::Dead => return fail(&inbox, delivery).await,
            How::Retry => Settlement::Retry { at: Timestamp::now(), cause, ran: ran() },
            How::Released => Settlement::Released,
        };
        let finished = inbox.finish(delivery, &Reads::default(), settlement).await;
        assert!(matches!(finished, Finished::Accepted | Finished::Superseded), "{finished:?}");
    }

    /// What was handed out and not finished is forgotten, as in a crash.
    async fn reopen(&mut self) {
        self.leased.clear();
        self.inbox = None;
        let store = self.store.take().unwrap();
        self.store = Some(self.home.reopen(store).await);
        self.inbox = Some(attach(self.backend(), Start::Now).await);
        if let Some(relaid) = &mut self.relaid {
            relaid.runs = 0;
        }
        self.follow().await;
    }

    async fn take_over(&mut self) {
        if let Some(Relaid { newest, .. }) = &mut self.relaid {
            *newest += 1;
            let newest = *newest;
            layouts::record(self.backend(), layouts::turn(TurnOutcome::Live, newest, newest)).await;
            self.follow().await;
        }
    }

    async fn set_out(&mut self) {
        let Some(Relaid { runs, .. }) = self.relaid else { return };
        let Some(layout) = layouts::kept_layout(self.backend()).await else { return };
        self.release().await;
        layouts::set_out(self.backend(), runs, layout).await;
        self.follow().await;
    }

    /// Runs the version that the history says is live, once what runs has ended, and beside it the one that a way back leads to.
    async fn follow(&mut self) {
        let Some(Relaid { runs, newest }) = self.relaid else { return };
        let standing = self.backend().versions.standing(&name(CONSUMER)).await.unwrap().unwrap();
        let live = (1..=newest).find(|layout| standing.live == Some(layouts::version(*layout))).unwrap();
        let inbox = self.inbox();
        if live != runs {
            while !self.leased.is_empty() {
                self.finish(0, How::Done).await;
            }
            inbox.configure(InboxPolicy { concurrency: 0, ..listens() });
            layouts::lay_out(self.backend(), live, layouts::ROOM).await;
            self.relaid = Some(Relaid { runs: live, newest });
        }
        let back = self.backend().layouts.way_back(&name(CONSUMER)).await.unwrap().map(|way| way.layout);
        layouts::run(&inbox, live, back);
    }

    /// Goes on until the way back or the rebuild that is under way has ended, and all else is done.
    async fn work(&mut self) {
        let deadline = Deadline::new();
        loop {
            while !self.leased.is_empty() {
                self.finish(0, How::Done).await;
            }
            steer(self.backend(), BackfillStep::Resume).await;
            self.letters(true).await;
            self.follow().await;
            while let Some(delivery) = self.inbox().lease() {
                done(&self.inbox(), delivery).await;
            }
            let backfill = self.backend().backfills.latest(&name(CONSUMER)).await.unwrap();
            let report = report(self.backend(), CONSUMER).await;
            let runs =
                backfill.as_ref().is_some_and(|it| matches!(it.state, BackfillState::Running | BackfillState::Paused));
            if report.pending == 0 && !runs {
                return;
            }
            deadline.pause((report, backfill)).await;
        }
    }

    /// Whatever state is in use: each lane in journal order, each event once, and no message twice.
    async fn look(&self) {
        self.durable().await;
        let (lanes, count) = state(self.backend()).await;
        let mut positions = 0;
        for (lane, text) in &lanes {
            let here: Vec<u64> = text.split_terminator(',').map(|position| position.parse().unwrap()).collect();
            assert!(here.is_sorted_by(|one, other| one < other), "{lane}: {text}");
            assert!(here.iter().all(|position| !self.discarded.contains(position)), "{lane}: {text}");
            positions += here.len();
        }
        assert_eq!(positions as i64, count, "{lanes:?}");
        let messages = self.backend().journal.messages(None, 10_000).await.unwrap().items;
        let ids: BTreeSet<_> = messages.iter().map(|message| message.id.clone()).collect();
        assert_eq!(ids.len(), messages.len(), "an effect twice");
        report_when(self.backend(), CONSUMER, |it| it.done == messages.len() as u64).await;
    }

    async fn end(mut self) {
        while !self.leased.is_empty() {
            self.finish(0, How::Done).await;
        }
        self.release().await;
        if self.relaid.is_some() {
            self.work().await;
            self.look().await;
        }
        let _ = self.backend().backfills.start(&name(CONSUMER), rebuild()).await.unwrap().into_inner();
        self.work().await;
        assert_eq!(latest(self.backend()).await.state, BackfillState::Done);
        if self.relaid.is_some() {
            self.take_over().await;
            let steps =
                [Step::Publish(0), Step::Lease, Step::End(0, How::Done), Step::Publish(1), Step::Place, Step::Lease];
            self.play(steps.into()).await;
            self.set_out().await;
            self.work().await;
            assert_eq!(
                latest(self.backend()).await.back_to,
                self.backend().versions.standing(&name(CONSUMER)).await.unwrap().unwrap().live
            );
        }
        self.look().await;
        assert_eq!(state(self.backend()).await, expected(self.backend(), &self.discarded).await);
        let events = journal(self.backend()).await.len() as u64;
        let offered = events - self.missed - self.discarded.len() as u64;
        // What it missed had no effect but on its state.
        report_when(self.backend(), CONSUMER, |it| it.done == offered).await;
        self.backend().lifecycle.close().await;
    }
}

async fn a_rebuilt_state_holds_each_event_once_and_in_order_whatever_happens(home: Place) {
    let steps = |max| prop::collection::vec(step(), 0..max);
    tell(&home, 64, (steps(10), steps(80)), async |home, (history, steps)| Story::run(home, history, steps).await);
}

/// Versions with other layouts come and are gone back from, and a state that is kept is as good as if it had never been left.
async fn a_state_that_was_gone_back_to_holds_each_event_once_and_in_order_whatever_happens(home: Place) {
    let history = prop::collection::vec(step(), 0..3);
    tell(&home, 64, (history, prop::collection::vec(relaid_step(), 0..100)), async |home, (history, steps)| {
        let mut story = Story::open(home, history).await;
        layouts::record(story.backend(), layouts::turn(TurnOutcome::Live, 1, 1)).await;
        story.relaid = Some(Relaid { runs: 0, newest: 1 });
        story.follow().await;
        story.tell(steps).await;
    });
}

/// What a rebuild had looked at when its host died has to come again before what was put off then.
async fn what_was_put_off_comes_behind_what_a_dead_host_was_at(home: Place) {
    for _ in 0..home.cases(8) {
        let steps = vec![
            Step::Publish(0),
            Step::Lease,
            Step::End(0, How::Done),
            Step::Publish(0),
            Step::Lease,
            Step::Place,
            Step::Lease,
            Step::End(0, How::Retry),
            Step::Rebuild,
            Step::End(0, How::Done),
            Step::Lease,
            Step::Lease,
            Step::Reopen,
            Step::Steer(BackfillStep::Pause),
            Step::Lease,
            Step::Lease,
        ];
        Story::run(home.another(), Vec::new(), steps).await;
    }
}

claims! {
    a_rebuilt_state_holds_each_event_once_and_in_order_whatever_happens on [embedded, aws],
    a_state_that_was_gone_back_to_holds_each_event_once_and_in_order_whatever_happens on [embedded] because "a copy costs each item there",
    what_was_put_off_comes_behind_what_a_dead_host_was_at on [embedded, aws],
}
