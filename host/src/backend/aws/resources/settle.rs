//! Look, compare, do, and look again, until there is nothing to do.
//!
//! Several hosts do this at once. Whatever one finds done already it takes as its own, and what it cannot do because
//! another is at it, it looks at again.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{Error, Plan, Step, missing};
use crate::backend::aws::clients::Clients;

/// A table is made in seconds; an index over many items takes longer, and a host that waits is of no use.
pub const SETTLED_MAX: Duration = Duration::from_secs(600);
pub const PAUSE: Duration = Duration::from_secs(1);

/// Resources that are looked at together.
#[async_trait]
pub trait Site: Sync {
    type Found: Send + Sync;

    fn clients(&self) -> &Clients;

    async fn look(&self) -> Result<Self::Found, Error>;

    /// What to do where this was found. Pure.
    fn compare(&self, found: &Self::Found) -> Result<Plan, Error>;

    /// Does one step of such a plan.
    async fn apply(&self, found: &Self::Found, step: &Step) -> Result<Applied, Error>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It shows at the next look.
    Done,
    /// It was taken, but an old value may be shown for a while.
    Taken,
    /// Not now: something else changes there.
    Later,
}

/// Brings `site` to where it should be, or with `provision` unset only says what it lacks.
pub async fn settle<S: Site>(site: &S, provision: bool) -> Result<S::Found, Error> {
    let deadline = Instant::now() + SETTLED_MAX;
    let (mut taken, mut last) = (Vec::new(), Plan::default());
    loop {
        let found = site.look().await?;
        let mut plan = site.compare(&found)?;
        plan.steps.retain(|step| !taken.contains(step));
        if plan.is_empty() {
            return Ok(found);
        }
        if !provision {
            return if plan.is_needed() { Err(missing(site.clients(), plan)) } else { Ok(told(found, &plan)) };
        }
        if Instant::now() > deadline {
            return Err(Error::Slow { what: plan.to_string() });
        }
        let mut again = plan == last;
        let stage = plan.steps.iter().map(Step::stage).min();
        for step in plan.steps.iter().filter(|step| Some(step.stage()) == stage) {
            match site.apply(&found, step).await? {
                Applied::Done => tracing::info!(%step, "provisioned"),
                Applied::Taken => {
                    tracing::info!(%step, "provisioned");
                    taken.push(step.clone());
                }
                Applied::Later => again = true,
            }
        }
        if again {
            sleep(PAUSE).await;
        }
        last = plan;
    }
}

fn told<F>(found: F, plan: &Plan) -> F {
    for step in &plan.steps {
        tracing::warn!(%step, "a resource at AWS does its work, and is not as it should be");
    }
    found
}
