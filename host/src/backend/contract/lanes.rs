//! Promise 6 where nothing goes wrong: a lane is one delivery at a time, in the order of its events, and waits for no other.

use std::collections::{BTreeMap, VecDeque};

use super::{Place, accept, confirm, done, events, hears, inbox, lease, leases, nothing_comes, place, policy, publish};
use crate::backend::InboxPolicy;
use crate::effects::Effects;
use crate::event::{EventId, Lane};

pub async fn a_lane_is_one_delivery_at_a_time_in_the_order_of_its_events(home: Place) {
    let backend = home.open().await;
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { subscriptions: hears(&["*"]), ..policy() });
    for _ in 0..3 {
        publish(&backend, "tea").await;
        publish(&backend, "salt").await;
    }
    let order = place(&backend).await;
    confirm(&backend, order.id).await;
    let mut lanes: BTreeMap<String, VecDeque<EventId>> = BTreeMap::new();
    for event in events(&backend, 8).await {
        lanes.entry(event.lane().to_string()).or_default().push_back(event.id);
    }

    let first = leases::<3>(&deliveries).await;
    let told = first.each_ref().map(|delivery| delivery.event.lane());
    assert_eq!(told, [Lane::Subject("tea".into()), Lane::Subject("salt".into()), Lane::Order(order.id)]);
    nothing_comes(&home, &backend, &deliveries, "each lane runs one").await;
    for mut delivery in first {
        let lane = lanes.get_mut(&delivery.event.lane().to_string()).unwrap();
        while let Some(expected) = lane.pop_front() {
            assert_eq!(delivery.event.id, expected);
            accept(&deliveries, delivery, done(Effects::default())).await;
            if lane.is_empty() {
                break;
            }
            // The others run still, so what comes is of this lane.
            delivery = lease(&deliveries).await;
        }
    }
    nothing_comes(&home, &backend, &deliveries, "all are done").await;
}

claims! {
    a_lane_is_one_delivery_at_a_time_in_the_order_of_its_events on [embedded, aws, standard],
}
