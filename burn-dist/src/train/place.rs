//! Tells a loader which rank it is being moved to a device for: Burn's trait has no word for it.
//!
//! While [`at`] runs, `to_device` of this module's loaders takes the rank's share and says so.

use std::cell::{Cell, RefCell};

/// One rank among all, at some epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) world_size: usize,
    /// The passes over the data before this training: those of the run that it resumes.
    pub(super) passed: usize,
}

thread_local! {
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
    static TAKEN: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f` for a rank; also returns the settings of a loader that took the rank's share.
pub(super) fn at<R>(place: Place, f: impl FnOnce() -> R) -> (R, Option<String>) {
    let before = PLACE.replace(Some(place));
    TAKEN.take();
    let result = f();
    PLACE.set(before);
    (result, TAKEN.take())
}

/// Returns the rank to take the share of, if [`at`] runs. Every rank's loader must have the same settings.
pub(super) fn take(settings: impl FnOnce() -> String) -> Option<Place> {
    let place = PLACE.get();
    if place.is_some() {
        TAKEN.replace(Some(settings()));
    }
    place
}
