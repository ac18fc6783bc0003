//! The way back to a version with another layout: a rebuild that begins with what was kept, by that version.
//!
//! It goes as a rebuild goes (`backfills::rebuild`), on the hosts where its version is. Its hand-over writes the generation, the
//! layout and the row of the history that makes the version live in one transaction, and keeps what was in use until then: what
//! is put off at that moment is in neither state.

use super::keep::{self, Kept};
use super::{Aws, Laid};
use crate::backend::aws::backfills::{Back, Fill, Fills, news, put_off_items, rebuild};
use crate::backend::aws::consumers::{self, Known};
use crate::backend::aws::item::{Key, json, number, text};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Transaction};
use crate::backend::aws::{versions, weight};
use crate::backend::{BackfillState, Error, Result, SetOut, WayBack};
use crate::clock::Timestamp;
use crate::event::Subscriptions;
use crate::fault::{self, Point};
use crate::policy::ConsumerName;
use crate::version::Hash;

impl Aws {
    pub(super) async fn set_out_for(
        &self,
        name: &ConsumerName,
        way: &WayBack,
        hears: &Subscriptions,
    ) -> Result<SetOut> {
        let store = &self.store;
        loop {
            let Some(known) = store.known_as(name).await? else { return Ok(SetOut::NotKept) };
            if known.filling.is_some() {
                return Ok(SetOut::Runs);
            }
            if known.laid.is_some_and(|laid| !laid.is_ready) {
                return Err(Error::Unavailable("a version with another layout takes the state over".into()));
            }
            let kept = known.kept.clone().filter(|kept| kept.layout == way.layout);
            let Some(kept) = kept else { return Ok(SetOut::NotKept) };
            if keep::is_aged(store, &known, &kept).await? {
                store.let_kept_go(&known, u64::MAX).await?;
                continue;
            }
            let fills = Fills::load(store, name, known.fills).await?;
            let from = kept.position(&fills);
            let (done, through) = rebuild::count(store, &known, &fills, from + 1, Some(hears)).await?;
            let put_off = put_off_items(store, name, kept.put_off, usize::MAX).await?.len() as u64;
            let (way, generation) = (way.clone(), kept.generation);
            let bytes = weight::whole(store, name, generation).await?;
            let back = Back { way, put_off: kept.put_off, from };
            let fill = Fill::way_back(fills.newest() + 1, back, (generation, kept.since()), (done + put_off, through));
            let mut transaction = Transaction::default();
            // As whoever goes on with it is told: it has handled nothing yet.
            let item = fill.item(name)?.with("wt", number(bytes)).with("wta", number(0));
            transaction.create((), item);
            let begun = rebuild::begin(store, name, &fill, &mut transaction).await?;
            let to = Kept { way: Some(fill.number), ..kept.clone() };
            let begun = begun.and(Change::of("SET kp = :to, #kept = :bytes").value(":to", json(&to)?));
            let begun = begun
                .name("#kept", &weight::attribute(generation))
                .value(":bytes", number(bytes))
                .only_if("attribute_not_exists(bfa) AND kp = :kept AND lyn = lyr")
                .value(":kept", json(&kept)?);
            transaction.update((), Key::consumer(name), begun);
            if store.table.transact(transaction).await?.is_ok() {
                fault::pass(Point::ReturnBegun);
                self.tell(name).await?;
                return Ok(SetOut::Yes(fill.report(0)));
            }
        }
    }
}

impl Store {
    /// Ends the way back of a consumer that goes somewhere else.
    pub async fn leave_way_back(&self, name: &ConsumerName, transaction: &mut Transaction<()>) -> Result<Option<i64>> {
        let Some(known) = self.known_as(name).await?.filter(|known| known.rebuilding.is_some()) else {
            return Ok(None);
        };
        let fills = Fills::load(self, name, known.fills).await?;
        let Some(way) = fills.under_way().filter(|fill| fill.back.is_some()).map(|fill| fill.number) else {
            return Ok(None);
        };
        let cancelled = Change::of("SET sta = :state, tz = :now")
            .only_if("attribute_exists(pk)")
            .value(":state", text(BackfillState::Cancelled.as_str()))
            .value(":now", number(Timestamp::now().as_millis()));
        transaction.update((), Key::backfill(name, way), cancelled);
        let over = news("REMOVE bfa, bfr, nr, nru").only_if("bfa = :way").value(":way", number(way));
        transaction.update((), Key::consumer(name), over);
        Ok(Some(way))
    }
}

/// What a way back writes in the transaction that hands it over, beside the generation: what the consumer's item says
/// differently, and which plugin files nobody keeps any more. The consumer hears from the cursor on what its version does, so
/// that nothing of what comes without a pause is passed by. `None` where nobody said by which layout the state is handled.
pub async fn hand_over(
    store: &Store,
    mut known: Known,
    back: &Back,
    (cursor, heard): (u64, Subscriptions),
    transaction: &mut Transaction<()>,
) -> Result<Option<(Change, Vec<Hash>)>> {
    let Some(Laid { layout, .. }) = known.laid else { return Ok(None) };
    let Back { way, put_off, .. } = back;
    let version = versions::last_of_layout(&store.table, &known.name, layout).await?;
    let gone = versions::write(&store.table, &known.name, &way.turn, way.keep, transaction).await?;
    let kept = Kept {
        generation: known.generation,
        put_off: *put_off,
        layout,
        version,
        since_ms: Timestamp::now().as_millis(),
        position: cursor,
        way: None,
    };
    let next = "if_not_exists(lyn, :zero) + :one";
    let change = Change::of(format!("SET kp = :kept, lay = :layout, lyn = {next}, lyr = {next} REMOVE kpw"));
    let mut change = change.value(":kept", json(&kept)?).value(":layout", number(way.layout));
    if let Some(epochs) = known.hears(Some(&heard), cursor) {
        change = change.and(consumers::heard_by(&epochs)?);
    }
    Ok(Some((change, gone.unwrap_or_default())))
}
