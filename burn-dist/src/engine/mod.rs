//! The engine of a group in one process: the order of its calls, its failure, its departures, its messages.
//!
//! - `core`: the state that the ranks of a group share. It owns the parts below, behind one lock.
//! - `order`: the operations under way, and the ranks that have come to them.
//! - `exits`: the ranks that have left.
//! - `mailbox`: messages without a receive, and receives without a message.
//! - `failure`: the end of a group.
//! - `peers`: notices to and from other processes.
//! - `running`: one rank's part in an operation; `round`: the memory that the ranks of a process share in it.
//! - `messages`, `receive`: point-to-point messages.
//!
//! No threads are started here: every rank calls on its own, and a thread of the network's brings notices
//! from other processes. Locks are taken in the order group, exchange or round; none is held while
//! memory is worked on or the network is waited for.

mod core;
mod exits;
mod failure;
mod mailbox;
mod messages;
mod order;
mod peers;
mod receive;
mod round;
mod running;

pub(crate) use self::core::GroupState;
pub(crate) use exits::GRACE;
pub(crate) use mailbox::Route;
pub(crate) use receive::PendingRecv;
pub(crate) use round::Arrived;
pub(crate) use running::{OpHandle, RunningOp};
