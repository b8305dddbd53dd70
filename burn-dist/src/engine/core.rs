//! The state that the ranks of one group share in a process.
//!
//! A [`GroupState`] owns its parts: the order of calls (`order`), the departures (`exits`), the mailbox
//! (`mailbox`) and the first failure. They are behind one lock. What they find out for other processes goes into
//! the outbox and is sent when the lock is released (`peers`).
//!
//! A group that lies in several processes has one state in each, of the ranks there.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tracing::span::EnteredSpan;

use super::exits::Exits;
use super::mailbox::{Mailbox, Streams};
use super::order::{CallHash, CallOrder, PendingOp};
use super::peers::{Parts, Peers};
use crate::error::{Call, Error, Result};
use crate::record::{Group, Recorder};
use crate::shared_memory::ScratchPool;
use crate::transport::processes::{Layout, Reporter};

/// The state that the ranks of one group share in a process.
pub(crate) struct GroupState {
    /// The global rank of each member, by group rank.
    pub(super) ranks: Arc<[usize]>,
    pub(super) layout: Arc<Layout>,
    pub(super) parts: Mutex<Parts>,
    /// Rank `r` sleeps at number `r` while it waits for a message.
    pub(super) inboxes: Vec<Condvar>,
    /// By seat.
    pub(super) pools: Box<[ScratchPool]>,
    /// The way to the ranks in other processes; none in a group of one process.
    pub(super) peers: Option<Peers>,
    /// The group as records name it.
    group: Arc<Group>,
    pub(super) reporter: Arc<Reporter>,
}

/// The sub-groups of a group.
#[derive(Default)]
pub(super) struct Children {
    /// Those that not all of their members here have fetched.
    unfetched: Vec<Unfetched>,
    /// Those with ranks elsewhere.
    pub(super) remote: Vec<Weak<GroupState>>,
}

struct Unfetched {
    /// The sequence number of the split, and the colour.
    key: (u64, u64),
    state: Arc<GroupState>,
    members: usize,
}

impl GroupState {
    /// The state of a group of these global ranks, the first of which is rank 0 of the group.
    pub(super) fn new(
        ranks: Arc<[usize]>,
        group: Arc<Group>,
        layout: Arc<Layout>,
        peers: Option<Peers>,
        reporter: &Arc<Reporter>,
    ) -> Arc<Self> {
        let size = ranks.len();
        Arc::new(Self {
            ranks,
            parts: Mutex::new(Parts {
                order: CallOrder::new(layout.clone()),
                exits: Exits::new(size),
                mailbox: Mailbox::default(),
                streams: Streams::default(),
                failure: None,
                outbox: VecDeque::new(),
                children: Children::default(),
                orphans: Vec::new(),
            }),
            pools: layout
                .local()
                .iter()
                .map(|_| ScratchPool::default())
                .collect(),
            layout,
            inboxes: (0..size).map(|_| Condvar::new()).collect(),
            peers,
            group,
            reporter: reporter.clone(),
        })
    }

    /// The state of a group of these ranks of a job, which are all in this process.
    pub(crate) fn local(ranks: Vec<usize>, reporter: &Arc<Reporter>) -> Arc<Self> {
        let ranks: Arc<[usize]> = ranks.into();
        let group = Group::root(ranks.clone());
        let layout = Arc::new(Layout::local_only(ranks.len()));
        Self::new(ranks, group, layout, None, reporter)
    }

    /// The layout of the ranks over processes.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The global rank of each member.
    pub(crate) fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// The sub-group of `colour` that the split with number `sequence` made, with these ranks of this
    /// group: one state for all of them that are here.
    pub(crate) fn child(&self, sequence: u64, colour: u64, members: &[usize]) -> Arc<Self> {
        let key = (sequence, colour);
        let mut parts = self.lock();
        let unfetched = &mut parts.children.unfetched;
        let found = unfetched.iter().position(|child| child.key == key);
        let at = found.unwrap_or_else(|| {
            let ranks: Arc<[usize]> = members.iter().map(|&rank| self.ranks[rank]).collect();
            let group = self.group.child(sequence, colour, ranks.clone());
            let layout = Arc::new(self.layout.child(sequence, colour, members));
            let peers = self.peers.as_ref().filter(|_| !layout.is_local());
            let peers = peers.map(|peers| peers.child(layout.clone()));
            let here = members.iter().filter(|&&rank| self.layout.is_here(rank));
            unfetched.push(Unfetched {
                key,
                members: here.count(),
                state: Self::new(ranks, group, layout, peers, &self.reporter),
            });
            unfetched.len() - 1
        });
        unfetched[at].members -= 1;
        let state = if unfetched[at].members == 0 {
            unfetched.swap_remove(at).state
        } else {
            Arc::clone(&unfetched[at].state)
        };
        if found.is_none() && state.peers.is_some() {
            let remote = &mut parts.children.remote;
            remote.retain(|child| child.strong_count() > 0);
            remote.push(Arc::downgrade(&state));
        }
        let failure = parts.failure.clone();
        drop(parts);
        if found.is_none() {
            state.register();
        }
        if let Some(failure) = failure {
            state.fail_unused(failure);
        }
        state
    }

