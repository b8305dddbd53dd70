//! Collective operations on slices, one algorithm a file.
//!
//! Every reduction adds in one canonical order, an aligned binary tree over group ranks (`tree`), so
//! its result is the same to the bit whatever the layout of the ranks and the size of the blocks.
//!
//! Where the ranks of a group lie in several processes, each operation goes on in `remote`.
//!
//! Lengths are the caller's business: `group` has checked them, and the meeting has checked that all
//! ranks' calls are alike, before a share of the work runs.
//!
//! Callers: `group`.

mod all_gather;
mod all_reduce;
mod all_to_all;
mod broadcast;
mod gather;
mod reduce;
mod reduce_scatter;
mod remote;
mod scatter;
mod tree;

pub(crate) use all_gather::{all_gather, all_gather_bytes};
pub(crate) use all_reduce::{Reduced, all_reduce, all_reduce_shared};
pub(crate) use all_to_all::all_to_all;
pub(crate) use broadcast::{broadcast, broadcast_bytes};
pub(crate) use gather::gather;
pub(crate) use reduce::reduce;
pub(crate) use reduce_scatter::reduce_scatter;
pub(crate) use scatter::scatter;
#[cfg(feature = "bench")]
pub(crate) use tree::reduce_slices;

use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Waits until every rank has come.
///
/// Steps: one, with nothing to do when all are there.
pub(crate) fn barrier(entry: Entry<'_>) -> Result<()> {
    match entry.abroad() {
        Ok(abroad) => remote::barrier(abroad),
        Err(entry) => entry.attend(Lent::Read(&[]), |_| ()),
    }
}
