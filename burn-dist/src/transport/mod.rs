//! How the ranks of a group reach one another.
//!
//! - `threads`: ranks of one process, in shared memory, and their meeting with those elsewhere;
//! - `processes`: which process hosts which rank, and what processes tell one another of failures;
//! - `network`: what processes ask of whatever carries bytes between them.
//!
//! Callers: `collective` runs its algorithms on it, `group` opens and closes it.

mod locks;
pub(crate) mod network;
pub(crate) mod processes;
pub(crate) mod threads;
