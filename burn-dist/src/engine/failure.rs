//! The end of a group: the first failure, which is kept, and the ranks that leave.
//!
//! The first failure wakes every rank that waits, and every later call returns it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::GroupState;
use super::exits::Exit;
use super::mailbox::Mailbox;
use super::order::OpenCall;
use super::peers::Parts;
use crate::error::{Call, Departure, Error};
use crate::transport::processes::{Failure, Notice, Spans};

impl GroupState {
    /// The group's failure, if it has one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Keeps `error` as the group's failure unless it has one, and returns the one it has.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.latch(&mut self.lock(), error)
    }

    /// Notes that a rank here has ended. That is a failure for the operations under way that it has
    /// not come to, and for every later one; those it has come to are not disturbed.
    pub(crate) fn leave(&self, rank: usize, reason: Departure) {
        self.exit(rank, reason, false);
    }

    /// As [`Self::leave`], where a better reason may come soon, by a call of `leave`.
    pub(crate) fn leave_early(&self, rank: usize, reason: Departure) {
        self.exit(rank, reason, true);
    }

    fn exit(&self, rank: usize, reason: Departure, early: bool) {
        let mut parts = self.lock();
        if !parts.exits.is_news(rank, early) {
            return;
        }
        if self.peers.is_some() && parts.failure.is_none() {
            let sent = parts.streams.sent_by(rank);
            let notice = Notice::left(rank, &reason, parts.order.reached(rank), sent);
            parts.outbox.push_back(notice.with_early(early));
        }
        self.note_exit(&mut parts, rank, &Exit::new(reason, early));
    }

    /// Notes that a rank, here or elsewhere, has ended.
    pub(super) fn note_exit(&self, parts: &mut Parts, rank: usize, exit: &Exit) {
        let needing = parts.order.needing(rank, exit);
        parts.exits.set(rank, exit.clone());
        if let Some(until) = exit.settles {
            for (_, op) in needing {
                op.check_at(until);
            }
            self.wake_receivers();
            return;
        }
        let first = needing.into_iter().map(|(call, _)| call);
        let first = first.min_by_key(|call| call.sequence);
        if first.is_some() {
            let error = self.peer_left(rank, exit, first);
            self.latch(parts, error);
        } else {
            // Receivers of this rank's messages check for themselves.
            self.wake_receivers();
        }
    }

    /// The error of an operation that needs a rank which has left, once no better reason can come; `late`, if
    /// none is waited for.
    fn missing(&self, parts: &Parts, call: &Arc<Call>, late: bool) -> Option<Error> {
        let mut exits = parts.exits.iter();
        let missing = exits.find(|(peer, exit)| {
            let settled = late || exit.waits_until().is_none();
            settled && parts.order.needs(*peer, exit, call)
        });
        missing.map(|(peer, exit)| self.peer_left(peer, exit, Some(call.clone())))
    }

    /// Ends an operation that needs a rank which left early and should have given a better reason by now.
    pub(super) fn settle(&self, call: &Arc<Call>) {
        let mut parts = self.lock();
        if let Some(error) = self.missing(&parts, call, false) {
            self.latch(&mut parts, error);
        }
    }

    /// Ends the group with a timeout, or with the departure of the rank that is missing.
    pub(super) fn fail_late(&self, call: &Arc<Call>, timeout: Error) -> Error {
        let mut parts = self.lock();
        let error = self.missing(&parts, call, true).unwrap_or(timeout);
        self.latch(&mut parts, error)
    }

    /// Ends the group if ranks here are missing in an open operation: at its deadline, or before that if one left
    /// early and should have given a better reason.
    pub(super) fn check_open(
        &self,
        rank: usize,
        call: &Arc<Call>,
        (deadline, after): (Instant, Duration),
    ) {
        let mut parts = self.lock();
        let late = Instant::now() >= deadline;
        let Some(open) = parts.order.get(call) else {
            return;
        };
        let error = self.missing(&parts, call, late).or_else(|| {
            let missing = (0..self.ranks.len()).filter(|&rank| !open.has_come(rank));
            let missing = missing.map(|rank| self.ranks[rank]).collect();
            late.then(|| Error::Timeout {
                rank: self.ranks[rank],
                call: call.clone(),
                missing,
                after,
            })
        });
        if let Some(error) = error {
            self.latch(&mut parts, error);
        }
    }

    pub(super) fn mismatch(&self, rank: usize, call: &Arc<Call>, open: &OpenCall) -> Error {
        // An operation is opened by a rank that comes to it, so there is a lowest.
        let local = self.layout.local().iter();
        let mut came = local.copied().filter(|&rank| open.has_come(rank));
        let peer = came.next().unwrap_or(rank);
        Error::Mismatch {
            rank: self.ranks[rank],
            call: call.clone(),
            peer: self.ranks[peer],
            peer_call: open.call.clone(),
        }
    }

    /// The error that tells the others of a rank which can't go on.
    pub(crate) fn left(&self, rank: usize, reason: &str, call: Option<Arc<Call>>) -> Error {
        let reason = Departure::Failed(reason.into());
        Error::PeerLeft {
            peer: self.ranks[rank],
            reason,
            call,
        }
    }

    pub(super) fn peer_left(&self, peer: usize, exit: &Exit, call: Option<Arc<Call>>) -> Error {
        Error::PeerLeft {
            peer: self.ranks[peer],
            reason: exit.reason.clone(),
            call,
        }
    }

    /// Keeps `error` as the group's failure unless it has one, has the other processes told, and
    /// returns the failure it has.
    pub(super) fn latch(&self, parts: &mut Parts, error: Error) -> Error {
        if let Some(failure) = &parts.failure {
            return failure.clone();
        }
        if matches!(error, Error::Timeout { .. }) {
            // Before anybody is woken, so that the records show where the ranks wait.
            self.reporter.begin();
        }
        if self.peers.is_some() {
            let here = self.ranks[self.layout.local()[0]];
            let failure = Failure::new(&error, here);
            let notice = Notice::failed(failure, parts.order.done(), self.reporter.has_begun());
            parts.outbox.push_back(notice);
        }
        self.accept_failure(parts, error, &Spans::default())
    }

    /// As [`Self::latch`], for a failure that another process knows. It has done the operations of `done`, which
    /// will come to their end here too; it does no others any more, so nobody here may wait for them, whatever
    /// the group failed of before.
    pub(super) fn accept_failure(&self, parts: &mut Parts, error: Error, done: &Spans) -> Error {
        parts.order.close_carried(done);
        if let Some(failure) = &parts.failure {
            return failure.clone();
        }
        parts.failure = Some(error.clone());
        let children = parts.children.remote.drain(..);
        parts.orphans = children.filter_map(|child| child.upgrade()).collect();
        parts.order.close_open();
        parts.mailbox = Mailbox::default();
        self.wake_receivers();
        error
    }

    /// Ends a sub-group whose parent has failed, if it was not used yet: a rank elsewhere may have failed in the
    /// split, and never come to it.
    pub(super) fn fail_unused(&self, failure: Error) {
        let mut parts = self.lock();
        let used = *parts.order.done() != Spans::default() || parts.streams.has_received();
        if self.peers.is_some() && !used {
            self.latch(&mut parts, failure);
        }
    }
}
