//! The meeting of a group's ranks: which operations are under way, and who has come to them.
//!
//! Operations are found by their sequence number, so several may be under way at once (a rank's
//! communication thread in one, its own thread in the next). An operation is `open` while ranks are
//! missing; when the last has come it is out of this module's hands, and nothing that happens to the
//! group disturbs it any more.
//!
//! How a group ends is in `failure`. A group that lies in several processes has one meeting in each, of
//! the ranks there. What they do for one another is in `across` (operations), `mail` (messages) and `away`
//! (failures and departures).
//!
//! Callers: `collective` through [`Entry`], `group` for the rest.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use super::away::{Away, Locked};
use super::lock;
use super::mail::{Mail, Streams};
use super::relay::Relay;
use super::shared::{Exchange, Floor, Lent, Missed};
use super::sharing::Spare;
use crate::error::{Call, Departure, Error, Result};
use crate::record::{Group, Recorder};
use crate::transport::processes::{Layout, Notice, Reporter, Spans};

/// What the ranks of one group share.
pub(crate) struct Meeting {
    /// The global rank of each member, by group rank.
    pub(super) ranks: Arc<[usize]>,
    pub(super) state: Mutex<State>,
    /// Where rank `r` sleeps while it waits for a message.
    pub(super) inboxes: Vec<Condvar>,
    /// Memory for results that the ranks here share.
    pub(super) spare: Spare,
    /// Where the ranks are.
    pub(super) layout: Arc<Layout>,
    /// How it reaches the ranks in other processes, if there are any.
    pub(super) away: Option<Away>,
    /// The group as records name it, and who keeps them.
    pub(super) group: Arc<Group>,
    pub(super) reporter: Arc<Reporter>,
}

pub(super) struct State {
    pub(super) open: Vec<Open>,
    /// Operations that all ranks here have come to, and that are not over in the other processes.
    pub(super) carried: Vec<(Arc<Call>, Arc<Occasion>)>,
    pub(super) failure: Option<Error>,
    pub(super) departed: Vec<Option<Gone>>,
    pub(super) mail: Mail,
    pub(super) streams: Streams,
    /// By rank, the operations that it has come to, and those that are done here; kept for the other
    /// processes.
    pub(super) reached: Vec<Spans>,
    pub(super) done: Spans,
    /// What the other processes are to be told, in this order.
    pub(super) outbox: VecDeque<Notice>,
    births: Vec<Birth>,
    /// The sub-groups with ranks elsewhere that were made of this group.
    pub(super) children: Vec<Weak<Meeting>>,
    /// Those that are to fail with this group, once its lock is released.
    pub(super) orphans: Vec<Arc<Meeting>>,
}

impl State {
    /// The group's failure, for a rank that makes a call. The first call after the loss of a process is
    /// the one that the loss is named with, if none was under way.
    pub(super) fn failure_in(&mut self, call: &Arc<Call>) -> Option<Error> {
        let failure = self.failure.as_mut()?;
        if let Error::Lost { call: place, .. } = failure {
            place.get_or_insert_with(|| call.clone());
        }
        Some(failure.clone())
    }
}

/// How a rank left.
#[derive(Clone)]
pub(super) struct Gone {
    pub(super) reason: Departure,
    /// Until when a better reason may come; none if this is the last word.
    pub(super) settles: Option<Instant>,
    /// The operations that a rank elsewhere has come to.
    pub(super) reached: Spans,
    /// How many messages it had sent from elsewhere to each rank.
    pub(super) sent: Vec<(usize, u64)>,
}

/// An operation that not all ranks here have come to.
pub(super) struct Open {
    /// The call of all that have come: one that differs ends the group.
    pub(super) call: Arc<Call>,
    /// Ranks in other processes count as come.
    pub(super) came: Vec<bool>,
    pub(super) occasion: Arc<Occasion>,
}

/// What the ranks in one operation share.
pub(super) struct Occasion {
    pub(super) exchange: Exchange,
    /// What goes to other processes and comes from them.
    pub(super) relay: Relay,
}

