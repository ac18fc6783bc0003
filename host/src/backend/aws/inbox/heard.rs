//! What the consumer hears, said to other hosts and to SNS.

use super::AwsInbox;
use crate::backend::aws::consumers::{self, Epoch};
use crate::clock::Timestamp;
use crate::event::Subscriptions;

impl AwsInbox {
    /// Writes down what is passed by from now on, where that has changed: nothing, while the consumer is paused or gone.
    pub(super) fn note_heard(&self) {
        let newest = self.store.positions.newest(Timestamp::now());
        let Some(heard) = self.heard_here() else { return };
        if self.known.lock().hears(heard.as_ref(), newest).is_none() {
            return;
        }
        if let Some(inbox) = self.store.inbox(&self.name) {
            let heard = async move { consumers::hear(&inbox.store, &inbox, newest).await };
            self.store.tasks.spawn(self.store.in_flight.track_future(heard));
        }
    }

    /// What this host has to say: `None` where others say it, and within, where nothing is heard.
    pub fn heard_here(&self) -> Option<Option<Subscriptions>> {
        let desk = self.desk.lock();
        desk.says_what_is_heard().then(|| desk.is_open().then(|| desk.subscriptions()))
    }

    /// What the table says since when, unless something else was said here meanwhile.
    pub fn learn_epochs(&self, epochs: Vec<Epoch>) {
        let mut known = self.known.lock();
        let last = |epochs: &[Epoch]| epochs.last().map(|last| last.heard.clone());
        if last(&known.epochs) == last(&epochs) {
            known.epochs = epochs;
        }
    }

    /// Has SNS send what is heard by now, which somebody else wrote down.
    pub(super) fn narrow(&self) {
        if let Some(inbox) = self.store.inbox(&self.name) {
            let narrowed = async move { consumers::narrow(&inbox.store, &inbox).await };
            self.store.tasks.spawn(self.store.in_flight.track_future(narrowed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::aws::consumers::{Known, heard_by};
    use crate::backend::aws::fixture::alpha;
    use crate::backend::aws::inbox::{Asked, Inboxed};
    use crate::backend::aws::item::{Key, number};
    use crate::backend::aws::layouts::Laid;
    use crate::backend::aws::table::Change;
    use crate::backend::contract::{eventually, hears, policy};
    use crate::backend::{Inbox as _, InboxPolicy};

    async fn runs(shop: &Inboxed, layout: u32, kinds: &[&str]) {
        shop.inbox.configure(InboxPolicy { layout: Some(layout), subscriptions: hears(kinds), ..policy() });
        eventually("it is written down", async || (heard(shop).await == Some(hears(kinds))).then_some(())).await;
    }

    async fn known(shop: &Inboxed) -> Known {
        shop.store.known_as(&alpha()).await.unwrap().unwrap()
    }

    async fn heard(shop: &Inboxed) -> Option<Subscriptions> {
        known(shop).await.last_heard().cloned()
    }

    /// What SNS lets through.
    async fn passes(shop: &Inboxed) -> String {
        let asked =
            shop.store.clients.sns.get_subscription_attributes().subscription_arn(shop.inbox.subscription_arn());
        let mut attributes = asked.send().await.unwrap().attributes.unwrap();
        attributes.remove("FilterPolicy").unwrap_or_default()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_way_back_the_consumer_hears_from_where_that_was_handed_over() {
        let shop = Inboxed::open().await;
        shop.backend.layouts.lay_out(&alpha(), 1, 0, true).await.unwrap().into_inner();
        runs(&shop, 1, &["order.placed"]).await;
        let before = known(&shop).await;
        let mut after = before.clone();
        after.epochs.push(Epoch { since: 7, heard: Some(hears(&["order.confirmed"])) });
        after.laid = before.laid.map(|laid| Laid { number: laid.number + 1, layout: 2, ..laid });
        after.generation += 1;
        let epochs = after.epochs.clone();
        shop.inbox.learn(after, Asked::now());
        // An answer that took long.
        shop.inbox.learn(before, Asked::now());
        shop.inbox.configure(InboxPolicy { layout: Some(2), subscriptions: hears(&["order.confirmed"]), ..policy() });
        assert_eq!(shop.inbox.known().epochs, epochs);
        eventually("SNS knows", async || passes(&shop).await.contains("confirmed").then_some(())).await;
        shop.backend.lifecycle.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_another_host_said_before_holds_from_when_it_said_it() {
        let shop = Inboxed::open().await;
        shop.backend.layouts.lay_out(&alpha(), 1, 0, true).await.unwrap().into_inner();
        runs(&shop, 1, &["order.placed"]).await;
        // Another host, which has the next version sooner.
        let says = async |ahead: u64, kind: &str| {
            let mut epochs = known(&shop).await.epochs;
            let since = epochs.last().map_or(0, |last| last.since) + ahead;
            epochs.push(Epoch { since, heard: Some(hears(&[kind])) });
            let change = heard_by(&epochs).unwrap();
            shop.store.table.update(&Key::consumer(&alpha()), change).await.unwrap();
            epochs
        };
        let epochs = says(1, "order.*").await;
        runs(&shop, 1, &["order.*"]).await;
        eventually("this host knows", async || (shop.inbox.known().epochs == epochs).then_some(())).await;
        assert_eq!(known(&shop).await.epochs, epochs, "what came since then would be passed by");
        // Nor does what others said go where this one says something else.
        let others = says(1 << 40, "order.shipped").await;
        runs(&shop, 1, &["order.confirmed"]).await;
        let epochs = known(&shop).await.epochs;
        assert_eq!(epochs[..epochs.len() - 1], others);
        assert!(epochs.is_sorted_by_key(|epoch| epoch.since), "{epochs:?}");
        shop.backend.lifecycle.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_version_that_was_gone_back_from_does_not_say_any_more_what_is_heard() {
        let shop = Inboxed::open().await;
        shop.backend.layouts.lay_out(&alpha(), 2, 0, true).await.unwrap().into_inner();
        runs(&shop, 2, &["order.placed"]).await;
        let says = async |kind: &str| {
            let subscriptions = hears(&[kind]);
            shop.inbox.configure(InboxPolicy { layout: Some(2), subscriptions, ..policy() });
            consumers::hear(&shop.store, &shop.inbox, 9).await;
            heard(&shop).await
        };
        let lay = async |layout: u32, take_over: u64, ready: u64| {
            let change = Change::of("SET lay = :layout, lyn = :number, lyr = :ready").value(":layout", number(layout));
            let change = change.value(":number", number(take_over)).value(":ready", number(ready));
            shop.store.table.update(&Key::consumer(&alpha()), change).await.unwrap();
        };
        assert_eq!(says("order.rejected").await, Some(hears(&["order.rejected"])));
        lay(1, 1, 0).await;
        assert_eq!(says("order.cancelled").await, Some(hears(&["order.cancelled"])), "it has not left yet");
        lay(1, 1, 1).await;
        assert_eq!(says("order.placed").await, Some(hears(&["order.cancelled"])));
        shop.backend.lifecycle.close().await;
    }
}
