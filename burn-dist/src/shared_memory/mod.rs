//! Memory that the threads of a process lend one another.
//!
//! - `exchange`: one operation's exchange of buffers. It has all of the crate's `unsafe` code, with its proof.
//! - `pool`: memory that is used again and again.
//! - `watch`: the short wait before a thread sleeps.

mod exchange;
mod pool;
mod watch;

pub(crate) use exchange::{LentBuffer, Missed, PeerBuffers, SharedExchange, is_small, segment};
pub(crate) use pool::{Elements, Input, Scratch, ScratchPool};
pub(crate) use watch::watch_for;
