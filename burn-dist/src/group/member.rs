//! One rank's seat in a group, its ties to the groups split from it, and how it leaves.
//!
//! Who owns what: handles share a [`Member`], which owns the communication thread; that thread's jobs
//! own the [`Core`], never the member, so the last handle is never dropped on the thread it joins. All
//! groups of one rank share a [`Lineage`], through which a launcher tells how the rank ended.
//!
//! A rank leaves a group when its last handle goes and its queued operations are over. A launched rank may be
//! going down then, for a reason that the launcher learns only when the worker has ended. So it leaves *early*:
//! the others are told at once, and those who need it wait up to [`GRACE`] for a better reason, which the
//! launcher gives all groups ([`Lineage::leave`]): they are told the cause and not its echo.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::panicking;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::work::{Communicator, QueuedJob};
use crate::engine::{GRACE, GroupState};
use crate::error::{Departure, Error, Result};
use crate::transport::processes::World;
use crate::transport::thread::Thread;

/// Number of seats left early that are kept for a better reason. For an older one, the other ranks hear only
/// that the rank left.
const MOST_LEFT: usize = 32;

/// State that a call needs of its group.
pub(super) struct Core {
    pub(super) state: Arc<GroupState>,
    /// The rank within the group.
    pub(super) rank: usize,
    /// This process's part in the job: it ends with the last seat.
    pub(super) world: Arc<World>,
    /// Number of collective calls this rank has made.
    collectives: AtomicU64,
    /// Number of point-to-point calls this rank has made. They are counted apart, because other ranks do not
    /// make them too.
    messages: AtomicU64,
    /// The number of differentiable calls that this rank has made.
    functional: AtomicU64,
}

