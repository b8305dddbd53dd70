//! The order of a group's calls in one process: the operations under way, and the ranks that have come to them.
//!
//! Operations are found by their sequence number, so several may be under way at once (a rank's
//! communication thread in one, its own thread in the next). An operation is *open* while ranks of this process
//! are missing. It is *carried* while the other processes may still need something of it.

use std::sync::Arc;
use std::time::Instant;

use super::exits::Exit;
use super::round::RoundBuffers;
use crate::error::Call;
use crate::shared_memory::SharedExchange;
use crate::transport::processes::{Layout, Spans};

/// The operations of one group in one process.
pub(super) struct CallOrder {
    layout: Arc<Layout>,
    open: Vec<OpenCall>,
    /// Empty in a group of one process.
    carried: Vec<(Arc<Call>, Arc<PendingOp>)>,
    /// By rank, the operations that it has come to, for the other processes.
    reached: Vec<Spans>,
    /// The operations that are done here, for the other processes.
    done: Spans,
}

/// An operation that not all ranks of this process have come to.
pub(super) struct OpenCall {
    /// The call of all that have come.
    pub(super) call: Arc<Call>,
    /// By rank. Ranks in other processes count as come.
    pub(super) came: Vec<bool>,
    pub(super) op: Arc<PendingOp>,
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
}

impl CallOrder {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            open: Vec::new(),
            carried: Vec::new(),
            reached: vec![Spans::default(); layout.ranks()],
            done: Spans::default(),
            layout,
        }
    }

    /// The operation of a call that a rank comes to. The first rank opens it.
    pub(super) fn open(&mut self, call: &Arc<Call>) -> &OpenCall {
        let found = self.find(call.sequence);
        let at = found.unwrap_or_else(|| {
            self.open.push(OpenCall {
                call: call.clone(),
                came: (0..self.layout.ranks())
                    .map(|rank| !self.layout.is_here(rank))
                    .collect(),
                op: Arc::new(PendingOp {
                    exchange: SharedExchange::new(self.layout.local().len()),
                    round: RoundBuffers::new(self.layout.places().len()),
                }),
            });
            self.open.len() - 1
        });
        &self.open[at]
    }

    fn find(&self, sequence: u64) -> Option<usize> {
        let mut open = self.open.iter();
        open.position(|open| open.call.sequence == sequence)
    }

    /// The open operation with a call's number.
    pub(super) fn get(&self, call: &Call) -> Option<&OpenCall> {
        self.find(call.sequence).map(|at| &self.open[at])
    }

    /// Notes that a rank has come to an open operation, which is carried once all have.
    pub(super) fn join(&mut self, rank: usize, call: &Call) {
        let Some(at) = self.find(call.sequence) else {
            return;
        };
        self.open[at].came[rank] = true;
        let several = !self.layout.is_local();
        if several {
            self.reached[rank].insert(call.sequence);
        }
        if self.open[at].came.iter().all(|&came| came) {
            let OpenCall { call, op, .. } = self.open.swap_remove(at);
            if several {
                self.carried.push((call, op));
            }
        }
    }

    /// Ends a carried operation. `delivered`: it is done, for the other processes too.
    pub(super) fn end(&mut self, call: &Call, op: &Arc<PendingOp>, delivered: bool) {
        if delivered {
            self.done.insert(call.sequence);
        }
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
