//! Ends of deliveries of one consumer that come at the same time, written in one transaction where they fit into one.
//!
//! **Invariants**
//! - A draft is written whole or not at all, and is refused for its own conditions alone, whoever it was together with.
//! - Two drafts of one transaction write the same item only where both adjust a counter that neither of them read. What one asks
//!   of it holds behind what the other did.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::counter::Counter;
use super::{Draft, Mark};
use crate::backend::aws::backfills::gate;
use crate::backend::aws::gather::Gather;
use crate::backend::aws::item::Key;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{WRITES_MAX, Write};
use crate::backend::{Error, Result};
use crate::fault::{self, Point};

/// Drafts that wait and are a batch of their own, and batches at once: what one consumer writes soon meets in its counters.
const WHOLE: usize = 16;
const BATCHES_MAX: usize = 3;
/// Of what a transaction writes; DynamoDB takes 4 MB.
pub const BYTES_MAX: usize = 3 << 20;
/// How long the next batch waits for the one before.
const LONG: Duration = Duration::from_millis(250);
/// Drafts that are passed over for one batch.
const PASSED_MAX: usize = 32;

/// Keys of items, as numbers: two that are taken for one only go into different transactions.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The drafts of one consumer that are to be written.
pub struct Committer {
    store: Arc<Store>,
    jobs: Gather<Job>,
}

struct Job {
    draft: Draft,
    /// What it writes or looks at, and whether others may do so in the same transaction.
    items: Vec<(u64, bool)>,
    bytes: usize,
    /// It was together with others, and which of them was refused is not known.
    alone: bool,
    told: oneshot::Sender<Result<Result<(), Vec<Mark>>>>,
}

impl Committer {
    pub fn new(store: &Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store: Arc::clone(store), jobs: Gather::new(WHOLE, BATCHES_MAX) })
    }

    /// Writes a draft, and lets its events be published. What its conditions refused is in the error.
    pub async fn commit(self: &Arc<Self>, draft: Draft) -> Result<Result<(), Vec<Mark>>> {
        let (told, answer) = oneshot::channel();
        if self.jobs.push(Job::new(draft, told)) {
            self.begin();
        }
        answer.await.unwrap_or_else(|_| Err(Error::Unavailable("the host ends".into())))
    }

    fn begin(self: &Arc<Self>) {
        self.spawn(Arc::clone(self).run());
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.store.tasks.spawn(self.store.in_flight.track_future(work));
    }

    /// Writes what waits. What takes long goes on by itself: it may be one lane's alone, and nobody else's affair.
    async fn run(self: Arc<Self>) {
        while let Some(jobs) = self.jobs.take(fitting) {
            let committer = Arc::clone(&self);
            let mut write = Box::pin(async move { committer.write(jobs).await });
            if let Ok(again) = timeout(LONG, &mut write).await {
                self.jobs.put_back(again);
                continue;
            }
            let committer = Arc::clone(&self);
            self.spawn(async move {
                let again = write.await;
                if committer.jobs.put_back_and_begin(again) {
                    committer.begin();
                }
            });
        }
    }

    /// What it returns is to be written again.
    async fn write(&self, jobs: Vec<Job>) -> Vec<Job> {
        let together = Together::of(&jobs);
        let done = self.store.table.write(&together.writes(&jobs)).await;
        let publisher = &self.store.publisher;
        let verdicts = match done {
            Ok(Ok(())) => {
                fault::pass(Point::CloudSettled);
                for Job { draft, told, .. } in jobs {
                    publisher.publish(draft.events);
                    drop(told.send(Ok(Ok(()))));
                }
                return Vec::new();
            }
            Ok(Err(refused)) => together.verdicts(jobs.len(), &refused),
            // One of them is not to be written at all, and nothing was.
            Err(Error::Failed(_)) if jobs.len() > 1 => vec![Verdict::Alone; jobs.len()],
            Err(error) => {
                for Job { draft, told, .. } in jobs {
                    publisher.look_for(draft.events);
                    drop(told.send(Err(error.clone())));
                }
                return Vec::new();
            }
        };
        let mut again = Vec::new();
        for (job, verdict) in jobs.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Refused(marks) => {
                    publisher.abandon(&job.draft.events);
                    drop(job.told.send(Ok(Err(marks))));
                }
                Verdict::Alone => again.push(Job { alone: true, ..job }),
                Verdict::Again => again.push(job),
            }
        }
        again
    }
}

impl Job {
    fn new(draft: Draft, told: oneshot::Sender<Result<Result<(), Vec<Mark>>>>) -> Self {
        let writes = draft.writes.iter().map(|(_, write)| (KEYS.hash_one(write.key()), false));
        let counters = draft.counters.iter();
        let counters = counters.map(|(Key { pk, sk }, it)| (KEYS.hash_one((pk.as_str(), sk.as_str())), it.joins()));
        // They all look at the same gate, and none writes it.
        let gate = draft.gate.iter().map(|Key { pk, sk }| (KEYS.hash_one((pk.as_str(), sk.as_str())), true));
        let items = writes.chain(counters).chain(gate).collect();
        let bytes = draft.writes.iter().map(|(_, write)| write.bytes()).sum();
        Self { draft, items, bytes, alone: false, told }
    }
}

