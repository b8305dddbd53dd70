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
    /// The open operations. In a group of one process, also some that all ranks have come to, whose memory serves for
    /// others once all have left.
    calls: SmallVec<[OpenCall; 4]>,
    /// Empty in a group of one process.
    carried: Vec<(Arc<Call>, Arc<PendingOp>)>,
    /// By rank, the operations that it has come to, for the other processes.
    reached: Vec<Spans>,
    /// The operations that are done here, for the other processes.
    done: Spans,
}

/// The number of operations whose memory is kept. While ranks leave one operation, others are in the next.
const MOST_KEPT: usize = 4;

/// An operation that not all ranks of this process have come to, if any is missing. It fills a line of the caches.
#[repr(align(64))]
pub(super) struct OpenCall {
    sequence: u64,
    /// The hash of the call of all that have come.
    hash: CallHash,
    /// The number of ranks of this process that have not come.
    missing: usize,
    pub(super) op: Arc<PendingOp>,
    /// The call of the rank that opened it.
    pub(super) call: Arc<Call>,
    came: Came,
}

/// The ranks that have come, or are in other processes.
enum Came {
    /// As bits, if there are few ranks.
    Bits(u64),
    Each(Vec<bool>),
}

impl Came {
    fn has(&self, rank: usize) -> bool {
        match self {
            Self::Bits(bits) => bits >> rank & 1 == 1,
            Self::Each(came) => came[rank],
        }
    }

    fn set(&mut self, rank: usize) {
        match self {
            Self::Bits(bits) => *bits |= 1 << rank,
            Self::Each(came) => came[rank] = true,
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Bits(bits) => *bits = 0,
            Self::Each(came) => came.fill(false),
        }
    }
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

    /// True if a rank has come, or is in another process.
    pub(super) fn has_come(&self, rank: usize) -> bool {
        self.came.has(rank)
    }

    fn is_open(&self) -> bool {
        self.missing > 0
    }
}

impl CallOrder {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            calls: SmallVec::new(),
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
        if let Some(at) = self.renew(call, hash) {
            return at;
        }
        let ranks = self.layout.ranks();
        let mut came = match ranks {
            ..=64 => Came::Bits(0),
            _ => Came::Each(vec![false; ranks]),
        };
        let elsewhere = (0..ranks).filter(|&rank| !self.layout.is_here(rank));
        elsewhere.for_each(|rank| came.set(rank));
        let here = self.layout.local().len();
        self.calls.push(OpenCall {
            sequence: call.sequence,
            hash,
            missing: here,
            op: Arc::new(PendingOp {
                exchange: SharedExchange::new(here),
                round: RoundBuffers::new(self.layout.places().len()),
            }),
            call: call.clone(),
            came,
        });
        self.calls.len() - 1
    }

    /// Opens an operation in the memory of one that all ranks have left.
    fn renew(&mut self, call: &Arc<Call>, hash: CallHash) -> Option<usize> {
        let mut calls = self.calls.iter_mut();
        let at = calls.position(|call| {
            let free = (!call.is_open()).then(|| Arc::get_mut(&mut call.op));
            free.flatten().map(PendingOp::renew).is_some()
        })?;
        let opened = &mut self.calls[at];
        // All ranks are here.
        opened.came.clear();
        opened.missing = self.layout.ranks();
        opened.sequence = call.sequence;
        opened.hash = hash;
        opened.call.clone_from(call);
        Some(at)
    }

    fn find(&self, sequence: u64) -> Option<usize> {
        let mut calls = self.calls.iter();
        calls.position(|call| call.sequence == sequence && call.is_open())
    }

    fn open_calls(&self) -> impl Iterator<Item = &OpenCall> {
        self.calls.iter().filter(|call| call.is_open())
    }

    /// The open operation at a place.
    pub(super) fn at(&self, place: usize) -> &OpenCall {
        &self.calls[place]
    }

    /// The open operation with a call's number.
    pub(super) fn get(&self, call: &Call) -> Option<&OpenCall> {
        self.find(call.sequence).map(|at| &self.calls[at])
    }

    /// Notes that a rank has come to the open operation at a place, which is carried once all have.
    pub(super) fn join(&mut self, rank: usize, place: usize) -> Arc<PendingOp> {
        let kept = self.calls.len() <= MOST_KEPT;
        let open = &mut self.calls[place];
        let op = open.op.clone();
        if !open.came.has(rank) {
            open.came.set(rank);
            open.missing -= 1;
        }
        let has_all = open.missing == 0;
        if self.layout.is_local() {
            if has_all && !kept {
                self.calls.swap_remove(place);
            }
            return op;
        }
        self.reached[rank].insert(open.sequence);
        if has_all {
            let met = self.calls.swap_remove(place);
            self.carried.push((met.call, met.op));
        }
        op
    }

    /// Leaves the memory of an operation to its ranks: it holds more than the next could use.
    pub(super) fn forget(&mut self, op: &Arc<PendingOp>) {
        self.calls
            .retain(|call| call.is_open() || !Arc::ptr_eq(op, &call.op));
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
        let open = self.open_calls().map(|open| &open.call);
        let carried = self.carried.iter().map(|(call, _)| call);
        let calls = open.chain(carried);
        calls.min_by_key(|call| call.sequence).cloned()
    }

    /// True if an operation needs a rank that has left. All ranks here have come to one that is not open.
    pub(super) fn needs(&self, rank: usize, exit: &Exit, call: &Call) -> bool {
        if self.layout.is_here(rank) {
            self.get(call).is_some_and(|open| !open.has_come(rank))
        } else {
            !exit.reached.contains(call.sequence)
        }
    }

    /// The operations under way that need a rank that has left.
    pub(super) fn needing(&self, rank: usize, exit: &Exit) -> Vec<(Arc<Call>, Arc<PendingOp>)> {
        let open = self.open_calls().map(|open| (&open.call, &open.op));
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
        for open in self.calls.drain(..).filter(OpenCall::is_open) {
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
