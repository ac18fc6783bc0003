//! Steps that a person asks for: back to a version that ran before, and on to a file that was decided against.

use std::sync::Arc;

use super::{Newest, Shared, Slot, turn};
use crate::backend::{HISTORY_MAX, HostRuns, Standing, Turn, TurnOutcome};
use crate::consumer::history::{self, Came, Plan, Word};
use crate::consumer::runtime::Runtime;
use crate::consumer::stage::Refused;
use crate::consumer::steer::{Refusal, Step};
use crate::version::{Hash, HashPrefix};

impl<R: Runtime> Slot<R> {
    pub async fn step(&mut self, step: Step, shared: &Arc<Shared<R>>) -> Result<(), Refusal> {
        match step {
            Step::RollBack { to, from, reason } => self.roll_back((to, from), reason, shared).await,
            Step::Promote { reason } => self.promote(reason, shared).await,
        }
    }

    async fn roll_back(
        &mut self,
        (to, from): (Option<HashPrefix>, Option<HashPrefix>),
        reason: Option<String>,
        shared: &Arc<Shared<R>>,
    ) -> Result<(), Refusal> {
        let (Some(running), Some((_, newest))) = (&self.running, &self.newest) else {
            return Err(self.does_not_run(shared));
        };
        // Whoever asks again, because no answer came, would go two versions back.
        let leaves = running.candidate.as_ref().map_or(running.loaded.hash, |tried| tried.loaded.hash);
        if let Some(from) = from.filter(|from| !from.matches(&leaves)) {
            return Err(Refusal::Impossible(format!(
                "{0} has version {1} by now, and not {from}: it went back already, or another file came; `fanfare consumers \
                 history {0}` says which",
                self.name,
                leaves.short()
            )));
        }
        let (live, policy, file) = (running.loaded.clone(), Arc::clone(&running.policy), newest.file.clone());
        let canary = running.candidate.is_some();
        let target = match to {
            // Away from what is new is back to what runs beside it.
            None if canary => live.hash,
            to => self.target(to, &live.hash, canary, shared).await?,
        };
        if file.hash == Some(target) {
            // The file in the directory itself: on to it, not back.
            return self.promote(reason, shared).await;
        }
        let loaded = match target == live.hash {
            true => live.clone(),
            false => self.load_kept(target, shared).await.map_err(|refused| self.refusal(refused))?,
        };
        let turn = Turn { reason, ..turn(TurnOutcome::RolledBack, &file, target) };
        if let Some(layouts) = self.relays(&live, &loaded, shared) {
            self.keeps(layouts[1], shared).await?.map_err(|why| self.no_way_back(layouts, &target, why))?;
            self.set_out(&loaded, layouts[1], turn, shared).await?;
            return self.show_again(shared).await;
        }
        let prepared = self.prepare(&loaded, &policy, shared).map_err(|refused| self.refusal(refused))?;
        self.go_live(loaded, prepared, None, (Some(turn), Word::Last), shared)
            .await
            .map_err(|refused| self.refusal(refused))?;
        self.show_again(shared).await
    }

    async fn promote(&mut self, reason: Option<String>, shared: &Arc<Shared<R>>) -> Result<(), Refusal> {
        let (Some((_, Newest { file, loaded })), Some(policy)) = (self.newest.clone(), self.policy.clone()) else {
            return Err(self.does_not_run(shared));
        };
        let loaded = loaded.map_err(|refused| self.refusal(refused))?;
        // Where other hosts run another one, it is a decision for them.
        let differs = |host: &HostRuns| host.running.get(&self.name).is_some_and(|runs| runs.hash != loaded.hash);
        let layout = shared.runtime.description(&loaded.plugin).state_version;
        let decided =
            !shared.fleet.hosts().iter().any(differs) && !shared.layouts.is_elsewhere(&self.name, layout).await?;
        if decided && self.running.as_ref().is_some_and(|running| running.loaded.hash == loaded.hash) {
            let runs = loaded.hash.short();
            return Err(Refusal::Impossible(format!(
                "nothing waits to be promoted: {runs}, the file of {}, runs",
                self.name
            )));
        }
        let turn = Turn { reason, ..turn(TurnOutcome::Promoted, &file, loaded.hash) };
        let relays = self.running.as_ref().and_then(|running| self.relays(&running.loaded, &loaded, shared));
        let standing = shared.versions.standing(&self.name).await?;
        let was_left = |at: &Standing| at.outcome == TurnOutcome::RolledBack && at.file == Some(loaded.hash);
        if let Some([_, layout]) = relays
            && standing.as_ref().is_some_and(was_left)
            && self.keeps(layout, shared).await?.is_ok()
        {
            // What it did before it was rolled back is kept, and only brought up to date.
            self.set_out(&loaded, layout, turn, shared).await?;
            return self.show_again(shared).await;
        }
        let prepared = self.prepare(&loaded, &policy, shared).map_err(|refused| self.refusal(refused))?;
        self.go_live(loaded, prepared, None, (Some(turn), Word::Last), shared)
            .await
            .map_err(|refused| self.refusal(refused))?;
        self.show_again(shared).await
    }

