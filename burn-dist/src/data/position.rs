//! Where a loader stands: the epoch, and how much of it has been handed out.
//!
//! A loader and the iterators it made share one [`Position`], because an iterator outlives the call
//! that made it and a training loop wants to save the loader's state while an iterator is open. Only
//! the latest iterator moves the position: each begins a pass with a number of its own, and what is
//! reported with an older number is ignored.
//!
//! The lock covers a few assignments, nothing else.

use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(super) struct Position(Mutex<Cursor>);

/// A place in the data of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: u64,
    /// Positions of the epoch's order that all ranks together have consumed.
    pub(super) consumed: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    place: Place,
    /// A pass over the epoch at `place` has begun, so that the next one is over the next epoch.
    begun: bool,
    /// The number of the latest pass.
    pass: u64,
}

impl Position {
    /// Begins a pass: over what is left of an epoch that was set or resumed, else over the epoch after
    /// the last one begun. Returns the number of the pass and where it begins.
    pub(super) fn begin(&self) -> (u64, Place) {
        let mut cursor = self.0.lock();
        if cursor.begun {
            cursor.place = Place {
                epoch: cursor.place.epoch.saturating_add(1),
                consumed: 0,
            };
        }
        cursor.begun = true;
        cursor.pass += 1;
        (cursor.pass, cursor.place)
    }

    /// Records that `pass` has come to `place`, unless the pass is no longer the latest.
    pub(super) fn reach(&self, pass: u64, place: Place) {
        let mut cursor = self.0.lock();
        if cursor.pass == pass {
            // The place after an epoch is the start of the next, which nobody has begun yet.
            cursor.begun = cursor.begun && cursor.place.epoch == place.epoch;
            cursor.place = place;
        }
    }

    /// Makes `place` the start of the next pass.
    pub(super) fn set(&self, place: Place) {
        let mut cursor = self.0.lock();
        *cursor = Cursor {
            place,
            begun: false,
            pass: cursor.pass + 1,
        };
    }

    /// Returns the position consumed so far.
    pub(super) fn place(&self) -> Place {
        self.0.lock().place
    }

    /// A position of its own that stands at the same place.
    pub(super) fn fork(&self) -> Self {
        Self(Mutex::new(*self.0.lock()))
    }
}
