//! Collective operations on slices.
//!
//! An operation's rule (`operation`) says which ranks have inputs and outputs. Its algorithm is data: `plan`
//! gives the steps of one rank of a layout. `execute` runs them, on the memory that the ranks of a process lend
//! one another, and, as the process's `leader`, over the network.
//!
//! Every reduction adds in one canonical order, an aligned binary tree over group ranks (`tree`), so
//! its result is the same to the bit whatever the layout of the ranks and the size of the blocks.
//!
//! Lengths are the caller's business: `group` has checked them, and the ranks' calls have been compared, before
//! a step runs.

mod any_length;
mod arena;
mod bytes;
mod combine;
mod execute;
mod leader;
mod local_steps;
mod operation;
mod plan;
mod tree;

pub(crate) use bytes::{
    Unfit, all_gather_bytes, all_to_all_bytes, broadcast_bytes, gather_bytes, scatter_bytes,
};
pub(crate) use execute::{Reduced, all_reduce_shared, run};
pub(crate) use operation::Collective;
#[cfg(feature = "bench")]
pub(crate) use tree::reduce_slices;
