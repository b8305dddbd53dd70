//! Ranks as threads of one process, which work on one another's buffers in place.
//!
//! - `shared`: one operation's exchange of memory; all of the crate's `unsafe` code, with its proof.
//! - `meeting`: the group: which operations are under way, who has come, what has gone wrong.
//! - `mail`: point-to-point messages.
//!
//! No threads are started here: every rank calls on its own. Locks are taken in the order meeting,
//! exchange; neither is held while memory is worked on.

mod mail;
mod meeting;
mod shared;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use mail::Route;
pub(crate) use meeting::{Entry, Meeting};
pub(crate) use shared::{Floor, Lent, Piece};

/// Locks a mutex whose data is valid even if a thread panicked while it held the lock: all that is
/// done under these locks is single assignments and collection calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until woken.
fn wait<'m, T>(condvar: &Condvar, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until woken or until `time` has passed.
fn wait_for<'m, T>(
    condvar: &Condvar,
    guard: MutexGuard<'m, T>,
    time: Duration,
) -> MutexGuard<'m, T> {
    condvar
        .wait_timeout(guard, time)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}
