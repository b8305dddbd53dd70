//! Tells a loader which rank it is being moved to a device for: Burn's trait has no word for it.
//!
//! While [`at`] runs, `to_device` of this module's loaders takes the rank's share and says so.
//!
//! Callers: `shares` asks, `loader` answers.

use std::cell::Cell;

/// One rank among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) world_size: usize,
}

thread_local! {
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` for a rank; also returns whether a loader took the rank's share.
pub(super) fn at<R>(place: Place, f: impl FnOnce() -> R) -> (R, bool) {
    let before = PLACE.replace(Some(place));
    TAKEN.set(false);
    let result = f();
    PLACE.set(before);
    (result, TAKEN.replace(false))
}

/// The rank to take the share of, if [`at`] runs.
pub(super) fn take() -> Option<Place> {
    let place = PLACE.get();
    TAKEN.set(place.is_some());
    place
}
