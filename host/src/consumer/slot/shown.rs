//! What people are shown of one consumer.

use super::{Shared, Slot};
use crate::consumer::runtime::Runtime;
use crate::consumer::scan;
use crate::consumer::stage::{Loaded, Refused};
use crate::consumer::status::{Candidate, CandidateState, ConsumerStatus, State};
use crate::policy::ConsumerName;
use crate::sandbox::Need;

impl<R: Runtime> Slot<R> {
    pub(super) fn show(&self, refusals: &[Refused], newest: Option<&Loaded<R>>, shared: &Shared<R>) {
        let told = refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let refused = refusals.first().map(|refused| match refused {
            Refused::Ungranted(_) => CandidateState::AwaitingGrant,
            Refused::KeptOut(_) => CandidateState::RolledBack,
            Refused::Faulty(_) | Refused::Unavailable(_) | Refused::Changed => CandidateState::Failed,
        });
        let running = self.running.as_ref().map(|running| &running.loaded);
        let datasets = running.into_iter().chain(newest).flat_map(|loaded| datasets(loaded, shared)).collect();
        let not_kept = self.not_kept(newest, shared);
        let status = match (&self.running, refused) {
            (Some(running), refused) => {
                let version = &shared.runtime.description(&running.loaded.plugin).version;
                let same = newest.is_some_and(|newest| newest.hash == running.loaded.hash);
                // Where the plugin is right and its side file is not, no other one waits.
                let (under, waits) = if same { (" under the side file from before", None) } else { ("", refused) };
                ConsumerStatus {
                    subscriptions: running.subscriptions.iter().map(ToString::to_string).collect(),
                    loaded_at: Some(running.since),
                    shadow: self.shadow.as_ref().map(|shadow| shadow.shown(running, shared)),
                    way_back: self.back.as_ref().map(|back| back.shown(shared)),
                    reason: refused.map(|_| format!("version {version} keeps running{under}: {told}")),
                    candidate: waits
                        .map(|state| Candidate {
                            state,
                            reason: told,
                            version: newest
                                .map(|newest| shared.runtime.description(&newest.plugin).version.to_string()),
                            hash: newest.map(|newest| newest.hash.to_string()),
                            progress: None,
                        })
                        .or_else(|| running.candidate.as_ref().map(|tried| tried.shown(shared))),
                    ..self.status(State::Running, Some(&running.loaded), shared)
                }
            }
            // Neither running nor refused does not happen: what is not refused was started.
            (None, refused) => {
                let state = match refused {
                    None => State::Loading,
                    Some(CandidateState::AwaitingGrant) => State::AwaitingGrant,
                    Some(CandidateState::Failed | CandidateState::RolledBack | CandidateState::Canary) => State::Failed,
                };
                ConsumerStatus { reason: Some(told), ..self.status(state, newest, shared) }
            }
        };
        shared.board.show(ConsumerStatus { datasets, not_kept, ..status });
    }

    fn status(&self, state: State, loaded: Option<&Loaded<R>>, shared: &Shared<R>) -> ConsumerStatus {
        let bare = ConsumerStatus::bare(self.name.clone(), state, None);
        let Some(loaded) = loaded else { return bare };
        let description = shared.runtime.description(&loaded.plugin);
        ConsumerStatus {
            version: Some(description.version.to_string()),
            hash: Some(loaded.hash.to_string()),
            state_version: Some(description.state_version),
            summary: Some(description.summary.clone()),
            subscriptions: description.subscriptions.iter().map(ToString::to_string).collect(),
            needs: description.needs.iter().map(ToString::to_string).collect(),
            ..bare
        }
    }
}

fn datasets<R: Runtime>(loaded: &Loaded<R>, shared: &Shared<R>) -> Vec<String> {
    let needs = shared.runtime.description(&loaded.plugin).needs.iter();
    needs.filter_map(|need| if let Need::Records(dataset) = need { Some(dataset.name.clone()) } else { None }).collect()
}

/// What a removed consumer's status says.
pub fn removed_reason<R>(name: &ConsumerName, shared: &Shared<R>) -> String {
    let path = scan::plugin_path(&shared.dir, name);
    format!("{} is gone; position and state are kept: put it back to go on", path.display())
}
