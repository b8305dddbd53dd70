//! A group's counterparts in other processes: the notices that it sends them, and those that it gets.
//!
//! Failures and departures are put into the outbox under the lock of the group's parts. The thread that held the
//! lock sends them after it has released it, in their order: `sending` is held meanwhile, and guards nothing but
//! that order. Notices from others come on a thread of the network's.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::core::{Children, GroupState};
use super::exits::{Exit, Exits};
use super::mailbox::{Mailbox, Streams};
use super::order::CallOrder;
use crate::error::{Call, Error};
use crate::record::Group;
use crate::transport::network::{Cause, Lost, Network};
use crate::transport::processes::{Layout, Notice, Place, Registry, Reporter, Told};

/// The longest wait for the notice of a departure after the process has closed its network.
const NOTICE_DELAY: Duration = Duration::from_secs(1);

/// The parts of a group's state.
pub(super) struct Parts {
    pub(super) order: CallOrder,
    pub(super) exits: Exits,
    pub(super) mailbox: Mailbox,
    pub(super) streams: Streams,
    pub(super) failure: Option<Error>,
    /// Notices for the other processes, in order.
    pub(super) outbox: VecDeque<Notice>,
    pub(super) children: Children,
    /// The sub-groups that are to fail with this group, once its lock is released.
    pub(super) orphans: Vec<Arc<GroupState>>,
}

impl Parts {
    /// The group's failure, for a rank that makes a call. A loss that no call was under way for is named with the
    /// first call after it.
    pub(super) fn failure_in(&mut self, call: &Arc<Call>) -> Option<Error> {
        let failure = self.failure.as_mut()?;
        if let Error::Lost { call: named, .. } = failure {
            named.get_or_insert_with(|| call.clone());
        }
        Some(failure.clone())
    }
}

/// The way from a group to its ranks in other processes.
pub(crate) struct Peers {
    layout: Arc<Layout>,
    pub(super) network: Arc<dyn Network>,
    registry: Arc<Registry>,
    sending: Mutex<()>,
}

impl Peers {
    fn new(layout: Arc<Layout>, network: Arc<dyn Network>, registry: Arc<Registry>) -> Self {
        Self {
            layout,
            network,
            registry,
            sending: Mutex::new(()),
        }
    }

    /// For a sub-group of several processes.
    pub(super) fn child(&self, layout: Arc<Layout>) -> Self {
        let (network, registry) = (self.network.clone(), self.registry.clone());
        Self::new(layout, network, registry)
    }
}

impl Drop for Peers {
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

/// A group's parts, locked. Notices in the outbox are sent when they are unlocked.
pub(super) struct PartsGuard<'m> {
    state: &'m GroupState,
    /// There until the guard is dropped.
    parts: Option<MutexGuard<'m, Parts>>,
}

impl PartsGuard<'_> {
    /// Sleeps until woken or until `time` has passed.
    pub(super) fn wait_for(&mut self, condvar: &Condvar, time: Duration) {
        if let Some(parts) = &mut self.parts {
            condvar.wait_for(parts, time);
        }
    }
}

impl Drop for PartsGuard<'_> {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else {
            return;
        };
        let has_notices = !parts.outbox.is_empty();
        let (mut orphans, mut failure) = (Vec::new(), None);
        // Nothing is written in vain: other cores would have to fetch it.
        if !parts.orphans.is_empty() {
            orphans = std::mem::take(&mut parts.orphans);
            failure.clone_from(&parts.failure);
        }
        drop(parts);
        if has_notices {
            self.state.send_notices();
        }
        if let Some(failure) = failure {
            for orphan in orphans {
                orphan.fail_unused(failure.clone());
            }
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the guard is there from `lock` until `drop`"
)]
impl Deref for PartsGuard<'_> {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        self.parts.as_deref().expect("locked until dropped")
    }
}

#[expect(clippy::expect_used, reason = "as above")]
impl DerefMut for PartsGuard<'_> {
    fn deref_mut(&mut self) -> &mut Parts {
        self.parts.as_deref_mut().expect("locked until dropped")
    }
}

impl GroupState {
    /// The state of a group of these ranks of a job, some of which are in other processes.
    pub(crate) fn across(
        ranks: Vec<usize>,
        layout: Layout,
        network: Arc<dyn Network>,
        registry: &Arc<Registry>,
        reporter: &Arc<Reporter>,
    ) -> Arc<Self> {
        let layout = Arc::new(layout);
        let peers = Peers::new(layout.clone(), network, registry.clone());
        let ranks: Arc<[usize]> = ranks.into();
        let group = Group::root(ranks.clone());
        let state = Self::new(ranks, group, layout, Some(peers), reporter);
        state.register();
        state
    }

