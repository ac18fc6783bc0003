//! The end of deliveries that a rebuild made: state of the generation that is filled, and what the rebuild says of itself.

use std::collections::HashMap;

use super::{Done, Mark, Settled, Settling, intent};
use crate::backend::Result;
use crate::backend::aws::item::LaneKey;
use crate::backend::aws::lane::Tail;
use crate::backend::aws::table::Transaction;
use crate::effects::{Effects, Reads};

impl Settling<'_> {
    /// Commits effects on state, by where lanes end as far as somebody looked, together with what `says` adds: it is refused for
    /// [`Mark::Place`] where somebody else goes on with the rebuild.
    pub async fn settle_rebuilt(
        &self,
        reads: &Reads,
        effects: &Effects,
        mut tails: HashMap<LaneKey, Tail>,
        says: impl Fn(&mut Transaction<Mark>),
    ) -> Result<Settled> {
        loop {
            let Some(mut draft) = self.draft(reads, effects, &mut tails).await? else {
                return Ok(Settled::Conflict);
            };
            says(&mut draft.writes);
            let done = match draft.is_large() {
                true => intent::commit(self.store, draft).await?,
                false => self.committer.commit(draft).await?.map(|()| Done::Whole),
            };
            let Err(refused) = done else { return Ok(Settled::Written(self.running.place.clone())) };
            if refused.contains(&Mark::Place) {
                return Ok(Settled::Elsewhere);
            }
            if [Mark::Floor, Mark::Read, Mark::Intent].iter().any(|mark| refused.contains(mark)) {
                return Ok(Settled::Conflict);
            }
            // A lane has gone on.
            tails.clear();
        }
    }
}
