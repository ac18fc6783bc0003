//! What the consumer hears, said to other hosts and to SNS.

use super::AwsInbox;
use crate::backend::aws::consumers;
use crate::clock::Timestamp;

impl AwsInbox {
    /// Writes down what is passed by from now on, where that has changed: nothing, while the consumer is paused or gone.
    pub(super) fn note_heard(&self) {
        let newest = self.store.positions.newest(Timestamp::now());
        let heard = {
            let desk = self.desk.lock();
            if !desk.says_what_is_heard() {
                return;
            }
            desk.is_open().then(|| desk.subscriptions())
        };
        let Some(epochs) = self.known.lock().hears(heard.as_ref(), newest) else { return };
        if let Some(inbox) = self.store.inbox(&self.name) {
            let heard = async move { consumers::hear(&inbox.store, &inbox, epochs).await };
            self.store.tasks.spawn(self.store.in_flight.track_future(heard));
        }
    }

    /// Has SNS send what is heard by now, which somebody else wrote down.
    pub(super) fn narrow(&self) {
        let heard = self.known.lock().last_heard().cloned();
        if let Some((inbox, heard)) = self.store.inbox(&self.name).zip(heard) {
            let narrowed = async move { consumers::narrow(&inbox.store, &inbox, &heard).await };
            self.store.tasks.spawn(self.store.in_flight.track_future(narrowed));
        }
    }
}
