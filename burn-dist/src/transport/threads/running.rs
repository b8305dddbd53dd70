//! An operation under way, as one rank sees it.
//!
//! ```text
//! the ranks of a process lend ── all here have come ──> each does its share
//!   (several processes) the leader exchanges with the others ──> all get what has arrived
//! ```
//!
//! The leader is the lowest rank of the process; only its thread uses the network, and no lock is held
//! meanwhile.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::meeting::{Entry, Occasion};
use super::relay::{Arrived, End, Relay};
use super::shared::{Floor, Lent};
use super::sharing::Loaned;
use crate::error::{Call, Error, Result};
use crate::transport::network::{Lost, Network};
use crate::transport::processes::Layout;

/// One rank's part in an operation that it has been let into.
pub(crate) struct RunningOp<'m> {
    entry: Entry<'m>,
    occasion: Arc<Occasion>,
    deadline: Instant,
}

impl<'m> Entry<'m> {
    /// The layout of the group's ranks.
    pub(crate) fn layout(&self) -> &'m Layout {
        &self.meeting.layout
    }

    /// Comes to the operation, whose deadline counts from now.
    ///
    /// # Errors
    /// The group's failure; [`Error::Mismatch`] if this is not the call of the others here.
    pub(crate) fn begin(self) -> Result<RunningOp<'m>> {
        let occasion = self.meeting.enter(self.rank, &self.call)?;
        let deadline = Instant::now() + self.timeout;
        Ok(RunningOp {
            entry: self,
            occasion,
            deadline,
        })
    }
}

impl<'m> RunningOp<'m> {
    pub(crate) fn layout(&self) -> &'m Layout {
        &self.entry.meeting.layout
    }

    /// This rank within the group.
    pub(crate) fn rank(&self) -> usize {
        self.entry.rank
    }

    /// The number of ranks.
    pub(crate) fn ranks(&self) -> usize {
        self.entry.ranks()
    }

    fn global_rank(&self, rank: usize) -> usize {
        self.entry.meeting.ranks[rank]
    }

    /// The place of a rank among those of this process.
    pub(crate) fn seat_of(&self, rank: usize) -> usize {
        self.layout().seat(rank)
    }

    pub(crate) fn call(&self) -> &Arc<Call> {
        &self.entry.call
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Lends `lent` to the ranks here, and does `share` of the work when all have come.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all have come.
    pub(crate) fn share<R>(&self, lent: Lent<'_>, share: impl FnOnce(Floor<'_>) -> R) -> Result<R> {
        self.entry
            .exchange(&self.occasion, lent, self.deadline, share)
    }

    /// Sets a parcel, which one rank fills.
    pub(crate) fn fill(&self, number: usize, parcel: Bytes) {
        let _ = self.occasion.relay.parcels[number].set(parcel);
    }

    /// A parcel; empty if nobody has filled it.
    pub(crate) fn parcel(&self, number: usize) -> Bytes {
        let parcel = self.occasion.relay.parcels[number].get();
        parcel.cloned().unwrap_or_default()
    }

    pub(crate) fn parcel_bytes(&self, number: usize) -> &[u8] {
        let parcel = self.occasion.relay.parcels[number].get();
        parcel.map_or(&[], |parcel| parcel)
    }

    /// Memory of so many bytes, with anything in it.
    pub(crate) fn memory(&self, bytes: usize) -> Loaned {
        self.entry.meeting.spare.take(bytes)
    }

    /// True for the rank that uses the network for this process.
    pub(crate) fn leads(&self) -> bool {
        self.layout().seat(self.entry.rank) == 0
    }

    /// Waits for what the leader delivers.
    ///
    /// # Errors
    /// The group's failure.
    pub(crate) fn follow(&self) -> Result<Arc<Arrived>> {
        let relay = &self.occasion.relay;
        let arrived = relay.wait(self.deadline, || {
            let awaited = relay.awaited();
            if !awaited.is_empty() {
                self.fail_late(&awaited);
            }
        });
        arrived.ok_or_else(|| self.failure())
    }

    /// Gives the ranks here what has arrived.
    pub(crate) fn deliver(&self, arrived: Arrived) -> Arc<Arrived> {
        let arrived = Arc::new(arrived);
        self.end(End::Delivered(arrived.clone()));
        arrived
    }

    /// Ends the operation for the ranks here, and the group if it has not failed.
    pub(crate) fn close(&self, reason: &str) {
        let (meeting, rank) = (self.entry.meeting, self.entry.rank);
        meeting.fail(meeting.left(rank, reason, None));
        self.end(End::Closed);
    }

    fn end(&self, end: End) {
        let mut state = self.entry.meeting.lock();
        if matches!(end, End::Delivered(_)) {
            state.done.insert(self.entry.call.sequence);
        }
        state
            .carried
            .retain(|(_, other)| !Arc::ptr_eq(&self.occasion, other));
        drop(state);
        self.occasion.relay.end(end);
    }

    /// The network, for the leader of an operation of several processes.
    ///
    /// # Errors
    /// The group's failure, if it has no network.
    pub(crate) fn network(&self) -> Result<&'m dyn Network> {
        let away = self.entry.meeting.away.as_ref();
        away.map(|away| &*away.network)
            .ok_or_else(|| self.failure())
    }

    pub(crate) fn buffers(&self) -> &Relay {
        &self.occasion.relay
    }

    /// False if the group has failed, or a rank that the operation needs has left for good.
    pub(crate) fn can_go_on(&self) -> bool {
        if self.occasion.relay.is_due() {
            self.entry.meeting.settle(&self.entry.call);
        }
        !self.occasion.relay.is_closed()
    }

    /// The group's failure.
    pub(crate) fn failure(&self) -> Error {
        self.entry.withdrawn()
    }

    /// Keeps `error` as the group's failure unless it has one; returns the one it has.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.entry.meeting.fail(error)
    }

    /// Ends the group because a node has sent bytes that make no sense, and returns its failure.
    pub(crate) fn malformed(&self, node: usize, message: String) -> Error {
        let (rank, peer) = (self.global_rank(self.rank()), self.lowest(node));
        self.fail(Error::Control {
            rank,
            peer,
            message,
        })
    }

    /// The global rank that speaks for a node.
    pub(crate) fn lowest(&self, node: usize) -> usize {
        self.global_rank(self.layout().places()[node].ranks[0])
    }

    /// Ends the group because these nodes have not sent what is due, and returns its failure.
    pub(crate) fn fail_late(&self, nodes: &[usize]) -> Error {
        let ranks = &self.entry.meeting.ranks;
        let nodes = nodes.iter().map(|&node| &self.layout().places()[node]);
        let mut missing: Vec<usize> = nodes
            .flat_map(|node| node.ranks.iter().map(|&rank| ranks[rank]))
            .collect();
        missing.sort_unstable();
        let timeout = Error::Timeout {
            rank: ranks[self.entry.rank],
            call: self.entry.call.clone(),
            missing,
            after: self.entry.timeout,
        };
        self.entry.meeting.fail_late(&self.entry.call, timeout)
    }

    /// Ends the group because a process that the operation needs is lost, and returns its failure.
    pub(crate) fn missed(&self, lost: &Lost) -> Error {
        let (meeting, rank) = (self.entry.meeting, self.entry.rank);
        meeting.missed(rank, lost, &self.entry.call)
    }
}