impl Occasion {
    /// Has those in the operation look at `until` whether it can still come to its end.
    pub(super) fn hurry(&self, until: Instant) {
        self.exchange.hurry(until);
        self.relay.hurry(until);
    }
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
    /// Lends `lent` to the operation, and does `share` of the work when all ranks here have come.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all have come.
    pub(super) fn exchange<R>(
        &self,
        occasion: &Occasion,
        lent: Lent<'_>,
        deadline: Instant,
        share: impl FnOnce(Floor<'_>) -> R,
    ) -> Result<R> {
        let Self {
            meeting,
            rank,
            ref call,
            timeout,
        } = *self;
        let outcome = occasion.exchange.attend(
            meeting.layout.seat(rank),
            lent,
            deadline,
            || meeting.give_up(rank, call, (deadline, timeout)),
            share,
        );
        let reporter = &meeting.reporter;
        if meeting.away.is_some() && outcome.is_ok() {
            reporter.recorder().exchanged(meeting.ranks[rank], call);
        }
        outcome.map_err(|missed| match missed {
            Missed::Closed => self.withdrawn(),
            Missed::Broken(seat) => {
                let call = Some(Arc::clone(call));
                let peer = meeting.layout.local()[seat];
                meeting.fail(meeting.left(peer, "panicked while it reduced", call))
            }
        })
    }

    /// The group's failure, which has ended a wait.
    pub(super) fn withdrawn(&self) -> Error {
        let left = self.meeting.left(self.rank, "withdrew", None);
        self.meeting.fail(left)
    }

    /// How many ranks take part.
    pub(crate) fn ranks(&self) -> usize {
        self.meeting.ranks.len()
    }
}

impl Meeting {
    /// A meeting of these global ranks, the first of which is rank 0 of the group. Ranks in other
    /// processes are reached through `away`, where there are any.
    pub(super) fn new(
        ranks: Arc<[usize]>,
        group: Arc<Group>,
        layout: Arc<Layout>,
        away: Option<Away>,
        reporter: &Arc<Reporter>,
    ) -> Arc<Self> {
        let size = ranks.len();
        Arc::new(Self {
            ranks,
            layout,
            state: Mutex::new(State {
                open: Vec::new(),
                carried: Vec::new(),
                failure: None,
                departed: vec![None; size],
                mail: Mail::default(),
                streams: Streams::default(),
                reached: vec![Spans::default(); size],
                done: Spans::default(),
                outbox: VecDeque::new(),
                births: Vec::new(),
                children: Vec::new(),
                orphans: Vec::new(),
            }),
            inboxes: (0..size).map(|_| Condvar::new()).collect(),
            spare: Spare::default(),
            away,
            group,
            reporter: reporter.clone(),
        })
    }

    /// A meeting of the ranks of a job, which are all in this process.
    pub(crate) fn local(ranks: Vec<usize>, reporter: &Arc<Reporter>) -> Arc<Self> {
        let ranks: Arc<[usize]> = ranks.into();
        let group = Group::root(ranks.clone());
        let layout = Arc::new(Layout::local_only(ranks.len()));
        Self::new(ranks, group, layout, None, reporter)
    }

    /// Makes a rank's call, and keeps a record of how far it comes.
    pub(crate) fn recorded<R>(
        &self,
        rank: usize,
        call: &Arc<Call>,
        operation: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let (recorder, rank) = (self.reporter.recorder(), self.ranks[rank]);
        let (name, number) = (&*call.operation, call.sequence);
        let _span = tracing::trace_span!("collective", rank, operation = name, number).entered();
        recorder.enter(rank, &self.group, call);
        let mut ending = Ending {
            recorder,
            rank,
            call,
            well: false,
        };
        let outcome = operation();
        ending.well = outcome.is_ok();
        outcome
    }

    /// Where the ranks are.
    #[cfg(test)]
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The global rank of each member.
    pub(crate) fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// The state; what is put into its outbox is told when it is unlocked.
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked::new(self, lock(&self.state))
    }

