//! Hosts that share a store, and do not hear at once of what is decided about a backfill.

use std::time::{Duration, Instant};

use super::{CONSUMER, attach, everything, latest, start, steer};
use crate::backend::contract::wait::Deadline;
use crate::backend::contract::{Place, done, name, publish};
use crate::backend::{Backfill, BackfillState, BackfillStep, Finished, StateQuery};
use crate::effects::{Adjustment, Effects, Reads};
use crate::policy::Start;

const EVENTS: usize = 30;
/// Longer than a host takes to hear of what others decided.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

async fn what_one_backfill_is_through_with_the_cancelled_one_does_not_bring_again(home: Place) {
    let hosts = [home.open().await, home.open().await];
    for n in 0..EVENTS {
        publish(&hosts[0], &n.to_string()).await;
    }
    // Only this one is there when it begins, so it goes through it.
    let walker = attach(&hosts[0]).await;
    start(&hosts[0], Backfill { rate: "10/s".parse().unwrap(), ..everything() }).await;
    let (mut others, mut ended) = (None, None);
    let deadline = Deadline::new();
    loop {
        for inbox in [Some(&walker), others.as_ref()].into_iter().flatten() {
            while let Some(delivery) = inbox.lease() {
                let key = delivery.event.position.to_string();
                let adjustments = vec![Adjustment { key: key.as_str().into(), by: 1, floor: None }];
                let settlement = done(Effects { adjustments, ..Effects::default() });
                let finished = inbox.finish(delivery, &Reads::default(), settlement).await;
                assert!(matches!(finished, Finished::Accepted | Finished::Superseded), "{finished:?}");
            }
        }
        let report = latest(&hosts[1]).await;
        if report.delivered > 2 && others.is_none() {
            others = Some(hosts[1].consumers.attach(&name(CONSUMER), Start::Now).await.unwrap());
            others.iter().for_each(|inbox| inbox.configure(super::listens()));
            steer(&hosts[1], BackfillStep::Cancel).await;
            start(&hosts[1], everything()).await;
        }
        if others.is_some() && report.state == BackfillState::Done {
            ended.get_or_insert_with(Instant::now);
        }
        if ended.is_some_and(|at| at.elapsed() > HEARD_WITHIN) {
            break;
        }
        deadline.pause(report).await;
    }
    let query = StateQuery { limit: 2 * EVENTS, ..StateQuery::default() };
    let counted = hosts[1].consumers.state(&name(CONSUMER), query).await.unwrap().counters;
    let times: Vec<i64> = counted.into_iter().map(|(_, times)| times).collect();
    assert_eq!(times, [1; EVENTS]);
    for backend in hosts {
        backend.lifecycle.close().await;
    }
}

claims! {
    what_one_backfill_is_through_with_the_cancelled_one_does_not_bring_again on [aws] because "one host alone has a file",
}
