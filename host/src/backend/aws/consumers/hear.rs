//! What consumers hear: written down for all hosts, and said to SNS.

use std::time::Duration;

use super::known::spoken;
use super::{Epoch, Known, catch_up};
use crate::backend::aws::inbox::AwsInbox;
use crate::backend::aws::item::{Key, json, number, text};
use crate::backend::aws::resources;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::Change;
use crate::backend::{Error, Result};
use crate::clock::Timestamp;
use crate::event::Subscriptions;

/// Tries to write down what is heard, where others do meanwhile.
const SAID_AT_ONCE_MAX: usize = 5;
/// How long SNS may go on by an old filter.
const FILTER_LAG: Duration = Duration::from_secs(16 * 60);

/// Writes down what a consumer hears on this host behind `newest`, and narrows what SNS sends it.
pub async fn hear(store: &Store, inbox: &AwsInbox, newest: u64) {
    // What is said last is written last.
    let _turn = inbox.hearing.lock().await;
    if let Err(error) = write_heard(store, inbox, newest).await {
        tracing::warn!(consumer = %inbox.name, %error, "what the consumer hears is not written down; other hosts do not know it yet");
    }
    if let Some(Epoch { heard: Some(heard), .. }) = inbox.known().epochs.last() {
        narrow_to(store, inbox, heard).await;
    }
}

/// Has SNS send what is heard by now, which somebody else wrote down.
pub async fn narrow(store: &Store, inbox: &AwsInbox) {
    let _turn = inbox.hearing.lock().await;
    if let Some(heard) = inbox.known().last_heard() {
        narrow_to(store, inbox, heard).await;
    }
}

/// Has SNS send the consumer what it hears, and as little else as can be.
async fn narrow_to(store: &Store, inbox: &AwsInbox, heard: &Subscriptions) {
    let subscription = inbox.subscription_arn();
    if let Err(error) = resources::narrow(&store.clients, &store.settings, &inbox.name, &subscription, heard).await {
        tracing::warn!(consumer = %inbox.name, %error, "SNS sends the consumer what it sent before; the host filters all the same");
    }
}

/// Other hosts write, too: what they said stays, and where they say the same already, it holds from when they said it. What came
/// since then would be passed by otherwise, and whatever of it is not done.
async fn write_heard(store: &Store, inbox: &AwsInbox, newest: u64) -> Result<()> {
    let key = Key::consumer(&inbox.name);
    for _ in 0..SAID_AT_ONCE_MAX {
        let (Some(item), Some(heard)) = (store.table.get(&key).await?, inbox.heard_here()) else { return Ok(()) };
        let mut known = Known::read(&item)?;
        if !inbox.is_of(&known) {
            return Ok(());
        }
        let last = known.epochs.last().map_or(0, |last| last.since);
        let Some(epochs) = known.hears(heard.as_ref(), newest.max(last.saturating_sub(1))) else {
            inbox.learn_epochs(known.epochs);
            return Ok(());
        };
        let mut only_if = "attribute_exists(pk) AND ".to_owned();
        let mut change = heard_by(&epochs)?;
        match item.text_or_none("epochs") {
            Some(before) => {
                only_if += "epochs = :before";
                change = change.value(":before", text(before));
            }
            None => only_if += "attribute_not_exists(epochs)",
        }
        if let Some(layout) = inbox.layout() {
            // Who went back to another version wrote with that what is heard by it.
            only_if += " AND (attribute_not_exists(lay) OR lay = :layout OR lyr < lyn)";
            change = change.value(":layout", number(layout));
        }
        if let Some(item) = store.table.update_once(&key, change.only_if(only_if)).await? {
            inbox.learn_catch_up(catch_up(&item)?);
            inbox.learn_epochs(epochs);
            return Ok(());
        }
    }
    Err(Error::Failed("others write it down at the same time, again and again".into()))
}

/// What a consumer's item says of what it heard, from which positions on.
pub fn heard_by(epochs: &[Epoch]) -> Result<Change> {
    let mut set = "SET epochs = :epochs".to_owned();
    let mut change = Change::default().value(":epochs", json(&spoken(epochs))?);
    // Until SNS knows, only the log tells of kinds that are new.
    let mut heard = epochs.iter().rev().filter_map(|epoch| epoch.heard.as_ref());
    if let (Some(now), Some(before)) = (heard.next(), heard.next())
        && now.iter().any(|wanted| !before.iter().any(|known| known.kind.covers(&wanted.kind)))
    {
        let until = crate::backend::aws::clock::first_at(Timestamp::now().plus(FILTER_LAG));
        set += ", cuu = :until";
        change = change.value(":until", number(until));
    }
    Ok(change.update(set))
}
