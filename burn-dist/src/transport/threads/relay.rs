//! What goes from the ranks of one process to other processes in one operation, and what comes back.
//!
//! A relay's parcels are packed while the ranks are in the exchange, and read after it. Its stage goes
//!
//! ```text
//! Carried ── the leader has all ──> Delivered
//!    └────── the group failed ────> Closed
//! ```
//!
//! Callers: `across`; `meeting` makes and closes them.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::{Signal, lock};

/// What came from each place, with this one's own parcel at its own.
pub(crate) type Parcels = Arc<[Arc<Vec<u8>>]>;

/// What goes to other processes, and comes from them, in one operation.
pub(super) struct Relay {
    pub(super) parcels: Box<[OnceLock<Arc<Vec<u8>>>]>,
    stage: Mutex<Stage>,
    moved: Signal,
}

pub(super) enum Stage {
    /// The places that have not been heard from in this round.
    Carried(Vec<usize>),
    Delivered(Parcels),
    Closed,
}

impl Relay {
    /// For a group of so many places; takes no memory for none.
    pub(super) fn new(places: usize) -> Self {
        Self {
            parcels: (0..places).map(|_| OnceLock::new()).collect(),
            stage: Mutex::new(Stage::Carried((0..places).collect())),
            moved: Signal::default(),
        }
    }

    /// Ends the wait of those who are in it, unless the parcels have been delivered.
    pub(super) fn close(&self) {
        self.step(Stage::Closed);
    }

    pub(super) fn step(&self, next: Stage) {
        let mut stage = lock(&self.stage);
        if matches!(*stage, Stage::Carried(_)) {
            *stage = next;
            self.moved.notify_all();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Closed)
    }

    /// Begins a round in which these places are to be heard from.
    pub(super) fn await_all(&self, places: Vec<usize>) {
        if let Stage::Carried(awaited) = &mut *lock(&self.stage) {
            *awaited = places;
        }
    }

    pub(super) fn heard_from(&self, place: usize) {
        if let Stage::Carried(awaited) = &mut *lock(&self.stage) {
            awaited.retain(|&other| other != place);
        }
    }

    pub(super) fn awaited(&self) -> Vec<usize> {
        match &*lock(&self.stage) {
            Stage::Carried(awaited) => awaited.clone(),
            Stage::Delivered(_) | Stage::Closed => Vec::new(),
        }
    }

    /// Waits for the leader; nothing if the group failed. At the deadline, `on_deadline` is called once.
    pub(super) fn wait(&self, deadline: Instant, on_deadline: impl FnOnce()) -> Option<Parcels> {
        let mut on_deadline = Some(on_deadline);
        let mut stage = lock(&self.stage);
        loop {
            match &*stage {
                Stage::Delivered(parcels) => return Some(parcels.clone()),
                Stage::Closed => return None,
                Stage::Carried(_) => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                stage = self.moved.wait_for(stage, left);
            } else if let Some(act) = on_deadline.take() {
                drop(stage);
                act();
                stage = lock(&self.stage);
            } else {
                // The leader has heard from all, so it has its own deadline and little to do.
                stage = self.moved.wait(stage);
            }
        }
    }
}
