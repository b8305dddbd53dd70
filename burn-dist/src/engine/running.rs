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
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::{GroupState, Record};
use super::order::PendingOp;
use super::round::{Arrived, End, RoundBuffers};
use crate::error::{Call, Error, Result};
use crate::shared_memory::{LentBuffer, Missed, PeerBuffers, Scratch, ScratchPool};
use crate::transport::network::{Lost, Network};
use crate::transport::processes::Layout;

/// One rank's call, before it comes to the operation.
pub(crate) struct OpHandle<'m> {
    group: &'m GroupState,
    rank: usize,
    call: Arc<Call>,
    timeout: Duration,
}

/// One rank's part in an operation that it has come to.
pub(crate) struct RunningOp<'m> {
    handle: OpHandle<'m>,
    record: Record<'m>,
    pending: Arc<PendingOp>,
    deadline: Instant,
}

impl<'m> OpHandle<'m> {
    /// The call of a rank, which waits for the others for up to `timeout`.
    pub(crate) fn new(
        group: &'m GroupState,
        rank: usize,
        call: Arc<Call>,
        timeout: Duration,
    ) -> Self {
        Self {
            group,
            rank,
            call,
            timeout,
        }
    }

    /// The layout of the group's ranks.
    pub(crate) fn layout(&self) -> &'m Layout {
        self.group.layout()
    }

    /// This rank within the group.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// Comes to the operation, whose deadline counts from now.
    ///
    /// # Errors
    /// The group's failure; [`Error::Mismatch`] if this is not the call of the others here.
    pub(crate) fn begin(self) -> Result<RunningOp<'m>> {
        let now = Instant::now();
        let record = self.group.record_at(self.rank, &self.call, now);
        let pending = self.group.enter(self.rank, &self.call)?;
        let deadline = now + self.timeout;
        Ok(RunningOp {
            handle: self,
            record,
            pending,
            deadline,
        })
    }
}

