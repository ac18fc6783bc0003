//! A new version on a share of the orders: put beside the one that runs, judged, and promoted or rolled back.

use std::sync::Arc;

use super::{Shared, Slot, Trying, files, turn};
use crate::backend::{PluginFile, Standing, Turn, TurnOutcome};
use crate::consumer::history::{Plan, Word};
use crate::consumer::runtime::{self, Live, Runtime};
use crate::consumer::stage::{Loaded, Refused};
use crate::consumer::status::{Candidate, CandidateState};
use crate::delivery::rollout::Verdict;
use crate::delivery::trial::Trial;
use crate::policy::Policy;
use crate::telemetry::meters;
use crate::version::Hash;

/// Why a file is not tried on a share of the orders.
pub(super) enum NotTried {
    /// There is nothing any more beside which to try it.
    Alone,
    Refused(Refused),
}

impl From<Refused> for NotTried {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl<R: Runtime> Trying<R> {
    pub(super) fn shown(&self, shared: &Shared<R>) -> Candidate {
        let progress = self.trial.progress();
        Candidate {
            state: CandidateState::Canary,
            reason: format!(
                "it gets {} of the orders until {} events have shown what it does",
                progress.share, progress.min_events
            ),
            version: Some(shared.runtime.description(&self.loaded.plugin).version.to_string()),
            hash: Some(self.loaded.hash.to_string()),
            progress: Some(progress),
        }
    }
}

impl<R: Runtime> Slot<R> {
    /// Runs the version `live` with the newest file beside it.
    pub(super) async fn try_beside(
        &mut self,
        live: Hash,
        candidate: Loaded<R>,
        file: &PluginFile,
        news: bool,
        policy: &Arc<Policy>,
        shared: &Arc<Shared<R>>,
    ) -> Result<(), NotTried> {
        let running = self.running.as_ref().filter(|running| running.loaded.hash == live);
        let loaded = match running {
            Some(running) => running.loaded.clone(),
            None => match self.load_kept(live, shared).await {
                Ok(loaded) => loaded,
                Err(Refused::Faulty(why)) => {
                    tracing::warn!(consumer = %self.name, why, "a new version cannot be tried on a share of the orders: it gets all of them");
                    return Err(NotTried::Alone);
                }
                Err(other) => return Err(other.into()),
            },
        };
        self.run_side_by_side(&loaded, &candidate, shared)?;
        let rule = policy.rollout.ok_or(NotTried::Alone)?;
        let Live { version, subscriptions, .. } = self.prepare(&candidate, policy, shared)?;
        let prepared = self.prepare(&loaded, policy, shared)?;
        let under_way = self.running.as_ref().and_then(|running| running.candidate.as_ref());
        let same = |tried: &&Trying<R>| tried.loaded.hash == candidate.hash && *tried.trial.rule() == rule;
        let trial = match under_way.filter(same) {
            Some(tried) => Arc::clone(&tried.trial),
            None => Arc::new(Trial::new(&candidate.hash, rule, Arc::clone(&shared.hint))),
        };
        let beside = runtime::Candidate { version: Arc::clone(&version), subscriptions, trial: Arc::clone(&trial) };
        let prepared = Live { candidate: Some(beside), ..prepared };
        let turn = news.then(|| turn(TurnOutcome::Canary, file, live));
        let tried = Trying { file: file.clone(), loaded: candidate, version, trial };
        Ok(self.go_live(loaded, prepared, Some(tried), (turn, Word::Earlier), shared).await?)
    }

    fn run_side_by_side(&self, live: &Loaded<R>, candidate: &Loaded<R>, shared: &Shared<R>) -> Result<(), Refused> {
        let [runs, wanted] = [live, candidate].map(|loaded| shared.runtime.description(&loaded.plugin).state_version);
        if runs == wanted {
            return Ok(());
        }
        Err(Refused::Faulty(format!(
            "it keeps state of layout {wanted} and the version that runs of layout {runs}, so it cannot be tried beside it on a \
             share of the orders; `fanfare consumers promote {}` gives it all of them",
            self.name
        )))
    }

    /// Writes down what became of a candidate that was judged; what follows from it, the plan says.
    pub(super) async fn heed_verdict(&mut self, shared: &Arc<Shared<R>>) -> Result<(), Refused> {
        let Some(running) = &self.running else { return Ok(()) };
        let judged = running.candidate.as_ref().and_then(|tried| Some((tried, tried.trial.verdict()?)));
        let Some((tried, verdict)) = judged else { return Ok(()) };
        let standing = shared.versions.standing(&self.name).await;
        let standing = standing?;
        // Where another host was quicker to judge it, or somebody decided, that holds.
        let is_canary = !Plan::is_new_canary(&tried.loaded.hash, standing.as_ref());
        if !is_canary && (standing.as_ref().is_none_or(Standing::is_decision) || !shared.fleet.is_shared()) {
            return Ok(());
        }
        let (outcome, live, reason) = match verdict {
            Verdict::Promote(reason) => (TurnOutcome::Promoted, tried.loaded.hash, reason),
            Verdict::RollBack(reason) => (TurnOutcome::RolledBack, running.loaded.hash, reason),
        };
        let turn = Turn { reason: Some(reason.clone()), ..turn(outcome, &tried.file, live) };
        let gone = self.record(turn, &running.policy, shared).await?;
        files::let_go(gone, shared).await;
        let version = tried.file.version.as_deref();
        tracing::info!(consumer = %self.name, version, reason, "the new version is {}", outcome.as_str());
        meters::rollout(&self.name, outcome.as_str());
        Ok(())
    }

    /// Lets readers see how a candidate comes along.
    pub(super) fn show_trial(&self, tried: Option<&Trying<R>>, shared: &Shared<R>) {
        let mut trials = shared.trials.lock();
        match tried {
            Some(tried) => trials.insert(self.name.clone(), Arc::clone(&tried.trial)),
            None => trials.remove(&self.name),
        };
    }
}