    /// Locks the group's parts.
    pub(super) fn lock(&self) -> PartsGuard<'_> {
        PartsGuard {
            state: self,
            parts: Some(self.parts.lock()),
        }
    }

    /// Asks for the notices of other processes, if there are any.
    pub(super) fn register(self: &Arc<Self>) {
        if let Some(peers) = &self.peers {
            peers.registry.register(self.layout.group, self);
        }
    }

    /// Sends the notices in the outbox to the other processes.
    fn send_notices(&self) {
        let Some(peers) = &self.peers else { return };
        let _sending = peers.sending.lock();
        loop {
            let Some(notice) = self.parts.lock().outbox.pop_front() else {
                return;
            };
            // A notice is made of numbers and short texts, which can always be written.
            if let Ok(bytes) = notice.encode(self.layout.group) {
                let has_ranks = |process| self.layout.place_of(process).is_some();
                peers.network.notify_some(&bytes, &has_ranks);
            }
        }
    }

    /// Waits a moment for the notices of how the ranks of a process ended that has left in good order: it sent
    /// them before, but they may not have been read yet.
    pub(super) fn await_exits(&self, parts: &mut PartsGuard<'_>, ranks: &[usize], rank: usize) {
        let deadline = Instant::now() + NOTICE_DELAY;
        // The last word on a rank that left early was sent before, too.
        let is_due = |exit: Option<&Exit>| exit.is_none_or(|exit| exit.waits_until().is_some());
        while parts.failure.is_none() && ranks.iter().any(|&rank| is_due(parts.exits.get(rank))) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            parts.wait_for(&self.inboxes[rank], left);
        }
    }

    /// Ends the group because `rank` needs a process in this call that is lost, and returns its failure.
    pub(super) fn fail_without(&self, rank: usize, lost: &Lost, call: &Arc<Call>) -> Error {
        if let Cause::TooLarge(detail) = &lost.cause {
            let message = format!("{call}: {detail}; give it in smaller parts");
            return self.fail(self.left(rank, &message, None));
        }
        let mut parts = self.lock();
        if let (Cause::Left, Some(place)) = (&lost.cause, self.place(lost.process)) {
            self.await_exits(&mut parts, &place.ranks, rank);
        }
        self.fail_lost(&mut parts, lost, Some(call.clone()))
    }

    /// The ranks of the group in a process.
    pub(super) fn place(&self, process: usize) -> Option<&Place> {
        Some(&self.layout.places()[self.layout.place_of(process)?])
    }

    /// Ends the group because a process is lost, and returns its failure: that of a rank that left, if all ranks
    /// of the process had.
    fn fail_lost(&self, parts: &mut Parts, lost: &Lost, call: Option<Arc<Call>>) -> Error {
        if let Cause::Silent(_) = lost.cause {
            // Before anybody is woken, so that the records show where the ranks wait.
            self.reporter.begin();
        }
        let place = self.place(lost.process);
        let ranks = place.map_or(&[][..], |place| &place.ranks);
        let exits: Option<Vec<_>> = ranks.iter().map(|&rank| parts.exits.get(rank)).collect();
        let first = exits.and_then(|exits| exits.into_iter().next());
        let error = match first {
            // Its end was no surprise; that it is needed still is.
            Some(exit) => self.peer_left(ranks[0], exit, call),
            None => Error::Lost {
                process: lost.process,
                ranks: ranks.iter().map(|&rank| self.ranks[rank]).collect(),
                address: lost.address.as_str().into(),
                call,
                cause: lost.cause.to_string().into(),
            },
        };
        self.latch(parts, error)
    }
}

impl Told for GroupState {
    fn notice(&self, from: usize, notice: Notice) {
        let mut parts = self.lock();
        match notice {
            Notice::Failed {
                failure,
                done,
                reports,
            } => {
                if reports {
                    self.reporter.begin();
                }
                self.accept_failure(&mut parts, (*failure).into(), &done);
            }
            Notice::Left {
                rank,
                reason,
                reached,
                sent,
                early,
            } => {
                // A process speaks for its own ranks alone.
                if parts.exits.is_news(rank, early) && self.layout.process_of(rank) == from {
                    let exit = Exit {
                        reached,
                        sent,
                        ..Exit::new(reason.into(), early)
                    };
                    self.note_exit(&mut parts, rank, &exit);
                }
            }
        }
    }

    fn lost(&self, lost: &Lost) {
        let Some(place) = self.place(lost.process) else {
            return;
        };
        let mut parts = self.lock();
        let mut ranks = place.ranks.iter();
        if ranks.all(|&rank| parts.exits.get(rank).is_some()) {
            // A rank that still waits for it finds out alone.
            self.wake_receivers();
        } else {
            let call = parts.order.first();
            self.fail_lost(&mut parts, lost, call);
        }
    }
}