impl<'m> RunningOp<'m> {
    pub(crate) fn layout(&self) -> &'m Layout {
        self.handle.group.layout()
    }

    /// This rank within the group.
    pub(crate) fn rank(&self) -> usize {
        self.handle.rank
    }

    /// Records that the operation has succeeded.
    pub(crate) fn succeed(self) {
        // Of a success nothing is left to return.
        let _ = self.record.end(Ok(()));
    }

    /// The number of ranks.
    pub(crate) fn ranks(&self) -> usize {
        self.layout().ranks()
    }

    fn global_rank(&self, rank: usize) -> usize {
        self.handle.group.ranks()[rank]
    }

    /// The place of a rank among those of this process.
    pub(crate) fn seat_of(&self, rank: usize) -> usize {
        self.layout().seat(rank)
    }

    /// This rank's place among those of this process.
    fn seat(&self) -> usize {
        self.layout().seat(self.handle.rank)
    }

    pub(crate) fn call(&self) -> &Arc<Call> {
        &self.handle.call
    }

    /// The place of the operation in memory.
    #[cfg(test)]
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.pending).addr()
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Lends `lent` to the ranks here, and does `share` of the work when all have come.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all have come.
    pub(crate) fn share<R>(
        &self,
        lent: LentBuffer<'_>,
        share: impl FnOnce(PeerBuffers<'_>) -> R,
    ) -> Result<R> {
        let OpHandle {
            group,
            rank,
            ref call,
            timeout,
        } = self.handle;
        let deadline = self.deadline;
        let outcome = self.pending.exchange.run(
            self.seat(),
            lent,
            deadline,
            || group.check_open(rank, call, (deadline, timeout)),
            share,
        );
        if !self.layout().is_local() && outcome.is_ok() {
            self.record.exchanged();
        }
        outcome.map_err(|missed| match missed {
            Missed::Closed => self.failure(),
            Missed::Broken(seat) => {
                let peer = self.layout().local()[seat];
                let reason = "panicked while it reduced";
                group.fail(group.left(peer, reason, Some(call.clone())))
            }
        })
    }

    /// Sets a parcel, which one rank fills.
    pub(crate) fn fill(&self, number: usize, parcel: Bytes) {
        if self.layout().is_local() {
            // What it holds goes with it.
            self.handle.group.lock().order.forget(&self.pending);
        }
        let _ = self.pending.round.parcels[number].set(parcel);
    }

    /// A parcel; empty if nobody has filled it.
    pub(crate) fn parcel(&self, number: usize) -> Bytes {
        let parcel = self.pending.round.parcels[number].get();
        parcel.cloned().unwrap_or_default()
    }

    pub(crate) fn parcel_bytes(&self, number: usize) -> &[u8] {
        let parcel = self.pending.round.parcels[number].get();
        parcel.map_or(&[], |parcel| parcel)
    }

    /// The scratch memory of this rank in the group.
    pub(crate) fn pool(&self) -> &'m ScratchPool {
        &self.handle.group.pools[self.seat()]
    }

    /// Memory of so many bytes, with anything in it.
    pub(crate) fn memory(&self, bytes: usize) -> Scratch {
        self.pool().take(bytes)
    }

    /// True for the rank that uses the network for this process.
    pub(crate) fn leads(&self) -> bool {
        self.seat() == 0
    }

    /// Waits for what the leader delivers.
    ///
    /// # Errors
    /// The group's failure.
    pub(crate) fn follow(&self) -> Result<Arc<Arrived>> {
        let round = &self.pending.round;
        let arrived = round.wait(self.deadline, || {
            let awaited = round.awaited();
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
        let (group, rank) = (self.handle.group, self.handle.rank);
        group.fail(group.left(rank, reason, None));
        self.end(End::Closed);
    }

    fn end(&self, end: End) {
        let delivered = matches!(end, End::Delivered(_));
        let mut parts = self.handle.group.lock();
        parts.order.end(&self.handle.call, &self.pending, delivered);
        drop(parts);
        self.pending.round.end(end);
    }

    /// The network, for the leader of an operation of several processes.
    ///
    /// # Errors
    /// The group's failure, if it has no network.
    pub(crate) fn network(&self) -> Result<&'m dyn Network> {
        let peers = self.handle.group.peers.as_ref();
        peers
            .map(|peers| &*peers.network)
            .ok_or_else(|| self.failure())
    }

    pub(crate) fn buffers(&self) -> &RoundBuffers {
        &self.pending.round
    }

    /// False if the group has failed, or a rank that the operation needs has left for good.
    pub(crate) fn can_go_on(&self) -> bool {
        if self.pending.round.is_due() {
            self.handle.group.settle(&self.handle.call);
        }
        !self.pending.round.is_closed()
    }

    /// The group's failure.
    pub(crate) fn failure(&self) -> Error {
        let (group, rank) = (self.handle.group, self.handle.rank);
        group.fail(group.left(rank, "withdrew", None))
    }

    /// Keeps `error` as the group's failure unless it has one; returns the one it has.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.handle.group.fail(error)
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
        let ranks = self.handle.group.ranks();
        let nodes = nodes.iter().map(|&node| &self.layout().places()[node]);
        let mut missing: Vec<usize> = nodes
            .flat_map(|node| node.ranks.iter().map(|&rank| ranks[rank]))
            .collect();
        missing.sort_unstable();
        // A node may owe several messages.
        missing.dedup();
        let timeout = Error::Timeout {
            rank: ranks[self.handle.rank],
            call: self.handle.call.clone(),
            missing,
            after: self.handle.timeout,
        };
        self.handle.group.fail_late(&self.handle.call, timeout)
    }

    /// Ends the group because a process that the operation needs is lost, and returns its failure.
    pub(crate) fn missed(&self, lost: &Lost) -> Error {
        let (group, rank) = (self.handle.group, self.handle.rank);
        group.fail_without(rank, lost, &self.handle.call)
    }
}