impl Core {
    pub(super) fn new(state: Arc<GroupState>, rank: usize, world: Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            state,
            rank,
            world,
            collectives: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            functional: AtomicU64::new(0),
        })
    }

    pub(super) fn global_rank(&self) -> usize {
        self.state.ranks()[self.rank]
    }

    pub(super) fn next_collective(&self) -> u64 {
        self.collectives.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn next_message(&self) -> u64 {
        self.messages.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn next_functional(&self) -> u64 {
        self.functional.fetch_add(1, Ordering::Relaxed)
    }
}

/// A seat in a group, alive as long as a handle of it.
pub(super) struct Member {
    core: Arc<Core>,
    lineage: Arc<Lineage>,
    communicator: Mutex<Communicator>,
}

impl Member {
    pub(super) fn new(core: Arc<Core>, lineage: &Arc<Lineage>) -> Arc<Self> {
        let communicator = Mutex::new(Communicator::default());
        let member = Arc::new(Self {
            core,
            lineage: Arc::clone(lineage),
            communicator,
        });
        lineage.adopt(&member);
        member
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// Hands a job to the communication thread, which is started for the first.
    pub(super) fn submit(&self, job: QueuedJob) -> Result<()> {
        self.communicator
            .lock()
            .submit(self.core.global_rank(), job)
    }

    /// Waits until all jobs handed in so far are done.
    fn finish(&self) {
        // The lock is not held while this waits.
        let done = self.communicator.lock().marker();
        if let Some(done) = done {
            // Either the marker is reached, or the thread is gone and so are its jobs.
            let _ = done.recv();
        }
    }

    fn leave(&self, reason: &Departure) {
        self.core.state.leave(self.core.rank, reason.clone());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut communicator = std::mem::take(self.communicator.get_mut());
        let reason = if panicking() {
            Departure::Panicked("(on its own thread)".into())
        } else {
            Departure::Returned
        };
        if self.lineage.has_launcher() {
            let (core, reason) = (Arc::clone(&self.core), reason.clone());
            let leave = move || core.state.leave_early(core.rank, reason);
            let thread = communicator.close_after(leave);
            self.lineage.keep(&self.core, thread);
        } else if panicking() {
            self.leave(&reason);
            join(communicator.close());
        } else {
            // What was started is finished before this rank is gone.
            join(communicator.close());
            self.leave(&reason);
        }
    }
}

/// All seats of one rank: in the group it began with and in those split from it.
pub(super) struct Lineage {
    /// True if a launcher will tell how the rank ends.
    launched: bool,
    seats: Mutex<Seats>,
    /// An error that ends the job although the rank's worker may go on.
    fault: OnceLock<Error>,
}

/// A seat without handles, whose others may still be told a better reason.
struct Left {
    core: Arc<Core>,
    /// The communication thread, which leaves when it has done its jobs.
    thread: Option<Thread>,
    /// Last time at which it was known to run.
    since: Instant,
}

#[derive(Default)]
struct Seats {
    /// End of the rank, once it has ended.
    departure: Option<Departure>,
    members: Vec<Weak<Member>>,
    /// The oldest first.
    left: VecDeque<Left>,
    /// Threads that may wait in a group until the rank has left it, and for how long.
    threads: Vec<(Thread, Duration)>,
}

impl Seats {
    /// Takes out what nobody waits for any more, to be dropped without the lock.
    fn prune(&mut self) -> Vec<Left> {
        self.threads.retain(|(thread, _)| !thread.has_ended());
        for left in &mut self.left {
            if left.thread.take_if(|thread| thread.has_ended()).is_none() && left.thread.is_some() {
                left.since = Instant::now();
            }
        }
        let mut surplus = self.left.len().saturating_sub(MOST_LEFT);
        let (kept, gone) = std::mem::take(&mut self.left)
            .into_iter()
            .partition(|left| {
                let over = left.thread.is_none() && (surplus > 0 || left.since.elapsed() > GRACE);
                surplus -= usize::from(over && surplus > 0);
                !over
            });
        self.left = kept;
        let gone: VecDeque<Left> = gone;
        gone.into()
    }
}

impl Lineage {
    pub(super) fn new(launched: bool) -> Arc<Self> {
        Arc::new(Self {
            launched,
            seats: Mutex::default(),
            fault: OnceLock::new(),
        })
    }

    fn adopt(&self, member: &Arc<Member>) {
        let mut seats = self.seats.lock();
        seats.members.retain(|member| member.strong_count() > 0);
        seats.members.push(Arc::downgrade(member));
        if let Some(reason) = &seats.departure {
            member.leave(reason);
        }
    }

    /// True while a launcher will still tell how the rank ends.
    fn has_launcher(&self) -> bool {
        self.launched && self.seats.lock().departure.is_none()
    }

    /// Keeps a seat that was left early, for the launcher's reason.
    fn keep(&self, core: &Arc<Core>, thread: Option<Thread>) {
        let mut seats = self.seats.lock();
        let gone = if let Some(reason) = seats.departure.clone() {
            drop(seats);
            core.state.leave(core.rank, reason);
            join(thread);
            return;
        } else {
            seats.left.push_back(Left {
                core: Arc::clone(core),
                thread,
                since: Instant::now(),
            });
            seats.prune()
        };
        drop(seats);
        drop(gone);
    }

    /// Has the launcher join a thread that waits in a group for so long at most; gives it back if there is no
    /// launcher.
    pub(super) fn keep_thread(&self, thread: Thread, time: Duration) -> Result<(), Thread> {
        let mut seats = self.seats.lock();
        if !self.launched || seats.departure.is_some() {
            return Err(thread);
        }
        seats.threads.push((thread, time));
        let gone = seats.prune();
        drop(seats);
        drop(gone);
        Ok(())
    }

    /// Ends all groups of this rank with the failure of one of them.
    pub(super) fn fail(&self, error: &Error) {
        let left: Vec<_> = self
            .seats
            .lock()
            .left
            .iter()
            .map(|left| Arc::clone(&left.core))
            .collect();
        let held = self.members();
        for core in left.iter().chain(held.iter().map(|member| &member.core)) {
            core.state.fail(error.clone());
        }
    }

    /// Keeps the first error that a call without a result has found. A launcher may know a better reason
    /// soon, so with one the groups fail at the rank's next call, or when its worker returns.
    pub(super) fn fault(&self, error: Error) {
        let error = self.fault.get_or_init(|| error);
        if !self.launched {
            self.fail(error);
        }
    }

    /// The error that [`Self::fault`] has kept.
    pub(super) fn kept_fault(&self) -> Option<&Error> {
        self.fault.get()
    }

    /// Ends all groups with the kept fault, if there is one: the rank goes on, so no better reason comes.
    pub(super) fn tell_fault(&self) {
        if let Some(error) = self.fault.get() {
            self.fail(error);
        }
    }

    /// Waits until the jobs of all seats are done.
    pub(super) fn finish(&self) {
        let left: Vec<_> = {
            let mut seats = self.seats.lock();
            let left = seats.left.iter_mut();
            left.map(|left| left.thread.take()).collect()
        };
        left.into_iter().for_each(join);
        self.members().iter().for_each(|member| member.finish());
    }

    /// Leaves all seats for the same reason, and those that are still to come.
    pub(super) fn leave(&self, reason: &Departure) {
        let (left, threads) = {
            let mut seats = self.seats.lock();
            seats.departure.get_or_insert_with(|| reason.clone());
            let seats = &mut *seats;
            let left = std::mem::take(&mut seats.left);
            (left, std::mem::take(&mut seats.threads))
        };
        for member in self.members() {
            member.leave(reason);
        }
        for Left { core, .. } in &left {
            core.state.leave(core.rank, reason.clone());
        }
        // Only now that every group knows, for these threads may wait for one of them.
        for Left { thread, .. } in left {
            join(thread);
        }
        for (thread, time) in threads {
            if thread.join_within(time).is_err() {
                let after = time.as_secs_f64();
                tracing::error!(
                    "a thread of a rank that has ended is left behind after {after:.1} s"
                );
            }
        }
    }

    /// The seats with handles. They are used after the lock is released, because dropping a member
    /// takes it.
    fn members(&self) -> Vec<Arc<Member>> {
        self.seats
            .lock()
            .members
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

/// Waits for a communication thread whose queue is closed: each of its jobs has a deadline, and catches its
/// panics.
fn join(thread: Option<Thread>) {
    if let Some(thread) = thread {
        let _ = thread.join_within(Duration::MAX);
    }
}