    /// The version to go back to.
    async fn target(
        &self,
        to: Option<HashPrefix>,
        live: &Hash,
        canary: bool,
        shared: &Shared<R>,
    ) -> Result<Hash, Refusal> {
        let history = shared.versions.history(&self.name, HISTORY_MAX).await?;
        let see = format!("`fanfare consumers history {}` lists the versions that ran", self.name);
        let target = match to {
            None => history::one_before(&history, live)
                .ok_or_else(|| Refusal::Impossible(format!("no version ran before {}", live.short())))?,
            Some(prefix) => history::meant(&history, &prefix).map_err(|found| match found {
                0 => Refusal::UnknownVersion(format!("no version {prefix} of {} ever ran; {see}", self.name)),
                _ => Refusal::UnknownVersion(format!("{found} versions of {} begin with {prefix}; {see}", self.name)),
            })?,
        };
        match target == *live && !canary {
            true => Err(Refusal::Impossible(format!("version {} runs already", target.short()))),
            false => Ok(target),
        }
    }

    /// Versions with different `state-version` would read each other's state, and what was before is not kept.
    fn no_way_back(&self, [runs, wanted]: [u32; 2], target: &Hash, why: Option<String>) -> Refusal {
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        Refusal::Impossible(format!(
            "version {} keeps state of layout {wanted} and the one that runs of layout {runs}; the state from before is not \
             kept{why}, so there is no way back: put a version with state-version {runs} into the directory, or the file of \
             that one and have its state made anew with `fanfare consumers backfill {} --from beginning --rebuild`",
            target.short(),
            self.name
        ))
    }

    /// The status as it is after a step: what is told of the newest file is what a look at the directory tells.
    async fn show_again(&mut self, shared: &Arc<Shared<R>>) -> Result<(), Refusal> {
        let standing = shared.versions.standing(&self.name).await?;
        let newest = self.newest.as_ref().map(|(_, newest)| newest.clone());
        let Some(newest) = newest else { return Ok(()) };
        let refused = match &newest.loaded {
            Err(refused) => Some(refused.clone()),
            // A step ends a canary.
            Ok(loaded) => match Plan::of(&loaded.hash, standing.as_ref(), false, Came::Last) {
                Plan::Keep { reason, .. } => Some(self.kept_out(&reason)),
                Plan::Take | Plan::Try { .. } => None,
            },
        };
        let refusals: Vec<_> = refused.into_iter().collect();
        self.show(&refusals, newest.loaded.ok().as_ref(), shared);
        Ok(())
    }

    pub(super) fn does_not_run(&self, shared: &Shared<R>) -> Refusal {
        let status = shared.board.get(&self.name);
        let why = status.map(|status| {
            let reason = status.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            format!(" (it is {}{reason})", status.state)
        });
        Refusal::Impossible(format!("the consumer {} does not run{}", self.name, why.unwrap_or_default()))
    }

    pub(super) fn refusal(&self, refused: Refused) -> Refusal {
        match refused {
            Refused::Unavailable(why) => Refusal::Store(crate::backend::Error::Unavailable(why.into())),
            Refused::Changed => Refusal::Impossible(format!("the file of {} is being replaced; look again", self.name)),
            Refused::Faulty(_) | Refused::Ungranted(_) | Refused::KeptOut(_) => {
                Refusal::Impossible(refused.to_string())
            }
        }
    }
}