/// Takes as many as fit into one transaction, the first one always.
fn fitting(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let (mut batch, mut passed) = (Vec::new(), Vec::new());
    let (mut items, mut bytes): (HashMap<u64, bool>, usize) = (HashMap::new(), 0);
    while passed.len() < PASSED_MAX
        && let Some(job) = waiting.pop_front()
    {
        let meets = || job.items.iter().any(|(item, joins)| items.get(item).is_some_and(|other| !(*joins && *other)));
        let more = || job.items.iter().filter(|(item, _)| !items.contains_key(item)).count();
        let fits = || !job.alone && !meets() && items.len() + more() <= WRITES_MAX && bytes + job.bytes <= BYTES_MAX;
        if !batch.is_empty() && !fits() {
            passed.push(job);
            continue;
        }
        items.extend(job.items.iter().copied());
        bytes += job.bytes;
        let alone = job.alone;
        batch.push(job);
        if alone {
            break;
        }
    }
    for job in passed.into_iter().rev() {
        waiting.push_front(job);
    }
    batch
}

/// What becomes of a draft after a transaction was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Refused(Vec<Mark>),
    /// It may be its fault or another one's.
    Alone,
    Again,
}

/// Drafts of one transaction.
struct Together {
    /// Of each write that is not a counter's, in order: whose it is, and what a refusal of it means.
    marks: Vec<(usize, Mark)>,
    /// Each counter, with everybody who adjusts or looks at it.
    counters: Vec<(Write, Mark, Vec<usize>)>,
    /// What must be open for them: mostly nothing, and hardly ever more than one.
    gates: Vec<(Write, Vec<usize>)>,
}

impl Together {
    fn of(jobs: &[Job]) -> Self {
        let marks =
            jobs.iter().enumerate().flat_map(|(job, it)| it.draft.writes.iter().map(move |(mark, _)| (job, *mark)));
        let mut merged: Vec<(&Key, Counter, Vec<usize>)> = Vec::new();
        let mut places: HashMap<&Key, usize> = HashMap::new();
        for (job, it) in jobs.iter().enumerate() {
            for (key, counter) in &it.draft.counters {
                match places.get(key).and_then(|place| merged.get_mut(*place)) {
                    Some((_, before, owners)) => {
                        *before = before.then(*counter);
                        owners.push(job);
                    }
                    None => {
                        places.insert(key, merged.len());
                        merged.push((key, *counter, vec![job]));
                    }
                }
            }
        }
        let counters = merged.into_iter().map(|(key, it, owners)| (it.write(key.clone()), it.mark(), owners));
        let mut gates: Vec<(&Key, Vec<usize>)> = Vec::new();
        for (job, it) in jobs.iter().enumerate() {
            let Some(gate) = &it.draft.gate else { continue };
            match gates.iter_mut().find(|(key, _)| *key == gate) {
                Some((_, owners)) => owners.push(job),
                None => gates.push((gate, vec![job])),
            }
        }
        let gates = gates.into_iter().map(|(key, owners)| (Write::Check(key.clone(), gate::is_open()), owners));
        Self { marks: marks.collect(), counters: counters.collect(), gates: gates.collect() }
    }

    fn writes<'a>(&'a self, jobs: &'a [Job]) -> Vec<&'a Write> {
        let writes = jobs.iter().flat_map(|job| job.draft.writes.iter().map(|(_, write)| write));
        let writes = writes.chain(self.counters.iter().map(|(write, ..)| write));
        writes.chain(self.gates.iter().map(|(write, _)| write)).collect()
    }

