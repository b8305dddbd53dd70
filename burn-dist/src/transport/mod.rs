//! How the ranks of a group reach one another.
//!
//! Callers: `collective` runs its algorithms on it, `group` opens and closes it.

pub(crate) mod threads;
