//! The one way into the committer: jobs in the order in which they were pushed.
//!
//! Whoever pushes a job that depends on another's result holds the lock of what both touch, so the order of the
//! queue is the order of dependence: if a job fails, only later ones can have seen what it did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::commit::Commit;
use super::writer::Writer;
use crate::backend::{Durable, Error, Placed, Placement, Published, Result};
use crate::event::Custom;

/// Jobs that may wait for the disk. At the commit rates of a local disk this is less than a second of work; more
/// would be memory and latency, not throughput.
pub const DEPTH_MAX: u64 = 16_384;

/// Handlers stop earlier than the API, so that a backlog of deliveries never keeps an order out.
pub const DEPTH_OF_DELIVERIES_MAX: u64 = DEPTH_MAX / 2;

/// Jobs in one transaction: a bound on how long those behind it wait.
const BATCH_MAX: usize = 4_096;

pub type Reply<T> = oneshot::Sender<Result<Durable<T>>>;

/// Changes nothing else needs a name for; what it returns runs when the batch is durable, or has failed. Without a writer, it is
/// refused.
pub type Task = Box<dyn FnOnce(Result<&mut Writer<'_>>) -> rusqlite::Result<Answer> + Send>;
pub type Answer = Box<dyn FnOnce(Result<()>) + Send>;

pub enum Job {
    Place {
        placement: Box<Placement>,
        content: String,
        reply: Reply<Placed>,
    },
    Publish {
        events: Vec<Custom>,
        reply: Reply<Vec<Published>>,
    },
    /// The end of a delivery. Nobody waits for it.
    Commit(Box<Commit>),
    Task(Task),
}

impl Job {
    /// A task whose result goes to `reply`.
    pub fn task<T: Send + 'static>(
        task: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
        reply: Reply<T>,
    ) -> Self {
        Self::Task(Box::new(move |writer| match writer {
            Ok(writer) => settle(task(writer), reply),
            Err(error) => {
                drop(reply.send(Err(error)));
                Ok(Box::new(drop))
            }
        }))
    }

    /// A task of somebody who goes back to what is durable where it is refused.
    pub fn untold(task: impl FnOnce(&mut Writer<'_>) -> rusqlite::Result<Answer> + Send + 'static) -> Self {
        Self::Task(Box::new(|writer| match writer {
            Ok(writer) => task(writer),
            Err(_) => Ok(Box::new(drop)),
        }))
    }

    /// Tells whoever waits that nothing was kept.
    pub fn refuse(self, error: &Error) {
        match self {
            Self::Place { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Publish { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Commit(_) => {}
            // Whoever hears of no refusal would take the store for closed.
            Self::Task(task) => drop(task(Err(error.clone()))),
        }
    }
}

/// Holds `outcome` back until it is known whether it became durable.
pub fn settle<T: Send + 'static>(outcome: rusqlite::Result<T>, reply: Reply<T>) -> rusqlite::Result<Answer> {
    match outcome {
        // Whoever asked may be gone: then nobody is told, and what is durable stays.
        Ok(value) => Ok(Box::new(move |durable| drop(reply.send(durable.map(|()| Durable::assert(value)))))),
        Err(error) => {
            drop(reply.send(Err(unavailable(&error))));
            Err(error)
        }
    }
}

pub fn unavailable(error: &rusqlite::Error) -> Error {
    Error::Unavailable(format!("writing to the data directory failed: {error}").into())
}

enum Mode {
    Open,
    /// The store is going back to what is durable, or waits for room on the disk.
    Refusing(Arc<str>),
    /// For good: shut down, or broken.
    Closed(Arc<str>),
}

struct State {
    jobs: Vec<Job>,
    /// Number of the last job pushed.
    pushed: u64,
    /// Ends of deliveries that were refused: whoever handed them in holds them for done.
    refused: u64,
    mode: Mode,
    /// Why nothing new begins, though what has begun is written.
    held: Option<Arc<str>>,
}

pub struct Queue {
    state: Mutex<State>,
    work: Condvar,
    pushed: AtomicU64,
    durable: AtomicU64,
}

impl Queue {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State { jobs: Vec::new(), pushed: 0, refused: 0, mode: Mode::Open, held: None }),
            work: Condvar::new(),
            pushed: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        }
    }

    /// Returns the job's number. A delivery's commit is not held to [`DEPTH_MAX`]: it was leased under a bound
    /// of its own, and what it staged must not be lost.
    pub fn push(&self, job: Job) -> Result<u64> {
        let mut state = self.state.lock();
        let bounded = !matches!(&job, Job::Commit(_));
        let new = matches!(&job, Job::Place { .. } | Job::Publish { .. });
        let refusal = match &state.mode {
            Mode::Open if new && state.held.is_some() => state.held.clone(),
            Mode::Open if !bounded || state.pushed - self.durable() < DEPTH_MAX => None,
            Mode::Open => Some("more is waiting for the disk than may wait; try again".into()),
            Mode::Refusing(why) | Mode::Closed(why) => Some(Arc::clone(why)),
        };
        if let Some(why) = refusal {
            state.refused += u64::from(!bounded);
            return Err(Error::Unavailable(why));
        }
        state.jobs.push(job);
        state.pushed += 1;
        let number = state.pushed;
        self.pushed.store(number, Ordering::Release);
        drop(state);
        self.work.notify_one();
        Ok(number)
    }

    /// What was pushed, once there is anything, at most [`BATCH_MAX`] jobs, with the number of the last of them;
    /// `None` when closed and empty.
    pub fn take(&self) -> Option<(Vec<Job>, u64)> {
        let mut state = self.state.lock();
        loop {
            if !state.jobs.is_empty() {
                let rest = if state.jobs.len() > BATCH_MAX { state.jobs.split_off(BATCH_MAX) } else { Vec::new() };
                let batch = std::mem::replace(&mut state.jobs, rest);
                return Some((batch, state.pushed - u64::try_from(state.jobs.len()).unwrap_or(0)));
            }
            if matches!(state.mode, Mode::Closed(_)) {
                return None;
            }
            self.work.wait(&mut state);
        }
    }

    /// Every job up to `number` is durable, or was refused.
    pub fn settled(&self, number: u64) {
        self.durable.store(number, Ordering::Release);
    }

    /// Number of the last job that is durable.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Jobs that are not durable yet.
    pub fn depth(&self) -> u64 {
        self.pushed.load(Ordering::Acquire).saturating_sub(self.durable())
    }

    /// Takes no more jobs until [`Queue::open`] says so, and refuses those that wait.
    pub fn refuse(&self, why: &str) {
        let (jobs, number) = {
            let mut state = self.state.lock();
            if !matches!(state.mode, Mode::Closed(_)) {
                state.mode = Mode::Refusing(why.into());
            }
            (std::mem::take(&mut state.jobs), state.pushed)
        };
        let error = Error::Unavailable(why.into());
        for job in jobs {
            job.refuse(&error);
        }
        self.settled(number);
    }

    /// Ends of deliveries that were refused.
    pub fn refused(&self) -> u64 {
        self.state.lock().refused
    }

    /// Takes jobs again, if no end of a delivery was refused since there were `refused`: the one who handed it in may have gone
    /// back to what is durable before, and must do so once more. Returns whether that is not so.
    #[must_use]
    pub fn open(&self, refused: u64) -> bool {
        let mut state = self.state.lock();
        if !matches!(state.mode, Mode::Refusing(_)) {
            return true;
        }
        if state.refused != refused {
            return false;
        }
        state.mode = Mode::Open;
        true
    }

    /// Takes no orders and events from outside as long as there is a reason; [`Queue::refusing`] tells it to those who begin
    /// deliveries.
    pub fn hold(&self, why: Option<&str>) {
        self.state.lock().held = why.map(Arc::from);
    }

    /// Takes no more jobs; what waits is still committed.
    pub fn close(&self, why: &str) {
        self.state.lock().mode = Mode::Closed(why.into());
        self.work.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state.lock().mode, Mode::Closed(_))
    }

    /// Why nothing is taken now.
    pub fn refusing(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        match &state.mode {
            Mode::Open => state.held.clone(),
            Mode::Refusing(why) | Mode::Closed(why) => Some(Arc::clone(why)),
        }
    }
}
