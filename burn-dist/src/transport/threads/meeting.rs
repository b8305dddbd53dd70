//! The meeting of a group's ranks: which operations are under way, who has come to them, who has left,
//! and the one error that ends it all.
//!
//! Operations are found by their sequence number, so several may be under way at once (a rank's
//! communication thread in one, its own thread in the next). An operation is `open` while ranks are
//! missing; when the last has come it is out of this module's hands, and nothing that happens to the
//! group disturbs it any more.
//!
//! The first failure is kept for good. It wakes whoever waits, and every later call returns it.
//!
//! Callers: `collective` through [`Entry`], `group` for the rest.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::lock;
use super::mail::Mail;
use super::shared::{Exchange, Floor, Lent, Missed};
use crate::error::{Call, Departure, Error, Result};

/// What the ranks of one group share.
pub(crate) struct Meeting {
    /// The global rank of each member, by group rank.
    pub(super) ranks: Arc<[usize]>,
    /// Whether every rank can have a core of its own.
    watch: bool,
    pub(super) state: Mutex<State>,
    /// Where rank `r` sleeps while it waits for a message.
    pub(super) inboxes: Vec<Condvar>,
}

pub(super) struct State {
    open: Vec<Open>,
    pub(super) failure: Option<Error>,
    pub(super) departed: Vec<Option<Departure>>,
    pub(super) mail: Mail,
    births: Vec<Birth>,
}

/// An operation that not all ranks have come to.
struct Open {
    /// The call of all that have come: one that differs ends the group.
    call: Arc<Call>,
    came: Vec<bool>,
    exchange: Arc<Exchange>,
}

/// A sub-group that not all of its members have fetched.
struct Birth {
    /// The sequence number of the split, and the colour.
    key: (u64, u64),
    meeting: Arc<Meeting>,
    unfetched: usize,
}

/// One rank's entry into one operation: who, where, which, and for how long it waits.
pub(crate) struct Entry<'m> {
    pub(crate) meeting: &'m Meeting,
    /// The rank within the group.
    pub(crate) rank: usize,
    pub(crate) call: Arc<Call>,
    pub(crate) timeout: Duration,
}

impl Entry<'_> {
    /// Lends `lent` to the operation, and does `share` of the work when all ranks have come.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all have come.
    pub(crate) fn attend<R>(self, lent: Lent<'_>, share: impl FnOnce(Floor<'_>) -> R) -> Result<R> {
        let Self {
            meeting,
            rank,
            call,
            timeout,
        } = self;
        let exchange = meeting.enter(rank, &call)?;
        let deadline = Instant::now() + timeout;
        let outcome = exchange.attend(
            rank,
            lent,
            deadline,
            || meeting.give_up(rank, &call, timeout),
            share,
        );
        outcome.map_err(|missed| match missed {
            Missed::Closed => meeting.fail(meeting.left(rank, "withdrew", None)),
            Missed::Broken(peer) => {
                meeting.fail(meeting.left(peer, "panicked while it reduced", Some(call)))
            }
        })
    }

    /// How many ranks take part.
    pub(crate) fn ranks(&self) -> usize {
        self.meeting.ranks.len()
    }
}

impl Meeting {
    /// A meeting of these global ranks, the first of which is rank 0 of the group.
    pub(crate) fn new(ranks: Vec<usize>) -> Arc<Self> {
        let size = ranks.len();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Arc::new(Self {
            ranks: ranks.into(),
            watch: size <= cores,
            state: Mutex::new(State {
                open: Vec::new(),
                failure: None,
                departed: vec![None; size],
                mail: Mail::default(),
                births: Vec::new(),
            }),
            inboxes: (0..size).map(|_| Condvar::new()).collect(),
        })
    }