    /// Notes that `rank` comes to the operation of a call.
    ///
    /// # Errors
    /// The group's failure; [`Error::Mismatch`] if this is not the call of the others here; [`Error::PeerLeft`] if
    /// the operation needs a rank that has left.
    pub(super) fn enter(&self, rank: usize, call: &Arc<Call>) -> Result<Arc<PendingOp>> {
        let hash = CallHash::of(call);
        let mut parts = self.lock();
        if let Some(failure) = parts.failure_in(call) {
            return Err(failure);
        }
        let place = parts.order.open(call, hash);
        let open = parts.order.at(place);
        if !open.is_of(hash) {
            let error = self.mismatch(rank, call, open);
            return Err(self.latch(&mut parts, error));
        }
        if !parts.exits.is_empty()
            && let Some(error) = self.check_exits(&parts, call, &open.op)
        {
            return Err(self.latch(&mut parts, error));
        }
        Ok(parts.order.join(rank, place))
    }

    /// The error of an operation that needs a rank which has left. If a better reason may come, the operation
    /// waits for it instead.
    fn check_exits(&self, parts: &Parts, call: &Arc<Call>, op: &PendingOp) -> Option<Error> {
        let exits = parts.exits.iter();
        let mut needed = exits.filter(|(peer, exit)| parts.order.needs(*peer, exit, call));
        let mut waits = None;
        let settled = needed.find(|(_, exit)| match exit.waits_until() {
            Some(until) => {
                waits = Some(until);
                false
            }
            None => true,
        });
        if let Some((peer, exit)) = settled {
            return Some(self.peer_left(peer, exit, Some(call.clone())));
        }
        if let Some(until) = waits {
            op.check_at(until);
        }
        None
    }

    pub(super) fn wake_receivers(&self) {
        for inbox in &self.inboxes {
            inbox.notify_all();
        }
    }

    /// Begins the record of a rank's call, which ends when it is dropped.
    pub(crate) fn record(&self, rank: usize, call: &Arc<Call>) -> Record<'_> {
        self.record_at(rank, call, Instant::now())
    }

    /// As [`Self::record`], with the time now.
    pub(super) fn record_at(&self, rank: usize, call: &Arc<Call>, now: Instant) -> Record<'_> {
        let (recorder, rank) = (self.reporter.recorder(), self.ranks[rank]);
        let (name, number) = (&*call.operation, call.sequence);
        let span = tracing::trace_span!("collective", rank, operation = name, number).entered();
        recorder.enter(rank, &self.group, call, now);
        Record {
            recorder,
            rank,
            call: call.clone(),
            succeeded: false,
            _span: span,
        }
    }
}

/// The record of a call under way. One that is dropped before it succeeds is a failure.
pub(crate) struct Record<'m> {
    recorder: &'m Recorder,
    /// The global rank.
    rank: usize,
    call: Arc<Call>,
    succeeded: bool,
    _span: EnteredSpan,
}

impl Record<'_> {
    /// Notes that the ranks of this process have exchanged their memory.
    pub(super) fn exchanged(&self) {
        self.recorder.exchanged(self.rank, &self.call);
    }

    /// Ends the record with this outcome of the call.
    pub(crate) fn end<R>(mut self, outcome: Result<R>) -> Result<R> {
        self.succeeded = outcome.is_ok();
        outcome
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.recorder.end(self.rank, &self.call, self.succeeded);
    }
}

#[cfg(test)]
mod tests;
