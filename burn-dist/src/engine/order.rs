//! The order of a group's calls in one process: the operations under way, and the ranks that have come to them.
//!
//! Operations are found by their sequence number, so several may be under way at once (a rank's
//! communication thread in one, its own thread in the next). An operation is *open* while ranks of this process
//! are missing. It is *carried* while the other processes may still need something of it.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::exits::Exit;
use super::round::RoundBuffers;
use crate::error::Call;
use crate::shared_memory::SharedExchange;
use crate::transport::processes::{Layout, Spans};

/// The operations of one group in one process.
pub(super) struct CallOrder {
    layout: Arc<Layout>,
    open: SmallVec<[OpenCall; 2]>,
    /// Operations that all ranks have come to, whose memory serves for others once all have left. Empty in a group
    /// of several processes.
    spare: Vec<OpenCall>,
    /// Empty in a group of one process.
    carried: Vec<(Arc<Call>, Arc<PendingOp>)>,
    /// By rank, the operations that it has come to, for the other processes.
    reached: Vec<Spans>,
    /// The operations that are done here, for the other processes.
    done: Spans,
}

/// The number of operations whose memory is kept. While ranks leave one operation, others are in the next.
const MOST_SPARE: usize = 3;

/// An operation that not all ranks of this process have come to.
pub(super) struct OpenCall {
    sequence: u64,
    /// The hash of the call of all that have come.
    hash: CallHash,
    /// The number of ranks of this process that have not come.
    missing: usize,
    pub(super) op: Arc<PendingOp>,
    /// By rank. Ranks in other processes count as come.
    pub(super) came: SmallVec<[bool; 16]>,
    /// The call of the rank that opened it.
    pub(super) call: Arc<Call>,
}

/// A hash of a call. Ranks compare it in place of the calls, which lie in the memory of other cores. (Two calls that
/// differ have the same with a chance of about one in 2^64.)
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct CallHash(u64);

impl CallHash {
    pub(super) fn of(call: &Call) -> Self {
        Self(FxBuildHasher.hash_one(call))
    }
}

/// The state that the ranks in one operation share.
pub(super) struct PendingOp {
    pub(super) exchange: SharedExchange,
    pub(super) round: RoundBuffers,
}

impl PendingOp {
    /// Has the ranks in the operation check at `until` that it can still end.
    pub(super) fn check_at(&self, until: Instant) {
        self.exchange.check_at(until);
        self.round.check_at(until);
    }

    fn renew(&mut self) {
        self.exchange.renew();
        self.round.renew();
    }
}

impl OpenCall {
    /// True if the operation is of this call.
    pub(super) fn is_of(&self, hash: CallHash) -> bool {
        self.hash == hash
    }
}

