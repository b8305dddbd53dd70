//! What ends a group: the first failure, which is kept, and the ranks that leave it.
//!
//! The first failure wakes whoever waits, and every later call returns it. A rank that leaves ends only
//! what needs it: the operations that it has not come to.
//!
//! Callers: `meeting`, `mail`, `across`, `away`; `group` for the rest.

use std::sync::Arc;
use std::time::Duration;

use super::lock;
use super::mail::Mail;
use super::meeting::{Gone, Meeting, Open, State};
use crate::error::{Call, Departure, Error};
use crate::transport::processes::{Failure, Notice};

impl Meeting {
    /// Whether the group has failed.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.state).failure.is_some()
    }

    /// Keeps `error` as the group's failure unless it has one, and returns the one it has.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.latch(&mut self.lock(), error)
    }

    /// Notes that a rank here has ended. That is a failure for the operations under way that it has
    /// not come to, and for every later one; those it has come to are not disturbed.
    pub(crate) fn leave(&self, rank: usize, reason: Departure) {
        let mut state = self.lock();
        if state.departed[rank].is_some() {
            return;
        }
        if self.away.is_some() && state.failure.is_none() {
            let sent = state.streams.sent_by(rank);
            let notice = Notice::left(rank, &reason, state.reached[rank], sent);
            state.outbox.push_back(notice);
        }
        let gone = Gone {
            reason,
            reached: 0,
            sent: Vec::new(),
        };
        self.depart(&mut state, rank, gone);
    }

    /// Notes that a rank, here or elsewhere, has ended.
    pub(super) fn depart(&self, state: &mut State, rank: usize, gone: Gone) {
        let open = state.open.iter();
        let needed = open.filter(|open| self.lacks(rank, &gone, open));
        let needed = needed.map(|open| &open.call);
        // All ranks here have come to what is carried.
        let carried = state.carried.iter().map(|(call, _)| call);
        let carried = carried.filter(|call| !self.is_here(rank) && gone.reached <= call.sequence);
        let first = needed.chain(carried).min_by_key(|call| call.sequence);
        let first = first.cloned();
        let reason = gone.reason.clone();
        state.departed[rank] = Some(gone);
        if first.is_some() {
            let error = Error::PeerLeft {
                peer: self.ranks[rank],
                reason,
                call: first,
            };
            self.latch(state, error);
        } else {
            // Those who wait for a message of this rank look for themselves.
            self.wake_receivers();
        }
    }

    /// Whether the operation needs a rank that has gone.
    pub(super) fn lacks(&self, rank: usize, gone: &Gone, open: &Open) -> bool {
        if self.is_here(rank) {
            !open.came[rank]
        } else {
            gone.reached <= open.call.sequence
        }
    }

    /// Called at a rank's deadline: if others are still missing, that ends the group.
    pub(super) fn give_up(&self, rank: usize, call: &Arc<Call>, after: Duration) {
        let mut state = self.lock();
        let Some(open) = state
            .open
            .iter()
            .find(|open| open.call.sequence == call.sequence)
        else {
            return;
        };
        let missing = (0..self.ranks.len()).filter(|&rank| !open.came[rank]);
        let missing = missing.map(|rank| self.ranks[rank]).collect();
        let error = Error::Timeout {
            rank: self.ranks[rank],
            call: call.clone(),
            missing,
            after,
        };
        self.latch(&mut state, error);
    }

    pub(super) fn mismatch(&self, rank: usize, call: &Arc<Call>, open: &Open) -> Error {
        // An operation is opened by a rank that comes to it, so there is a lowest.
        let mut came = (0..self.ranks.len()).filter(|&rank| open.came[rank] && self.is_here(rank));
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

    /// Keeps `error` as the group's failure unless it has one, has the other processes told, and
    /// returns the failure it has.
    pub(super) fn latch(&self, state: &mut State, error: Error) -> Error {
        if state.failure.is_none() && matches!(error, Error::Timeout { .. }) {
            // Before anybody is woken, so that the records show where the ranks wait.
            self.reporter.begin();
        }
        if state.failure.is_none()
            && let Some(away) = &self.away
        {
            let here = self.ranks[away.layout.local()[0]];
            let failure = Box::new(Failure::new(&error, here));
            let under_way = Self::first_call(state).map(|call| call.sequence);
            let done = under_way.or(state.reached.iter().max().copied());
            let done = done.unwrap_or_default();
            state.outbox.push_back(Notice::Failed {
                failure,
                done,
                reports: self.reporter.has_begun(),
            });
        }
        self.adopt(state, error, 0)
    }

    /// As [`Self::latch`], for what the other processes know. They have done the operations before
    /// `done`, which will come to their end here too.
    pub(super) fn adopt(&self, state: &mut State, error: Error, done: u64) -> Error {
        if let Some(failure) = &state.failure {
            return failure.clone();
        }
        state.failure = Some(error.clone());
        for open in state.open.drain(..) {
            open.occasion.exchange.close();
        }
        state.carried.retain(|(call, occasion)| {
            let stays = call.sequence < done;
            if !stays {
                occasion.relay.close();
            }
            stays
        });
        state.mail = Mail::default();
        self.wake_receivers();
        error
    }

    /// The first of the operations under way.
    pub(super) fn first_call(state: &State) -> Option<Arc<Call>> {
        let open = state.open.iter().map(|open| &open.call);
        let carried = state.carried.iter().map(|(call, _)| call);
        let calls = open.chain(carried);
        calls.min_by_key(|call| call.sequence).cloned()
    }
}
