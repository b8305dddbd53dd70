//! A meeting and its counterparts in other processes: what it tells them, and what it hears.
//!
//! Failures and departures are put into the outbox under the state's lock, and told after it is
//! released by whoever held it, in their order: `speaking` is held meanwhile, which guards nothing but
//! that order. What is heard comes on a thread of the network's.
//!
//! Callers: `meeting`, `mail`, `across`; the `Registry` tells the news.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::failure::GRACE;
use super::meeting::{Gone, Meeting, State};
use super::{lock, wait_for};
use crate::error::{Call, Error};
use crate::record::Group;
use crate::transport::network::{Cause, Lost, Network};
use crate::transport::processes::{Layout, Notice, Place, Registry, Reporter, Told};

/// How long a departure may take to be heard after the process has closed its network.
const HEAR_OUT: Duration = Duration::from_secs(1);

/// How a meeting reaches the ranks in other processes.
pub(crate) struct Away {
    pub(super) layout: Arc<Layout>,
    pub(super) network: Arc<dyn Network>,
    registry: Arc<Registry>,
    speaking: Mutex<()>,
}

impl Away {
    fn new(layout: Arc<Layout>, network: Arc<dyn Network>, registry: Arc<Registry>) -> Self {
        Self {
            layout,
            network,
            registry,
            speaking: Mutex::new(()),
        }
    }

    /// For a sub-group of several processes.
    pub(super) fn child(&self, layout: Arc<Layout>) -> Self {
        let (network, registry) = (self.network.clone(), self.registry.clone());
        Self::new(layout, network, registry)
    }
}

impl Drop for Away {
    /// Nobody here asks for messages of the group any more.
    fn drop(&mut self) {
        let layout = &self.layout;
        let ranks = layout.places().iter().flat_map(|place| &place.ranks);
        let elsewhere = ranks.filter(|rank| !layout.is_here(**rank));
        let streams = elsewhere.flat_map(|&from| {
            let to = layout.local().iter();
            to.map(move |&to| layout.stream(from, to))
        });
        let groups: Vec<u64> = streams.chain([layout.group]).collect();
        self.network.forget(&groups);
    }
}

/// A meeting's state, locked. What is in the outbox when it is unlocked is told then.
pub(super) struct Locked<'m> {
    meeting: &'m Meeting,
    /// There until the lock is dropped.
    state: Option<MutexGuard<'m, State>>,
}

impl<'m> Locked<'m> {
    pub(super) fn new(meeting: &'m Meeting, state: MutexGuard<'m, State>) -> Self {
        let state = Some(state);
        Self { meeting, state }
    }

    /// Sleeps until woken or until `time` has passed.
    pub(super) fn wait_for(mut self, condvar: &Condvar, time: Duration) -> Self {
        self.state = self
            .state
            .take()
            .map(|state| wait_for(condvar, state, time));
        self
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else {
            return;
        };
        let news = !state.outbox.is_empty();
        let orphans = std::mem::take(&mut state.orphans);
        let failure = state.failure.clone().filter(|_| !orphans.is_empty());
        drop(state);
        if news {
            self.meeting.tell();
        }
        if let Some(failure) = failure {
            for orphan in orphans {
                orphan.orphaned(failure.clone());
            }
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the guard is there from `new` until `drop`, but inside `wait_for`"
)]
impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_deref().expect("locked until dropped")
    }
}

#[expect(clippy::expect_used, reason = "as above")]
impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_deref_mut().expect("locked until dropped")
    }
}

impl Meeting {
    /// A meeting of the ranks of a job that `layout` has, with those in other processes.
    pub(crate) fn across(
        ranks: Vec<usize>,
        layout: Layout,
        network: Arc<dyn Network>,
        registry: &Arc<Registry>,
        reporter: &Arc<Reporter>,
    ) -> Arc<Self> {
        let layout = Arc::new(layout);
        let away = Away::new(layout.clone(), network, registry.clone());
        let ranks: Arc<[usize]> = ranks.into();
        let group = Group::root(ranks.clone());
        let meeting = Self::new(ranks, group, layout, Some(away), reporter);
        meeting.register();
        meeting
    }

    /// Asks for the news of other processes, if there are any.
    pub(super) fn register(self: &Arc<Self>) {
        if let Some(away) = &self.away {
            away.registry.register(away.layout.group, self);
        }
    }