impl CallOrder {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            open: SmallVec::new(),
            spare: Vec::new(),
            carried: Vec::new(),
            reached: vec![Spans::default(); layout.ranks()],
            done: Spans::default(),
            layout,
        }
    }

    /// The place of the operation of a call that a rank comes to, until an operation is opened or closed. The first
    /// rank opens it.
    pub(super) fn open(&mut self, call: &Arc<Call>, hash: CallHash) -> usize {
        if let Some(at) = self.find(call.sequence) {
            return at;
        }
        let opened = self.renewed(call, hash).unwrap_or_else(|| {
            let ranks = 0..self.layout.ranks();
            OpenCall {
                sequence: call.sequence,
                hash,
                missing: self.layout.local().len(),
                op: Arc::new(PendingOp {
                    exchange: SharedExchange::new(self.layout.local().len()),
                    round: RoundBuffers::new(self.layout.places().len()),
                }),
                came: ranks.map(|rank| !self.layout.is_here(rank)).collect(),
                call: call.clone(),
            }
        });
        self.open.push(opened);
        self.open.len() - 1
    }

    /// An operation in the memory of one that all have left.
    fn renewed(&mut self, call: &Arc<Call>, hash: CallHash) -> Option<OpenCall> {
        let mut spare = self.spare.iter_mut();
        let at = spare.position(|spare| match Arc::get_mut(&mut spare.op) {
            Some(op) => {
                op.renew();
                true
            }
            None => false,
        })?;
        let mut opened = self.spare.remove(at);
        // All ranks are here.
        opened.came.fill(false);
        opened.missing = opened.came.len();
        opened.sequence = call.sequence;
        opened.hash = hash;
        opened.call.clone_from(call);
        Some(opened)
    }

    fn find(&self, sequence: u64) -> Option<usize> {
        let mut open = self.open.iter();
        open.position(|open| open.sequence == sequence)
    }

    /// The open operation at a place.
    pub(super) fn at(&self, place: usize) -> &OpenCall {
        &self.open[place]
    }

    /// The open operation with a call's number.
    pub(super) fn get(&self, call: &Call) -> Option<&OpenCall> {
        self.find(call.sequence).map(|at| &self.open[at])
    }

    /// Notes that a rank has come to the open operation at a place, which is carried once all have.
    pub(super) fn join(&mut self, rank: usize, place: usize) -> Arc<PendingOp> {
        let open = &mut self.open[place];
        let op = open.op.clone();
        if !std::mem::replace(&mut open.came[rank], true) {
            open.missing -= 1;
        }
        let (missing, sequence) = (open.missing, open.sequence);
        let several = !self.layout.is_local();
        if several {
            self.reached[rank].insert(sequence);
        }
        if missing == 0 {
            let met = self.open.swap_remove(place);
            if several {
                self.carried.push((met.call, met.op));
            } else if self.spare.len() < MOST_SPARE {
                self.spare.push(met);
            }
        }
        op
    }

    /// Leaves the memory of an operation to its ranks: it holds more than the next could use.
    pub(super) fn forget(&mut self, op: &Arc<PendingOp>) {
        self.spare.retain(|spare| !Arc::ptr_eq(op, &spare.op));
    }

    /// Ends a carried operation. `delivered`: it is done, for the other processes too.
    pub(super) fn end(&mut self, call: &Call, op: &Arc<PendingOp>, delivered: bool) {
        if delivered && !self.layout.is_local() {
            self.done.insert(call.sequence);
        }
        self.forget(op);
        self.carried.retain(|(_, other)| !Arc::ptr_eq(op, other));
    }

    /// The first of the operations under way.
    pub(super) fn first(&self) -> Option<Arc<Call>> {
        let open = self.open.iter().map(|open| &open.call);
        let carried = self.carried.iter().map(|(call, _)| call);
        let calls = open.chain(carried);
        calls.min_by_key(|call| call.sequence).cloned()
    }

    /// True if an operation needs a rank that has left. All ranks here have come to one that is not open.
    pub(super) fn needs(&self, rank: usize, exit: &Exit, call: &Call) -> bool {
        if self.layout.is_here(rank) {
            self.get(call).is_some_and(|open| !open.came[rank])
        } else {
            !exit.reached.contains(call.sequence)
        }
    }

    /// The operations under way that need a rank that has left.
    pub(super) fn needing(&self, rank: usize, exit: &Exit) -> Vec<(Arc<Call>, Arc<PendingOp>)> {
        let open = self.open.iter().map(|open| (&open.call, &open.op));
        let carried = self.carried.iter().map(|(call, op)| (call, op));
        let needing = open
            .chain(carried)
            .filter(|(call, _)| self.needs(rank, exit, call));
        needing
            .map(|(call, op)| (call.clone(), op.clone()))
            .collect()
    }

    /// Ends the wait of all who are in an open operation: the group has failed.
    pub(super) fn close_open(&mut self) {
        for open in self.open.drain(..) {
            open.op.exchange.close();
        }
    }

    /// Ends the carried operations but those that another process has done: it does no others any more.
    pub(super) fn close_carried(&mut self, done: &Spans) {
        self.carried.retain(|(call, op)| {
            let stays = done.contains(call.sequence);
            if !stays {
                op.round.close();
            }
            stays
        });
    }

    /// The operations that a rank has come to.
    pub(super) fn reached(&self, rank: usize) -> &Spans {
        &self.reached[rank]
    }

    /// The operations that are done in this process.
    pub(super) fn done(&self) -> &Spans {
        &self.done
    }
}
