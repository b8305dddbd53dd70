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

use super::locks::{lock, wait, wait_for};

pub(crate) use mail::Route;
pub(crate) use meeting::{Entry, Meeting};
pub(crate) use shared::{Floor, Lent, Piece};
