//! Process groups: a set of ranks that make the same calls in the same order.
//!
//! - `operations`: the public calls.
//! - `call`: a collective as data: the requirements on its arguments, its signature, its algorithm.
//! - `buffer`, `tensor`: the forms in which a call takes its elements; `host`: tensors in host memory.
//! - `mode`: blocking and asynchronous calls; `work`: the communication thread and the result of an
//!   asynchronous call.
//! - `uneven`: calls whose ranks give different lengths; `objects`: values of any type.
//! - `p2p`: messages between two ranks.
//! - `member`: one rank's seat in a group and its departure.
//! - `split`: groups made from groups; `world`: the group of all ranks of a job of several processes.
//! - `traffic`: what a process has sent to the others.
//!
//! Ranks in the public interface are ranks within the group; errors name global ranks.

mod buffer;
mod call;
mod host;
mod member;
mod mode;
mod objects;
mod operations;
mod p2p;
mod split;
mod tensor;
mod traffic;
mod uneven;
mod work;
mod world;

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::GroupState;
use crate::error::{Departure, Error, Result};
use crate::rendezvous::Crossovers;
use crate::transport::processes::{Reporter, World};
use crate::transport::thread::Thread;
use member::{Core, Lineage, Member};

pub use buffer::{Buffer, form};
pub(crate) use host::in_memory;
pub use mode::{Blocking, Mode, Start, Started};
pub use objects::Objects;
pub use p2p::{AnyRank, Message, P2p, Slot, Source};
pub use traffic::Traffic;
pub use uneven::Uneven;
pub use work::Work;

/// Default time that a call waits for the other ranks.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_mins(5);

/// Upper bound of timeouts. Longer ones are cut to it, so that deadlines can be computed.
const LONGEST_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// One rank's membership in a group of ranks.
///
/// Every rank of the group makes the same calls in the same order; a call that differs from the
/// others' is an error on all of them ([`Error::Mismatch`]). After such an error, a timeout, an abort or
/// the loss of a rank, the group is of no further use: every later call returns the same error.
///
/// Clones are handles of one membership and share its order of calls. When a rank's last handle is
/// dropped, its asynchronous operations are finished, and it has left the group: the others' later calls say
/// so. (Under a [`Launcher`](crate::launch::Launcher) the operations are finished in the background.)
///
/// ```
/// use burn_dist::{ProcessGroup, ReduceOp};
///
/// let groups = ProcessGroup::threads(2)?;
/// std::thread::scope(|scope| {
///     for group in groups {
///         scope.spawn(move || {
///             let mut values = [group.rank() as f32, 1.0];
///             group.all_reduce(&mut values, ReduceOp::Sum).unwrap();
///             assert_eq!(values, [1.0, 2.0]);
///         });
///     }
/// });
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Clone)]
pub struct ProcessGroup<M = Blocking> {
    member: Arc<Member>,
    timeout: Duration,
    /// The call of the library that this handle's operations are part of.
    within: Option<Cow<'static, str>>,
    mode: PhantomData<M>,
}

impl<M> std::fmt::Debug for ProcessGroup<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessGroup")
            .field("rank", &self.rank())
            .field("ranks", &self.ranks())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl ProcessGroup {
    /// A group over threads of this process: one membership for each rank, in rank order, to be given
    /// to one thread each.
    ///
    /// When ranks wait for another in vain, an event of the crate `tracing` says who is behind. (A
    /// [`Launcher`](crate::launch::Launcher) also writes what each rank did last.)
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `world_size` is 0.
    pub fn threads(world_size: usize) -> Result<Vec<Self>> {
        Self::meet(world_size, "ProcessGroup::threads", None)
    }

    /// As [`Self::threads`], for ranks whose ends a launcher reports with [`Self::leave`], and whose
    /// records are written to the folder when they wait in vain.
    pub(crate) fn launched(world_size: usize, records: PathBuf) -> Result<Vec<Self>> {
        Self::meet(world_size, "launch", Some(records))
    }

    /// A group of one rank: every call is right away its own answer.
    pub fn single() -> Self {
        let reporter = Reporter::alone(1, None);
        let state = GroupState::local(vec![0], &reporter);
        let core = Core::new(state, 0, World::alone(reporter));
        Self::seat(core, &Lineage::new(false), DEFAULT_TIMEOUT)
    }

    /// A launcher, and nobody else, says where to write records.
    fn meet(world_size: usize, call: &'static str, records: Option<PathBuf>) -> Result<Vec<Self>> {
        if world_size == 0 {
            let message = "a group needs at least one rank".to_owned();
            return Err(Error::InvalidArgument {
                rank: 0,
                call,
                message,
            });
        }
        let launched = records.is_some();
        let reporter = Reporter::alone(world_size, records);
        let state = GroupState::local((0..world_size).collect(), &reporter);
        let seats = 0..world_size;
        let world = World::alone(reporter);
        Ok(Self::seats(&state, seats, &world, launched))
    }

    /// Fresh memberships of these ranks.
    fn seats(
        state: &Arc<GroupState>,
        ranks: Range<usize>,
        world: &Arc<World>,
        launched: bool,
    ) -> Vec<Self> {
        let seat = |rank| {
            let core = Core::new(Arc::clone(state), rank, Arc::clone(world));
            Self::seat(core, &Lineage::new(launched), DEFAULT_TIMEOUT)
        };
        ranks.map(seat).collect()
    }

    fn seat(core: Arc<Core>, lineage: &Arc<Lineage>, timeout: Duration) -> Self {
        let member = Member::new(core, lineage);
        Self {
            member,
            timeout,
            within: None,
            mode: PhantomData,
        }
    }
}

