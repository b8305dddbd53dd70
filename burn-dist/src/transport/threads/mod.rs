//! Ranks as threads of one process, which work on one another's buffers in place, and their meeting
//! with the ranks of other processes.
//!
//! - `shared`: one operation's exchange of memory; all of the crate's `unsafe` code, with its proof.
//! - `meeting`: the group: which operations are under way, and who has come.
//! - `sharing`: a result that the ranks of a process share.
//! - `failure`: the one error that ends it all, and the ranks that leave.
//! - `mail`: point-to-point messages; `posted`: a receive that waits for one.
//! - `running`: an operation under way; `relay`: what goes to other processes in it, and comes from them.
//! - `away`: what a meeting tells the other processes, and hears from them.
//!
//! No threads are started here: every rank calls on its own, and a thread of the network's brings news
//! from other processes. Locks are taken in the order meeting, exchange or relay; none is held while
//! memory is worked on or the network is waited for.

mod away;
mod failure;
mod mail;
mod meeting;
mod posted;
mod relay;
mod running;
mod shared;
mod sharing;

use super::locks::{Signal, lock, wait_for};

pub(crate) use failure::GRACE;
pub(crate) use mail::Route;
pub(crate) use meeting::{Entry, Meeting};
pub(crate) use posted::Posted;
pub(crate) use relay::Arrived;
pub(crate) use running::RunningOp;
pub(crate) use shared::{Floor, Lent, segment};
pub(crate) use sharing::{Given, Loaned};
