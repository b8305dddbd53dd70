//! One rank's seat in a group, its ties to the groups split from it, and how it leaves.
//!
//! Who owns what: handles share a [`Member`], which owns the communication thread; that thread's jobs
//! own the [`Core`], never the member, so the last handle is never dropped on the thread it joins. All
//! groups of one rank share a [`Lineage`], through which a launcher tells how the rank ended.
//!
//! A rank leaves a group when its last handle goes. The exception is a launched rank that is going down:
//! its handles go while a panic unwinds, or after the failure of another of its groups, before the
//! launcher knows the reason. Those seats are kept for the launcher, which calls [`Lineage::leave`] when
//! the rank has ended, so that all groups are told the cause and not its echo.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{JoinHandle, panicking};

use super::work::{Communicator, Job};
use crate::error::{Departure, Error, Result};
use crate::transport::processes::World;
use crate::transport::threads::Meeting;

/// What a call needs of its group.
pub(super) struct Core {
    pub(super) meeting: Arc<Meeting>,
    /// The rank within the group.
    pub(super) rank: usize,
    /// This process's part in the job: it ends with the last seat.
    pub(super) world: Arc<World>,
    /// How many collective calls this rank has made.
    collectives: AtomicU64,
    /// How many point-to-point calls this rank has made; these are counted apart, because the others
    /// don't make them too.
    messages: AtomicU64,
}

impl Core {
    pub(super) fn new(meeting: Arc<Meeting>, rank: usize, world: Arc<World>) -> Arc<Self> {
        let (collectives, messages) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self {
            meeting,
            rank,
            world,
            collectives,
            messages,
        })
    }

    pub(super) fn global_rank(&self) -> usize {
        self.meeting.ranks()[self.rank]
    }

    pub(super) fn next_collective(&self) -> u64 {
        self.collectives.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn next_message(&self) -> u64 {
        self.messages.fetch_add(1, Ordering::Relaxed)
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
    pub(super) fn submit(&self, job: Job) -> Result<()> {
        lock(&self.communicator).submit(self.core.global_rank(), job)
    }

    /// Waits until all jobs handed in so far are done.
    fn finish(&self) {
        // The lock is not held while this waits.
        let done = lock(&self.communicator).marker();
        if let Some(done) = done {
            // Either the marker is reached, or the thread is gone and so are its jobs.
            let _ = done.recv();
        }
    }

    /// Leaves the seat to the launcher, and a thread that may wait in the group; gives the thread back if
    /// there is no launcher.
    pub(super) fn entrust(
        self: &Arc<Self>,
        thread: Option<JoinHandle<()>>,
    ) -> Result<(), Option<JoinHandle<()>>> {
        self.lineage
            .keep(&self.core, thread, Some(Arc::clone(self)))
    }

    fn leave(&self, reason: &Departure) {
        self.core.meeting.leave(self.core.rank, reason.clone());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let communicator = self
            .communicator
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let mut thread = communicator.close();
        if panicking() || self.lineage.has_failed() {
            match self.lineage.keep(&self.core, thread, None) {
                Ok(()) => return,
                Err(back) => thread = back,
            }
        }
        if panicking() {
            self.leave(&Departure::Panicked("(on its own thread)".into()));
            join(thread);
        } else {
            // What was started is finished before this rank is gone.
            join(thread);
            self.leave(&Departure::Returned);
        }
    }
}

/// All seats of one rank: in the group it began with and in those split from it.
pub(super) struct Lineage {
    /// Whether a launcher will tell how the rank ends.
    launched: bool,
    seats: Mutex<Seats>,
    /// An error that ends the job although the rank's worker may go on.
    fault: OnceLock<Error>,
}

/// A seat that the launcher leaves once it knows how the rank ended.
struct Kept {
    core: Arc<Core>,
    /// A thread that may wait in the group until it is told.
    thread: Option<JoinHandle<()>>,
    /// Keeps the seat from being left before, where it has handles still.
    _member: Option<Arc<Member>>,
}

#[derive(Default)]
struct Seats {
    /// How the rank ended, once it has.
    departure: Option<Departure>,
    members: Vec<Weak<Member>>,
    /// Seats that are the launcher's to leave: entrusted to it, or without handles since the rank is
    /// going down.
    kept: Vec<Kept>,
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
        let mut seats = lock(&self.seats);
        seats.members.retain(|member| member.strong_count() > 0);
        seats.members.push(Arc::downgrade(member));
        if let Some(reason) = &seats.departure {
            member.leave(reason);
        }
    }

    /// Keeps a seat for the launcher to leave; gives the thread back if there is none to do so.
    fn keep(
        &self,
        core: &Arc<Core>,
        thread: Option<JoinHandle<()>>,
        member: Option<Arc<Member>>,
    ) -> Result<(), Option<JoinHandle<()>>> {
        let mut seats = lock(&self.seats);
        if !self.launched || seats.departure.is_some() {
            return Err(thread);
        }
        seats.kept.push(Kept {
            core: Arc::clone(core),
            thread,
            _member: member,
        });
        Ok(())
    }

    /// Whether a group of this rank has failed.
    fn has_failed(&self) -> bool {
        self.members()
            .iter()
            .any(|member| member.core.meeting.has_failed())
    }

    /// Ends all groups of this rank with the failure of one of them.
    pub(super) fn fail(&self, error: &Error) {
        let kept: Vec<_> = lock(&self.seats)
            .kept
            .iter()
            .map(|kept| Arc::clone(&kept.core))
            .collect();
        let held = self.members();
        for core in kept.iter().chain(held.iter().map(|member| &member.core)) {
            core.meeting.fail(error.clone());
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
        self.members().iter().for_each(|member| member.finish());
    }

    /// Leaves all seats for the same reason, and those that are still to come.
    pub(super) fn leave(&self, reason: &Departure) {
        let kept = {
            let mut seats = lock(&self.seats);
            seats.departure.get_or_insert_with(|| reason.clone());
            std::mem::take(&mut seats.kept)
        };
        for member in self.members() {
            member.leave(reason);
        }
        for Kept { core, .. } in &kept {
            core.meeting.leave(core.rank, reason.clone());
        }
        // Only now that every group knows, for these threads may wait for one of them.
        for Kept { thread, .. } in kept {
            join(thread);
        }
    }

    /// The seats with handles. They are used after the lock is released, because dropping a member
    /// takes it.
    fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.seats)
            .members
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

/// Waits for a communication thread whose queue is closed.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        // Its jobs catch their panics, so there is no failure to report here.
        let _ = thread.join();
    }
}

/// Locks state that is consistent between any two statements, so a panic in between does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