    fn verdicts(&self, jobs: usize, refused: &[usize]) -> Vec<Verdict> {
        let mut marks: Vec<Vec<Mark>> = vec![Vec::new(); jobs];
        let mut alone: HashSet<usize> = HashSet::new();
        for index in refused {
            let counter = || self.counters.get(index - self.marks.len());
            match self.marks.get(*index) {
                Some((job, mark)) => marks.get_mut(*job).into_iter().for_each(|marks| marks.push(*mark)),
                None => match counter() {
                    Some((_, mark, owners)) if let [job] = &**owners => {
                        marks.get_mut(*job).into_iter().for_each(|marks| marks.push(*mark));
                    }
                    Some((.., owners)) => alone.extend(owners),
                    None => {
                        let gate = self.gates.get(index - self.marks.len() - self.counters.len());
                        for job in gate.iter().flat_map(|(_, owners)| owners) {
                            marks.get_mut(*job).into_iter().for_each(|marks| marks.push(Mark::Gate));
                        }
                    }
                },
            }
        }
        let verdict = |(job, marks): (usize, Vec<Mark>)| match marks.is_empty() {
            false => Verdict::Refused(marks),
            true if alone.contains(&job) => Verdict::Alone,
            true => Verdict::Again,
        };
        marks.into_iter().enumerate().map(verdict).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::aws::table::Change;

    fn key(name: &str) -> Key {
        Key { pk: "a".into(), sk: name.into() }
    }

    /// A draft that puts `items` and takes one from each of `counters`, where there is one left.
    fn job(items: &[&str], counters: &[&str]) -> Job {
        let mut draft = Draft::default();
        for item in items {
            draft.writes.update(Mark::Place, key(item), Change::of("SET v = :v"));
        }
        for name in counters {
            let mut counter = Counter::default();
            counter.adjust(-1, Some(0));
            draft.counters.push((key(name), counter));
        }
        Job::new(draft, oneshot::channel().0)
    }

    fn names(jobs: &[Job]) -> Vec<Vec<&str>> {
        jobs.iter().map(|job| job.draft.writes.iter().map(|(_, write)| write.key().1).collect()).collect()
    }

    #[test]
    fn drafts_that_write_the_same_item_go_one_after_the_other_and_counters_go_together() {
        let mut waiting = VecDeque::from([job(&["1"], &["n"]), job(&["1"], &[]), job(&["2"], &["n", "m"])]);
        let batch = fitting(&mut waiting);
        assert_eq!(names(&batch), [["1"], ["2"]]);
        let together = Together::of(&batch);
        let keys: Vec<&str> = together.writes(&batch).iter().map(|write| write.key().1).collect();
        assert_eq!(keys, ["1", "2", "n", "m"]);
        assert_eq!(names(&fitting(&mut waiting)), [["1"]]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_counter_that_somebody_read_is_not_shared() {
        let mut reader = job(&["2"], &["n"]);
        reader.draft.counters[0].1.seen = Some(4);
        let Job { draft, told, .. } = reader;
        let mut waiting = VecDeque::from([job(&["1"], &["n"]), Job::new(draft, told)]);
        assert_eq!(names(&fitting(&mut waiting)), [["1"]]);
    }

    #[test]
    fn a_batch_has_as_many_writes_as_a_transaction_takes() {
        let many: Vec<String> = (0..60).map(|n| n.to_string()).collect();
        let of = |prefix: &str| {
            let items: Vec<String> = many.iter().map(|item| format!("{prefix}{item}")).collect();
            job(&items.iter().map(String::as_str).collect::<Vec<_>>(), &[])
        };
        let mut waiting = VecDeque::from([of("a"), of("b"), job(&["one"], &[])]);
        assert_eq!(fitting(&mut waiting).iter().map(|job| job.items.len()).collect::<Vec<_>>(), [60, 1]);
        assert_eq!(fitting(&mut waiting).len(), 1);
    }

    #[test]
    fn each_is_refused_for_its_own_conditions_alone() {
        let jobs = [job(&["1"], &["n"]), job(&["2"], &["n"]), job(&["3"], &["m"]), job(&["4"], &[])];
        let together = Together::of(&jobs);
        // Writes: 1, 2, 3, 4, n, m.
        let of_one = together.verdicts(4, &[1]);
        assert_eq!(of_one, [Verdict::Again, Verdict::Refused(vec![Mark::Place]), Verdict::Again, Verdict::Again]);
        let shared = together.verdicts(4, &[4, 5]);
        let floor = Verdict::Refused(vec![Mark::Floor]);
        assert_eq!(shared, [Verdict::Alone, Verdict::Alone, floor, Verdict::Again]);
    }

    #[test]
    fn a_gate_is_looked_at_once_and_refuses_all_that_wanted_it_open() {
        let gated = |name: &str| {
            let Job { mut draft, told, .. } = job(&[name], &["n"]);
            draft.gate = Some(key("gate"));
            Job::new(draft, told)
        };
        let mut waiting = VecDeque::from([gated("1"), job(&["2"], &["n"]), gated("3")]);
        let batch = fitting(&mut waiting);
        let together = Together::of(&batch);
        let keys: Vec<&str> = together.writes(&batch).iter().map(|write| write.key().1).collect();
        assert_eq!(keys, ["1", "2", "3", "n", "gate"]);
        let shut = Verdict::Refused(vec![Mark::Gate]);
        assert_eq!(together.verdicts(3, &[4]), [shut.clone(), Verdict::Again, shut]);
    }

    #[test]
    fn one_that_goes_alone_is_with_nobody() {
        let alone = |job: Job| Job { alone: true, ..job };
        let mut waiting = VecDeque::from([alone(job(&["1"], &[])), job(&["2"], &[]), alone(job(&["3"], &[]))]);
        assert_eq!(names(&fitting(&mut waiting)), [["1"]]);
        assert_eq!(names(&fitting(&mut waiting)), [["2"]]);
        assert_eq!(names(&fitting(&mut waiting)), [["3"]]);
    }
}
