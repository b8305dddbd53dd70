//! The memory that the ranks of a process share in one operation: the parcels that they fill for other processes,
//! and what the leader, the lowest rank, delivers.
//!
//! Parcels are filled while the ranks are in the exchange of shared memory, and read after it. Then the round ends:
//!
//! ```text
//! under way ── the leader has all ──> Delivered
//!    └──────── the group failed ────> Closed
//! ```

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::shared_memory::watch_for;

/// The bytes that have come to a process in an operation.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// By node; empty for this one.
    pub(crate) received: Vec<Bytes>,
    /// The leader's work memory.
    pub(crate) work: Bytes,
    /// The result that the ranks of the process share, if they do.
    pub(crate) shared: Bytes,
}

/// Bytes sent to and received from other processes in one operation.
pub(crate) struct RoundBuffers {
    pub(super) parcels: Box<[OnceLock<Bytes>]>,
    awaited: Mutex<Awaited>,
    /// Time at which the leader checks, before its deadline, that all can still come.
    check: OnceLock<Instant>,
    /// Set once, under the lock of `awaited`.
    end: OnceLock<End>,
    moved: Condvar,
}

/// The messages that the leader waits for.
struct Awaited {
    /// The places that have not been heard from.
    places: Vec<usize>,
    /// The time by which the ranks wait longer for them than their timeout.
    patience: Duration,
}

pub(super) enum End {
    Delivered(Arc<Arrived>),
    Closed,
}

impl RoundBuffers {
    /// For a group over so many processes.
    pub(super) fn new(places: usize) -> Self {
        Self {
            parcels: (0..places).map(|_| OnceLock::new()).collect(),
            // Within one process nobody is awaited.
            awaited: Mutex::new(Awaited {
                places: if places > 1 {
                    (0..places).collect()
                } else {
                    Vec::new()
                },
                patience: Duration::ZERO,
            }),
            check: OnceLock::new(),
            end: OnceLock::new(),
            moved: Condvar::new(),
        }
    }

    /// Makes it the round of another operation within one process.
    pub(super) fn renew(&mut self) {
        self.check.take();
        self.end.take();
        for parcel in &mut self.parcels {
            parcel.take();
        }
    }

    /// Ends the wait of those who are in it, unless the parcels have been delivered.
    pub(super) fn close(&self) {
        self.end(End::Closed);
    }

    /// The first end is the one that counts.
    pub(super) fn end(&self, end: End) {
        let mut awaited = self.awaited.lock();
        if self.end.set(end).is_ok() {
            awaited.places.clear();
            self.moved.notify_all();
        }
    }

    /// Has the leader look at `until` whether all can still come; the first such time counts.
    pub(super) fn check_at(&self, until: Instant) {
        let _ = self.check.set(until);
    }

    /// True once it is time to check.
    pub(super) fn is_due(&self) -> bool {
        let until = self.check.get();
        until.is_some_and(|until| *until <= Instant::now())
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.end.get(), Some(End::Closed))
    }

    /// Begins a wait for these places, which may take so much longer than the first.
    pub(crate) fn await_all(&self, places: Vec<usize>, patience: Duration) {
        let mut awaited = self.awaited.lock();
        if self.end.get().is_none() {
            *awaited = Awaited { places, patience };
        }
    }

    pub(crate) fn heard_from(&self, place: usize) {
        let mut awaited = self.awaited.lock();
        awaited.places.retain(|&other| other != place);
    }

    pub(crate) fn awaited(&self) -> Vec<usize> {
        self.awaited.lock().places.clone()
    }

    /// Waits for the leader; nothing if the group failed. At the deadline, later by the leader's patience,
    /// `on_deadline` is called once.
    pub(super) fn wait(
        &self,
        deadline: Instant,
        on_deadline: impl FnOnce(),
    ) -> Option<Arc<Arrived>> {
        watch_for(|| self.end.get().is_some());
        let mut on_deadline = Some(on_deadline);
        let mut awaited = self.awaited.lock();
        loop {
            match self.end.get() {
                Some(End::Delivered(arrived)) => return Some(arrived.clone()),
                Some(End::Closed) => return None,
                None => {}
            }
            let deadline = deadline + awaited.patience;
            let left = deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.moved.wait_for(&mut awaited, left);
            } else if let Some(act) = on_deadline.take() {
                drop(awaited);
                act();
                awaited = self.awaited.lock();
            } else {
                // The leader has heard from all, so it has its own deadline and little to do.
                self.moved.wait(&mut awaited);
            }
        }
    }
}
