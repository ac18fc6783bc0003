//! What hosts and other functions decided about versions while this function stood still.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::backend::{Fleet, Standings};
use crate::consumer::status::{Catalogue, State};

/// Between two looks whether the version runs that was decided on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub struct Followed {
    standings: Mutex<Option<watch::Receiver<Standings>>>,
    catalogue: Arc<dyn Catalogue>,
}

impl Followed {
    pub fn new(fleet: &dyn Fleet, catalogue: Arc<dyn Catalogue>) -> Self {
        Self { standings: Mutex::new(fleet.standings()), catalogue }
    }

    /// Waits until what was decided lately runs here, as far as it can by then. The directory of consumers sees to it, and would
    /// stand still with the function.
    pub async fn in_step(&self, by: Instant) {
        let decided = {
            let mut standings = self.standings.lock();
            let Some(standings) = standings.as_mut().filter(|standings| standings.has_changed().unwrap_or(false))
            else {
                return;
            };
            Standings::clone(&standings.borrow_and_update())
        };
        while self.is_behind(&decided) {
            if Instant::now() >= by {
                tracing::warn!("what was decided about versions is not followed yet; the next invocation may");
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether a consumer that runs here runs another version than was decided on.
    fn is_behind(&self, decided: &Standings) -> bool {
        self.catalogue.list().into_iter().filter(|status| status.state == State::Running).any(|status| {
            let standing = decided.get(&status.name).filter(|standing| standing.is_decision());
            let live = standing.and_then(|standing| standing.live);
            live.is_some_and(|live| status.hash != Some(live.to_string()))
        })
    }
}