    /// Tells the other processes what is in the outbox.
    fn tell(&self) {
        let Some(away) = &self.away else { return };
        let _speaking = lock(&away.speaking);
        loop {
            let Some(notice) = lock(&self.state).outbox.pop_front() else {
                return;
            };
            // A notice is made of numbers and short texts, which can always be written.
            if let Ok(bytes) = notice.encode(away.layout.group) {
                let has_ranks = |process| away.layout.place_of(process).is_some();
                away.network.notify_some(&bytes, &has_ranks);
            }
        }
    }

    /// Waits a moment for the news of how the ranks of a process ended that has left in good order: they
    /// said it before, but may not have been heard yet.
    pub(super) fn hear_out<'m>(
        &'m self,
        mut state: Locked<'m>,
        ranks: &[usize],
        rank: usize,
    ) -> Locked<'m> {
        let deadline = Instant::now() + HEAR_OUT;
        // The last word on a rank that left early was said before, too.
        let is_due = |gone: &Option<Gone>| {
            let gone = gone.as_ref();
            gone.is_none_or(|gone| gone.waits_until().is_some())
        };
        while state.failure.is_none() && ranks.iter().any(|&rank| is_due(&state.departed[rank])) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = state.wait_for(&self.inboxes[rank], left);
        }
        state
    }

    /// What the loss of a process means to `rank`, which needs it in this call.
    pub(super) fn missed(&self, rank: usize, lost: &Lost, call: &Arc<Call>) -> Error {
        if let Cause::TooLarge(detail) = &lost.cause {
            let message = format!("{call}: {detail}; give it in smaller parts");
            return self.fail(self.left(rank, &message, None));
        }
        let mut state = self.lock();
        if let (Cause::Left, Some(place)) = (&lost.cause, self.place(lost.process)) {
            state = self.hear_out(state, &place.ranks, rank);
        }
        self.cut_off(&mut state, lost, Some(call.clone()))
    }

    /// What hosts ranks of the group in a process.
    pub(super) fn place(&self, process: usize) -> Option<&Place> {
        Some(&self.layout.places()[self.layout.place_of(process)?])
    }

    /// What the loss of a process means to the group, in this call: nothing new, if it has failed or all
    /// ranks of the process have left it.
    fn cut_off(&self, state: &mut State, lost: &Lost, call: Option<Arc<Call>>) -> Error {
        if let Cause::Silent(_) = lost.cause {
            // Before anybody is woken, so that the records show where the ranks wait.
            self.reporter.begin();
        }
        let place = self.place(lost.process);
        let ranks = place.map_or(&[][..], |place| &place.ranks);
        let gone = ranks.iter().map(|&rank| {
            let gone = state.departed[rank].as_ref()?;
            Some((self.ranks[rank], gone.reason.clone()))
        });
        let gone: Option<Vec<_>> = gone.collect();
        let error = match gone.and_then(|gone| gone.into_iter().next()) {
            // Its end was no surprise; that it is needed still is.
            Some((peer, reason)) => Error::PeerLeft { peer, reason, call },
            None => Error::Lost {
                process: lost.process,
                ranks: ranks.iter().map(|&rank| self.ranks[rank]).collect(),
                address: lost.address.as_str().into(),
                call,
                cause: lost.cause.to_string().into(),
            },
        };
        self.latch(state, error)
    }
}

impl Told for Meeting {
    fn notice(&self, from: usize, notice: Notice) {
        let mut state = self.lock();
        match notice {
            Notice::Failed {
                failure,
                done,
                reports,
            } => {
                if reports {
                    self.reporter.begin();
                }
                self.adopt(&mut state, (*failure).into(), &done);
            }
            Notice::Left {
                rank,
                reason,
                reached,
                sent,
                early,
            } => {
                let gone = state.departed.get(rank);
                // The last word on a rank that left early is news.
                let known = gone.is_some_and(|gone| {
                    let gone = gone.as_ref();
                    gone.is_none_or(|gone| gone.settles.is_some() && !early)
                });
                // A process speaks for its own ranks alone.
                if known && self.layout.process_of(rank) == from {
                    let reason = reason.into();
                    let gone = Gone {
                        reason,
                        settles: early.then(|| Instant::now() + GRACE),
                        reached,
                        sent,
                    };
                    self.depart(&mut state, rank, gone);
                }
            }
        }
    }

    fn lost(&self, lost: &Lost) {
        let Some(place) = self.place(lost.process) else {
            return;
        };
        let mut state = self.lock();
        let mut ranks = place.ranks.iter();
        if ranks.all(|&rank| state.departed[rank].is_some()) {
            // Whoever still waits for it finds out alone.
            self.wake_receivers();
        } else {
            let call = Self::first_call(&state);
            self.cut_off(&mut state, lost, call);
        }
    }
}
