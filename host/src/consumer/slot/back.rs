//! The way back to a version with another layout of state: set out on when a person asks for it, and followed while the store
//! says that it is under way. What its end makes live, the plan says.

use std::sync::Arc;

use super::{Shared, Slot};
use crate::backend::{Former, KeptState, SetOut, Turn, WayBack};
use crate::consumer::history::Word;
use crate::consumer::runtime::{self, Live, Runtime};
use crate::consumer::stage::{Loaded, Refused};
use crate::consumer::status::WayBackStatus;
use crate::consumer::steer::Refusal;
use crate::policy::Policy;
use crate::version::Hash;

/// A way back that is under way.
pub(super) struct Returning<R: Runtime> {
    way: WayBack,
    policy: Arc<Policy>,
    ready: Result<(Loaded<R>, runtime::Back<R::Version>), Refused>,
}

impl<R: Runtime> Slot<R> {
    /// Follows the way back that is under way in the store: loads its version, where that is not here.
    pub(super) async fn follow_back(&mut self, shared: &Arc<Shared<R>>) -> Result<(), Refused> {
        let way = shared.layouts.way_back(&self.name).await;
        let way = way?;
        let (Some(way), Some(policy)) = (way, self.policy.clone()) else {
            self.back = None;
            shared.returning.lock().remove(&self.name);
            return Ok(());
        };
        shared.returning.lock().insert(self.name.clone());
        let before = self.back.take().filter(|before| before.way.to == way.to);
        if let Some(same) = before.as_ref().filter(|before| before.policy == policy && before.is_settled()) {
            self.back = Some(Returning { way, policy, ready: same.ready.clone() });
            return Ok(());
        }
        let (loaded, told) = match before.map(|before| before.ready) {
            Some(Ok((loaded, _))) => (Ok(loaded), None),
            Some(Err(told)) => (self.load_kept(way.to, shared).await, Some(told)),
            None => (self.load_kept(way.to, shared).await, None),
        };
        let ready = loaded.and_then(|loaded| {
            let Live { version, subscriptions, .. } = self.prepare(&loaded, &policy, shared)?;
            let hash = loaded.hash;
            Ok((loaded, runtime::Back { version, hash, subscriptions }))
        });
        let unavailable = match &ready {
            Err(refused @ Refused::Unavailable(_)) => Err(refused.clone()),
            _ => Ok(()),
        };
        if let Err(refused) = &ready
            && told.as_ref() != Some(refused)
        {
            tracing::warn!(consumer = %self.name, version = %way.to.short(), reason = %refused, "the way back waits");
        }
        self.back = Some(Returning { way, policy, ready });
        unavailable
    }

    /// What the worker is to have of it.
    pub(super) fn back(&self) -> Option<runtime::Back<R::Version>> {
        self.back.as_ref()?.ready.as_ref().ok().map(|(_, back)| back.clone())
    }

    pub(super) fn back_hash(&self) -> Option<Hash> {
        self.back().map(|back| back.hash)
    }

    /// Whether going from one version to the other changes how the state is laid out; and to what.
    pub(super) fn relays(&self, live: &Loaded<R>, target: &Loaded<R>, shared: &Shared<R>) -> Option<[u32; 2]> {
        let layouts = [live, target].map(|loaded| shared.runtime.description(&loaded.plugin).state_version);
        (layouts[0] != layouts[1]).then_some(layouts)
    }

    /// Whether the state that is kept is one for a version of this layout.
    pub(super) async fn keeps(&self, layout: u32, shared: &Shared<R>) -> Result<Result<(), Option<String>>, Refusal> {
        Ok(match shared.layouts.former(&self.name).await? {
            Some(Former::Kept(KeptState { layout: kept, .. })) if kept == layout => Ok(()),
            Some(Former::Kept(kept)) => Err(Some(format!("what is kept is of layout {}", kept.layout))),
            Some(Former::Gone { reason }) => Err(Some(reason)),
            None => Err(None),
        })
    }

    /// Sets out for a version whose state is kept; `turn` is written down at the end of the way.
    pub(super) async fn set_out(
        &mut self,
        target: &Loaded<R>,
        layout: u32,
        turn: Turn,
        shared: &Arc<Shared<R>>,
    ) -> Result<(), Refusal> {
        let Some(running) = &self.running else { return Err(self.does_not_run(shared)) };
        let (live, policy) = (running.loaded.clone(), Arc::clone(&running.policy));
        if running.candidate.is_some() {
            return Err(Refusal::Impossible(format!(
                "a new version of {0} is being tried on a share of the orders: `fanfare consumers promote {0}` or `fanfare \
                 consumers rollback {0}` decides about it first",
                self.name
            )));
        }
        let there = self.prepare(target, &policy, shared).map_err(|refused| self.refusal(refused))?;
        let keep = policy.keep_versions.get() as usize;
        let way = WayBack { turn, keep, layout, to: target.hash };
        match shared.layouts.set_out(&self.name, way, there.subscriptions).await?.into_inner() {
            SetOut::Yes(_) => {}
            SetOut::Runs => {
                return Err(Refusal::Impossible(format!(
                    "a backfill, or a way back, is under way for {0}: `fanfare consumers backfill {0} --status` shows how far it \
                     is, and `--cancel` ends it",
                    self.name
                )));
            }
            SetOut::NotKept => {
                return Err(Refusal::Impossible(format!(
                    "the state of {} is not kept any more; look again",
                    self.name
                )));
            }
        }
        self.follow_back(shared).await.map_err(|refused| self.refusal(refused))?;
        let prepared = self.prepare(&live, &policy, shared).map_err(|refused| self.refusal(refused))?;
        self.go_live(live, prepared, None, (None, Word::Earlier), shared).await.map_err(|refused| self.refusal(refused))
    }
}

impl<R: Runtime> Returning<R> {
    /// Under the same policy, nothing else comes of it.
    fn is_settled(&self) -> bool {
        !matches!(self.ready, Err(Refused::Unavailable(_) | Refused::Changed))
    }

    pub(super) fn shown(&self, shared: &Shared<R>) -> WayBackStatus {
        let loaded = self.ready.as_ref().map(|(loaded, _)| loaded);
        WayBackStatus {
            version: loaded.ok().map(|loaded| shared.runtime.description(&loaded.plugin).version.to_string()),
            hash: self.way.to.to_string(),
            state_version: self.way.layout,
            reason: loaded.err().map(ToString::to_string),
        }
    }
}
