//! What ends a group: the first failure, which is kept, and the ranks that leave it.
//!
//! The first failure wakes whoever waits, and every later call returns it. A rank that leaves ends only
//! what needs it: the operations that it has not come to. If it left early, those who need it wait up to
//! [`GRACE`] for a better reason first: each operation that lacks it is given that deadline.
//!
//! Callers: `meeting`, `mail`, `across`, `away`; `group` for the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mail::Mail;
use super::meeting::{Gone, Meeting, Occasion, Open, State};
use crate::error::{Call, Departure, Error};
use crate::transport::processes::{Failure, Notice, Spans};

/// How long those who need a rank that left early wait for a better reason.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

impl Gone {
    /// Until when a better reason may come, if it may still.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.settles.filter(|until| *until > Instant::now())
    }
}

impl Meeting {
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
        self.part(rank, reason, None);
    }

    /// As [`Self::leave`], where a better reason may come soon, by a call of `leave`.
    pub(crate) fn leave_early(&self, rank: usize, reason: Departure) {
        self.part(rank, reason, Some(Instant::now() + GRACE));
    }

    fn part(&self, rank: usize, reason: Departure, settles: Option<Instant>) {
        let mut state = self.lock();
        let known = state.departed[rank].as_ref();
        if known.is_some_and(|gone| gone.settles.is_none() || settles.is_some()) {
            return;
        }
        if self.away.is_some() && state.failure.is_none() {
            let sent = state.streams.sent_by(rank);
            let notice = Notice::left(rank, &reason, &state.reached[rank], sent);
            state.outbox.push_back(notice.with_early(settles.is_some()));
        }
        let gone = Gone {
            reason,
            settles,
            reached: Spans::default(),
            sent: Vec::new(),
        };
        self.depart(&mut state, rank, gone);
    }

    /// Notes that a rank, here or elsewhere, has ended.
    pub(super) fn depart(&self, state: &mut State, rank: usize, gone: Gone) {
        let open = state.open.iter();
        let needed = open.filter(|open| self.lacks(rank, &gone, &open.call, Some(open)));
        let needed = needed.map(|open| (&open.call, &open.occasion));
        let carried = state.carried.iter();
        let carried = carried.filter(|(call, _)| self.lacks(rank, &gone, call, None));
        let carried = carried.map(|(call, occasion)| (call, occasion));
        let needed: Vec<(Arc<Call>, Arc<Occasion>)> = needed
            .chain(carried)
            .map(|(call, occasion)| (call.clone(), occasion.clone()))
            .collect();
        let (reason, settles) = (gone.reason.clone(), gone.settles);
        state.departed[rank] = Some(gone);
        if let Some(until) = settles {
            for (_, occasion) in needed {
                occasion.hurry(until);
            }
            self.wake_receivers();
            return;
        }
        let first = needed.into_iter().map(|(call, _)| call);
        let first = first.min_by_key(|call| call.sequence);
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

    /// Whether an operation needs a rank that has gone; all ranks here have come to one that is not open.
    pub(super) fn lacks(&self, rank: usize, gone: &Gone, call: &Call, open: Option<&Open>) -> bool {
        if self.layout.is_here(rank) {
            open.is_some_and(|open| !open.came[rank])
        } else {
            !gone.reached.contains(call.sequence)
        }
    }

    /// The error of an operation that needs a rank which has gone, once no better reason can come; `late`, if
    /// none is waited for.
    fn missing(&self, state: &State, call: &Arc<Call>, late: bool) -> Option<Error> {
        let mut open = state.open.iter();
        let open = open.find(|open| open.call.sequence == call.sequence);
        let mut gone = state.departed.iter().enumerate();
        gone.find_map(|(peer, gone)| {
            let gone = gone.as_ref()?;
            let settled = late || gone.waits_until().is_none();
            (settled && self.lacks(peer, gone, call, open)).then(|| Error::PeerLeft {
                peer: self.ranks[peer],
                reason: gone.reason.clone(),
                call: Some(call.clone()),
            })
        })
    }

    /// Called when a rank that left early should have given a better reason: that ends the operations that
    /// need it.
    pub(super) fn settle(&self, call: &Arc<Call>) {
        let mut state = self.lock();
        if let Some(error) = self.missing(&state, call, false) {
            self.latch(&mut state, error);
        }
    }

    /// Ends the group with a timeout, unless who is missing has gone.
    pub(super) fn fail_late(&self, call: &Arc<Call>, timeout: Error) -> Error {
        let mut state = self.lock();
        let error = self.missing(&state, call, true).unwrap_or(timeout);
        self.latch(&mut state, error)
    }

    /// Called at a rank's deadline, or before it when a rank that left early should have given a better reason:
    /// if others are still missing, that ends the group.
    pub(super) fn give_up(
        &self,
        rank: usize,
        call: &Arc<Call>,
        (deadline, after): (Instant, Duration),
    ) {
        let mut state = self.lock();
        let late = Instant::now() >= deadline;
        let Some(open) = state
            .open
            .iter()
            .find(|open| open.call.sequence == call.sequence)
        else {
            return;
        };
        let error = self.missing(&state, call, late).or_else(|| {
            let missing = (0..self.ranks.len()).filter(|&rank| !open.came[rank]);
            let missing = missing.map(|rank| self.ranks[rank]).collect();
            late.then(|| Error::Timeout {
                rank: self.ranks[rank],
                call: call.clone(),
                missing,
                after,
            })
        });
        if let Some(error) = error {
            self.latch(&mut state, error);
        }
    }

    pub(super) fn mismatch(&self, rank: usize, call: &Arc<Call>, open: &Open) -> Error {
        // An operation is opened by a rank that comes to it, so there is a lowest.
        let mut came =
            (0..self.ranks.len()).filter(|&rank| open.came[rank] && self.layout.is_here(rank));
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
        if state.failure.is_none() && self.away.is_some() {
            let here = self.ranks[self.layout.local()[0]];
            let failure = Failure::new(&error, here);
            let notice = Notice::failed(failure, &state.done, self.reporter.has_begun());
            state.outbox.push_back(notice);
        }
        if let Some(failure) = &state.failure {
            return failure.clone();
        }
        self.adopt(state, error, &Spans::default())
    }

    /// As [`Self::latch`], for what another process knows. It has done the operations of `done`, which will
    /// come to their end here too; it does no others any more, so nobody here may wait for them, whatever the
    /// group failed of before.
    pub(super) fn adopt(&self, state: &mut State, error: Error, done: &Spans) -> Error {
        state.carried.retain(|(call, occasion)| {
            let stays = done.contains(call.sequence);
            if !stays {
                occasion.relay.close();
            }
            stays
        });
        if let Some(failure) = &state.failure {
            return failure.clone();
        }
        state.failure = Some(error.clone());
        let children = state.children.drain(..);
        state.orphans = children.filter_map(|child| child.upgrade()).collect();
        for open in state.open.drain(..) {
            open.occasion.exchange.close();
        }
        state.mail = Mail::default();
        self.wake_receivers();
        error
    }

    /// Ends a sub-group whose parent has failed, if it was not used yet: a rank elsewhere may have failed in the
    /// split, and never come to it.
    pub(super) fn orphaned(&self, failure: Error) {
        let mut state = self.lock();
        let used = state.done != Spans::default() || state.streams.has_received();
        if self.away.is_some() && !used {
            self.latch(&mut state, failure);
        }
    }

    /// The first of the operations under way.
    pub(super) fn first_call(state: &State) -> Option<Arc<Call>> {
        let open = state.open.iter().map(|open| &open.call);
        let carried = state.carried.iter().map(|(call, _)| call);
        let calls = open.chain(carried);
        calls.min_by_key(|call| call.sequence).cloned()
    }
}
