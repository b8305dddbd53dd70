//! The group that the passes of a thread belong to, and how much its batch counts there.
//!
//! A module's forward pass has no place for either: they belong to the thread for as long as a worker runs.
//!
//! Callers: `launch` enters, `train` says what counts, [`SyncBatchNorm`](super::SyncBatchNorm) asks,
//! `observe` asks how long that took.

use crate::group::ProcessGroup;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here { group: None, samples: None }) };
}

thread_local! {
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs what waits for other ranks.
pub(super) fn waiting<R>(wait: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = wait();
    WAITED.set(WAITED.get() + start.elapsed());
    result
}

/// How long this thread's passes have waited for other ranks so far: what tells a slow rank from those that
/// wait for it inside of forward and backward.
pub(crate) fn waited() -> Duration {
    WAITED.get()
}

/// Where a pass runs.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) group: Option<ProcessGroup>,
    /// The samples of this rank's batch, where losses are means over them that are weighed afterwards.
    pub(super) samples: Option<usize>,
}

impl Here {
    /// Of this thread.
    pub(super) fn now() -> Self {
        HERE.with_borrow(Clone::clone)
    }

    /// Whether this rank's batch counts.
    pub(super) fn counts(&self) -> bool {
        self.samples != Some(0)
    }
}

/// The thread belongs to a group for as long as it lives.
pub(crate) struct Entered(());

/// Makes this thread's passes those of a rank of the group.
pub(crate) fn enter(group: &ProcessGroup) -> Entered {
    HERE.with_borrow_mut(|here| {
        *here = Here {
            group: Some(group.clone()),
            samples: None,
        };
    });
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| here.group = None);
    }
}

/// Runs a pass whose batch has so many samples that count, and whose loss is the mean over them.
#[cfg(feature = "train")]
pub(crate) fn counting<R>(samples: usize, pass: impl FnOnce() -> R) -> R {
    HERE.with_borrow_mut(|here| here.samples = Some(samples));
    let result = pass();
    HERE.with_borrow_mut(|here| here.samples = None);
    result
}