    /// The global rank of each member.
    pub(crate) fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// Whether the group has failed.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.state).failure.is_some()
    }

    /// Keeps `error` as the group's failure unless it has one, and returns the one it has.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.latch(&mut lock(&self.state), error)
    }

    /// Notes that a rank has ended. That is a failure for the operations under way that it has not
    /// come to, and for every later one; those it has come to are not disturbed.
    pub(crate) fn leave(&self, rank: usize, reason: Departure) {
        let mut state = lock(&self.state);
        if state.departed[rank].is_some() {
            return;
        }
        state.departed[rank] = Some(reason.clone());
        let needed = state.open.iter().filter(|open| !open.came[rank]);
        if let Some(open) = needed.min_by_key(|open| open.call.sequence) {
            let call = Some(open.call.clone());
            self.latch(
                &mut state,
                Error::PeerLeft {
                    peer: self.ranks[rank],
                    reason,
                    call,
                },
            );
        } else {
            // Those who wait for a message of this rank look for themselves.
            self.wake_receivers();
        }
    }

    /// The sub-group of `colour` that the split with number `sequence` made, with these global ranks:
    /// the same meeting for each of them.
    pub(crate) fn child(&self, sequence: u64, colour: u64, ranks: Vec<usize>) -> Arc<Self> {
        let key = (sequence, colour);
        let mut state = lock(&self.state);
        let births = &mut state.births;
        let place = births
            .iter()
            .position(|birth| birth.key == key)
            .unwrap_or_else(|| {
                let unfetched = ranks.len();
                births.push(Birth {
                    key,
                    meeting: Self::new(ranks),
                    unfetched,
                });
                births.len() - 1
            });
        births[place].unfetched -= 1;
        if births[place].unfetched == 0 {
            births.swap_remove(place).meeting
        } else {
            Arc::clone(&births[place].meeting)
        }
    }

    /// Notes that `rank` comes to the operation, and checks that it is the others' operation.
    fn enter(&self, rank: usize, call: &Arc<Call>) -> Result<Arc<Exchange>> {
        let mut state = lock(&self.state);
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let size = self.ranks.len();
        let found = state
            .open
            .iter()
            .position(|open| open.call.sequence == call.sequence);
        let place = found.unwrap_or_else(|| {
            let exchange = Arc::new(Exchange::new(size, self.watch));
            state.open.push(Open {
                call: call.clone(),
                came: vec![false; size],
                exchange,
            });
            state.open.len() - 1
        });
        if *state.open[place].call != **call {
            let error = self.mismatch(rank, call, &state.open[place]);
            return Err(self.latch(&mut state, error));
        }
        let State { open, departed, .. } = &mut *state;
        let gone = (0..size).find(|&rank| departed[rank].is_some() && !open[place].came[rank]);
        if let Some(gone) = gone
            && let Some(reason) = departed[gone].clone()
        {
            let call = Some(call.clone());
            let error = Error::PeerLeft {
                peer: self.ranks[gone],
                reason,
                call,
            };
            return Err(self.latch(&mut state, error));
        }
        open[place].came[rank] = true;
        if open[place].came.iter().all(|&came| came) {
            return Ok(open.swap_remove(place).exchange);
        }
        Ok(Arc::clone(&open[place].exchange))
    }

    /// Called at a rank's deadline: if others are still missing, that ends the group.
    fn give_up(&self, rank: usize, call: &Arc<Call>, after: Duration) {
        let mut state = lock(&self.state);
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

    fn mismatch(&self, rank: usize, call: &Arc<Call>, open: &Open) -> Error {
        // An operation is opened by a rank that comes to it, so there is a lowest.
        let peer = open.came.iter().position(|&came| came).unwrap_or(rank);
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

    pub(super) fn latch(&self, state: &mut State, error: Error) -> Error {
        if let Some(failure) = &state.failure {
            return failure.clone();
        }
        state.failure = Some(error.clone());
        for open in state.open.drain(..) {
            open.exchange.close();
        }
        state.mail = Mail::default();
        self.wake_receivers();
        error
    }

    fn wake_receivers(&self) {
        self.inboxes.iter().for_each(Condvar::notify_all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Detail;

    fn call(operation: &'static str, sequence: u64) -> Arc<Call> {
        Arc::new(Call {
            operation,
            sequence,
            dtype: "f32",
            shape: vec![4],
            detail: Detail::default(),
        })
    }

    fn attend(meeting: &Meeting, rank: usize, call: Arc<Call>, timeout: Duration) -> Result<()> {
        Entry {
            meeting,
            rank,
            call,
            timeout,
        }
        .attend(Lent::Read(&[]), |_| ())
    }

    const LONG: Duration = Duration::from_mins(5);

    #[test]
    fn a_rank_that_left_after_its_last_operation_disturbs_nobody() {
        let meeting = Meeting::new(vec![0, 1]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                attend(&meeting, 0, call("barrier", 0), LONG).unwrap();
                meeting.leave(0, Departure::Returned);
            });
            attend(&meeting, 1, call("barrier", 0), LONG).unwrap();
            meeting.leave(1, Departure::Returned);
        });
        assert!(lock(&meeting.state).failure.is_none());
    }

    #[test]
    fn a_later_operation_fails_at_once_and_names_who_left() {
        let meeting = Meeting::new(vec![3, 5]);
        meeting.leave(1, Departure::Returned);
        let error = attend(&meeting, 0, call("barrier", 0), LONG).unwrap_err();
        assert!(matches!(error, Error::PeerLeft { peer: 5, .. }), "{error}");
    }

    #[test]
    fn one_operation_may_wait_while_a_later_one_is_done() {
        let meeting = Meeting::new(vec![0, 1]);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| attend(&meeting, 0, call("all_reduce", 0), LONG));
            let second = scope.spawn(|| attend(&meeting, 0, call("barrier", 1), LONG));
            attend(&meeting, 1, call("barrier", 1), LONG).unwrap();
            second.join().unwrap().unwrap();
            attend(&meeting, 1, call("all_reduce", 0), LONG).unwrap();
            first.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_sub_groups_members_get_one_meeting_and_leave_nothing_behind() {
        let meeting = Meeting::new(vec![0, 1]);
        let first = meeting.child(7, 1, vec![0, 1]);
        let second = meeting.child(7, 1, vec![0, 1]);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(lock(&meeting.state).births.is_empty());
    }
}
