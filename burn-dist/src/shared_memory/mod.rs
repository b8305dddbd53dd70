//! Memory that the threads of a process lend one another.
//!
//! - `exchange`: one operation's exchange of buffers. It has all of the crate's `unsafe` code, with its proof.
//! - `pool`: memory that is used again and again.

mod exchange;
mod pool;

pub(crate) use exchange::{LentBuffer, Missed, PeerBuffers, SharedExchange, segment, watch_for};
pub(crate) use pool::{Elements, Input, Scratch, ScratchPool};
