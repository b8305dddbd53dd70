//! Points in time that threads share.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Time of the last event of a kind, set and read by threads without a lock.
pub(super) struct Moment {
    start: Instant,
    /// Microseconds since `start`.
    offset: AtomicU64,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            start: Instant::now(),
            offset: AtomicU64::new(0),
        }
    }

    /// Sets the time to now.
    pub(super) fn set(&self) {
        let offset = self.start.elapsed().as_micros() as u64;
        // Relaxed: only an elapsed time, which guards no other memory.
        self.offset.store(offset, Relaxed);
    }

    /// Returns the time since the event.
    pub(super) fn elapsed(&self) -> Duration {
        let offset = Duration::from_micros(self.offset.load(Relaxed));
        self.start.elapsed().saturating_sub(offset)
    }
}