    /// The sub-group of `colour` that the split with number `sequence` made, with these ranks of this
    /// group: the same meeting for each of them that is here.
    pub(crate) fn child(&self, sequence: u64, colour: u64, members: &[usize]) -> Arc<Self> {
        let key = (sequence, colour);
        let mut state = lock(&self.state);
        let births = &mut state.births;
        let found = births.iter().position(|birth| birth.key == key);
        let place = found.unwrap_or_else(|| {
            let ranks: Arc<[usize]> = members.iter().map(|&rank| self.ranks[rank]).collect();
            let group = self.group.child(sequence, colour, ranks.clone());
            let layout = Arc::new(self.layout.child(sequence, colour, members));
            let away = self.away.as_ref().filter(|_| !layout.is_local());
            let away = away.map(|away| away.child(layout.clone()));
            births.push(Birth {
                key,
                meeting: Self::new(ranks, group, layout, away, &self.reporter),
                unfetched: members
                    .iter()
                    .filter(|&&rank| self.layout.is_here(rank))
                    .count(),
            });
            births.len() - 1
        });
        births[place].unfetched -= 1;
        let meeting = if births[place].unfetched == 0 {
            births.swap_remove(place).meeting
        } else {
            Arc::clone(&births[place].meeting)
        };
        if found.is_none() && meeting.away.is_some() {
            let children = &mut state.children;
            children.retain(|child| child.strong_count() > 0);
            children.push(Arc::downgrade(&meeting));
        }
        let failure = state.failure.clone();
        drop(state);
        if found.is_none() {
            meeting.register();
        }
        if let Some(failure) = failure {
            meeting.orphaned(failure);
        }
        meeting
    }

    /// Notes that `rank` comes to the operation, and checks that it is the others' operation.
    pub(super) fn enter(&self, rank: usize, call: &Arc<Call>) -> Result<Arc<Occasion>> {
        let mut state = self.lock();
        if let Some(failure) = state.failure_in(call) {
            return Err(failure);
        }
        let found = state
            .open
            .iter()
            .position(|open| open.call.sequence == call.sequence);
        let place = found.unwrap_or_else(|| {
            state.open.push(self.open(call));
            state.open.len() - 1
        });
        if *state.open[place].call != **call {
            let error = self.mismatch(rank, call, &state.open[place]);
            return Err(self.latch(&mut state, error));
        }
        self.check_gone(&mut state, call, place)?;
        let State {
            open,
            carried,
            reached,
            ..
        } = &mut *state;
        open[place].came[rank] = true;
        if self.away.is_some() {
            reached[rank].insert(call.sequence);
        }
        if open[place].came.iter().all(|&came| came) {
            let Open { call, occasion, .. } = open.swap_remove(place);
            if self.away.is_some() {
                carried.push((call, occasion.clone()));
            }
            return Ok(occasion);
        }
        Ok(Arc::clone(&open[place].occasion))
    }

    /// Fails if the open operation at this place needs a rank that has gone; has it wait for a better reason
    /// only so long as one may come.
    fn check_gone(&self, state: &mut State, call: &Arc<Call>, place: usize) -> Result<()> {
        let open = &state.open[place];
        let gone = state.departed.iter().enumerate();
        let gone = gone.filter_map(|(peer, gone)| Some((peer, gone.as_ref()?)));
        let mut lacking = gone.filter(|(peer, gone)| self.lacks(*peer, gone, call, Some(open)));
        let mut waits = None;
        let settled = lacking.find(|(_, gone)| match gone.waits_until() {
            Some(until) => {
                waits = Some(until);
                false
            }
            None => true,
        });
        if let Some((peer, gone)) = settled {
            let error = Error::PeerLeft {
                peer: self.ranks[peer],
                reason: gone.reason.clone(),
                call: Some(call.clone()),
            };
            return Err(self.latch(state, error));
        }
        if let Some(until) = waits {
            open.occasion.hurry(until);
        }
        Ok(())
    }

    /// An operation that nobody has come to.
    fn open(&self, call: &Arc<Call>) -> Open {
        let ranks = 0..self.ranks.len();
        Open {
            call: call.clone(),
            came: ranks.map(|rank| !self.layout.is_here(rank)).collect(),
            occasion: Arc::new(Occasion {
                exchange: Exchange::new(self.layout.local().len()),
                relay: Relay::new(self.layout.places().len()),
            }),
        }
    }

    pub(super) fn wake_receivers(&self) {
        self.inboxes.iter().for_each(Condvar::notify_all);
    }
}

/// Records the end of an operation when dropped, so that of one that panics too.
struct Ending<'o> {
    recorder: &'o Recorder,
    /// The global rank.
    rank: usize,
    call: &'o Arc<Call>,
    well: bool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.recorder.end(self.rank, self.call, self.well);
    }
}

#[cfg(test)]
mod tests;
