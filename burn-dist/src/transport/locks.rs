//! Locks and waits for state that stays valid whoever panics: all that is done under these locks is
//! single assignments and collection calls.
//!
//! Callers: every transport.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Locks a mutex whose data is valid even if a thread panicked while it held the lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until woken or until `time` has passed.
pub(super) fn wait_for<'m, T>(
    condvar: &Condvar,
    guard: MutexGuard<'m, T>,
    time: Duration,
) -> MutexGuard<'m, T> {
    condvar
        .wait_timeout(guard, time)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}

/// A condition variable that makes no system call where nobody sleeps, for what is told often and
/// seldom waited for.
///
/// Invariants: who waits has looked, and counted itself, under one lock; who notifies has held that
/// lock since the change. So the change has been seen, or the sleeper is.
#[derive(Debug, Default)]
pub(super) struct Signal {
    condvar: Condvar,
    asleep: AtomicUsize,
}

impl Signal {
    /// Sleeps until notified or until `time` has passed.
    pub(super) fn wait_for<'m, T>(
        &self,
        guard: MutexGuard<'m, T>,
        time: Duration,
    ) -> MutexGuard<'m, T> {
        self.asleep.fetch_add(1, Relaxed);
        let guard = wait_for(&self.condvar, guard, time);
        self.asleep.fetch_sub(1, Relaxed);
        guard
    }

    /// Wakes all that sleep.
    pub(super) fn notify_all(&self) {
        if self.asleep.load(Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }
}
