//! Reduce to a root: a reduce-scatter whose owners write into the root's buffer.
//!
//! Steps: rank `r` reads segment `r` of all ranks' buffers, block by block, adds them in the canonical
//! tree and writes the result into segment `r` of the root's buffer.
//! Bytes: of S bytes and N ranks, each rank reads S and writes S/N, in one step.

use super::all_reduce::reduce_segment;
use super::remote;
use crate::element::{Element, ReduceOp};
use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Reduces the buffers of all ranks, which are of equal length, into that of `root`.
pub(crate) fn reduce<T: Element>(
    entry: Entry<'_>,
    buffer: &mut [T],
    op: ReduceOp,
    root: usize,
) -> Result<()> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::reduce(abroad, buffer, op, root),
        Err(entry) => entry,
    };
    let lent = if entry.rank == root {
        Lent::InPlace(bytemuck::cast_slice_mut(buffer))
    } else {
        Lent::Read(bytemuck::cast_slice(buffer))
    };
    entry.attend(lent, |floor| reduce_segment::<T>(floor, op))
}