impl<M> ProcessGroup<M> {
    fn core(&self) -> &Arc<Core> {
        self.member.core()
    }

    /// This rank within the group, from 0.
    pub fn rank(&self) -> usize {
        self.core().rank
    }

    /// The number of ranks in the group.
    pub fn world_size(&self) -> usize {
        self.ranks().len()
    }

    /// The global ranks of the members: rank `r` of this group is rank `ranks()[r]` of the group that
    /// all were split from. Errors name these.
    pub fn ranks(&self) -> &[usize] {
        self.core().state.ranks()
    }

    /// The global rank of this one.
    pub(crate) fn global_rank(&self) -> usize {
        self.core().global_rank()
    }

    /// The time for which calls through this handle wait for other ranks.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A handle of the same membership whose calls wait for up to `timeout` (at most a year).
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            member: Arc::clone(&self.member),
            timeout: timeout.min(LONGEST_TIMEOUT),
            within: self.within.clone(),
            mode: PhantomData,
        }
    }

    /// A handle of the same membership for the operations that a call of the library makes, as a user knows it:
    /// errors name it too.
    #[must_use]
    pub(crate) fn within(&self, call: impl Into<Cow<'static, str>>) -> Self {
        Self {
            within: Some(call.into()),
            ..self.with_timeout(self.timeout)
        }
    }

    /// Returns the call of the library that this handle's operations are part of, if there is one.
    pub(crate) fn caller(&self) -> Option<Cow<'static, str>> {
        self.within.clone()
    }

    /// Returns the number of the next call of `functional` in this rank's order of them.
    pub(crate) fn next_functional(&self) -> u64 {
        self.core().next_functional()
    }

    /// The process that hosts this rank.
    pub(crate) fn process(&self) -> usize {
        self.core().world.process()
    }

    /// Returns the sizes at which the collectives of this group change their algorithm; none if all its ranks are
    /// threads of one process, which share memory.
    pub(crate) fn crossovers(&self) -> Option<&Crossovers> {
        let layout = self.core().state.layout();
        (!layout.is_local()).then(|| layout.crossovers())
    }

    /// Returns the number of bytes this rank's process has sent to the job's other processes.
    pub(crate) fn sent(&self) -> u64 {
        self.core().world.sent()
    }

    /// Ends the group for all ranks: calls that wait and later calls return [`Error::Aborted`] with
    /// this message. A group that has already failed keeps its first failure.
    pub fn abort(&self, message: &str) {
        let error = Error::Aborted {
            rank: self.global_rank(),
            message: message.into(),
        };
        self.core().state.fail(error);
    }

    /// Ends this group, and all that were split from it, with a failure that one of them had.
    pub(crate) fn fail(&self, error: &Error) {
        self.member.lineage().fail(error);
    }

    /// Makes the job fail with an error that no call can return, such as one found by a drop.
    ///
    /// All groups of this rank fail with it: without a launcher at once; with one at this rank's next call, or
    /// when its worker returns without an error, and [`Launcher::run`](crate::launch::Launcher::run) returns
    /// it then. A worker that returns an error or panics first is the better reason and takes its place.
    pub(crate) fn fault(&self, error: Error) {
        tracing::error!(rank = self.global_rank(), "the job fails: {error}");
        self.member.lineage().fault(error);
    }

    /// The error that [`Self::fault`] was given first.
    pub(crate) fn kept_fault(&self) -> Option<Error> {
        self.member.lineage().kept_fault().cloned()
    }

    /// The group's failure, if it has one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.core().state.failure()
    }

    /// Waits until this rank's asynchronous operations are over, in this group and all that were split
    /// from it.
    pub(crate) fn finish(&self) {
        self.member.lineage().finish();
    }

    /// Has the launcher join a thread that may wait in the group until this rank's worker has ended; gives it
    /// back if there is no launcher.
    pub(crate) fn keep_thread(&self, thread: Thread) -> Result<(), Thread> {
        self.member.lineage().keep_thread(thread, self.timeout)
    }

    /// Says how this rank has ended, in this group and all that were split from it.
    pub(crate) fn leave(&self, reason: &Departure) {
        self.member.lineage().leave(reason);
    }

    /// Leaves the job with this process, all of whose ranks have left. Handles that a program keeps, or a graph of
    /// autodiff, do not hold it.
    pub(crate) fn close_job(&self) {
        self.core().world.close();
    }
}

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
pub(crate) use tests::{on_job, support::on_ranks};
