//! What the leader of a process, its lowest rank, gets ready for the other ranks there in one operation:
//! what came from other processes for what went to them, or a result that they share.
//!
//! A relay's parcels are packed while the ranks are in the exchange, and read after it. Then it ends:
//!
//! ```text
//! carried ── the leader has all ──> Delivered
//!    └────── the group failed ────> Closed
//! ```
//!
//! Callers: `across` and `sharing`; `meeting` makes and closes them.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use bytes::Bytes;

use super::shared::watch_for;
use super::{Signal, lock};

/// The bytes that have come to a process in an operation.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// By node; empty for this one.
    pub(crate) received: Vec<Bytes>,
    /// The result that the ranks of the process share, if they do.
    pub(crate) shared: Bytes,
}

/// What goes to other processes, and comes from them, in one operation.
pub(crate) struct Relay {
    pub(super) parcels: Box<[OnceLock<Bytes>]>,
    /// The places that have not been heard from in this round.
    awaited: Mutex<Vec<usize>>,
    /// When the leader looks whether all can still come, before its deadline.
    hurry: OnceLock<Instant>,
    /// Set once, under the lock of `awaited`.
    end: OnceLock<End>,
    moved: Signal,
}

pub(super) enum End {
    Delivered(Arc<Arrived>),
    Closed,
}

impl Relay {
    /// For a group of so many places; takes no memory for none.
    pub(super) fn new(places: usize) -> Self {
        Self {
            parcels: (0..places).map(|_| OnceLock::new()).collect(),
            awaited: Mutex::new((0..places).collect()),
            hurry: OnceLock::new(),
            end: OnceLock::new(),
            moved: Signal::default(),
        }
    }

    /// Ends the wait of those who are in it, unless the parcels have been delivered.
    pub(super) fn close(&self) {
        self.end(End::Closed);
    }

    /// The first end is the one that counts.
    pub(super) fn end(&self, end: End) {
        let mut awaited = lock(&self.awaited);
        if self.end.set(end).is_ok() {
            awaited.clear();
            self.moved.notify_all();
        }
    }

    /// Has the leader look at `until` whether all can still come; the first such time counts.
    pub(super) fn hurry(&self, until: Instant) {
        let _ = self.hurry.set(until);
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self) -> bool {
        let until = self.hurry.get();
        until.is_some_and(|until| *until <= Instant::now())
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.end.get(), Some(End::Closed))
    }

    /// Begins a round in which these places are to be heard from.
    pub(crate) fn await_all(&self, places: Vec<usize>) {
        let mut awaited = lock(&self.awaited);
        if self.end.get().is_none() {
            *awaited = places;
        }
    }

    pub(crate) fn heard_from(&self, place: usize) {
        lock(&self.awaited).retain(|&other| other != place);
    }

    pub(crate) fn awaited(&self) -> Vec<usize> {
        lock(&self.awaited).clone()
    }

    /// Waits for the leader; nothing if the group failed. At the deadline, `on_deadline` is called once.
    pub(super) fn wait(
        &self,
        deadline: Instant,
        on_deadline: impl FnOnce(),
    ) -> Option<Arc<Arrived>> {
        watch_for(|| self.end.get().is_some());
        let mut on_deadline = Some(on_deadline);
        let mut awaited = lock(&self.awaited);
        loop {
            match self.end.get() {
                Some(End::Delivered(arrived)) => return Some(arrived.clone()),
                Some(End::Closed) => return None,
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                awaited = self.moved.wait_for(awaited, left);
            } else if let Some(act) = on_deadline.take() {
                drop(awaited);
                act();
                awaited = lock(&self.awaited);
            } else {
                // The leader has heard from all, so it has its own deadline and little to do.
                awaited = self.moved.wait(awaited);
            }
        }
    }
}
