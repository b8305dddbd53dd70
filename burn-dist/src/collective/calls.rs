//! The rule of each collective: its kind, its root, and the bytes of its buffers.

use super::execute::{Buffers, Reduced, run, run_bytes, run_shared};
use super::operation::{Kind, Operation};
use crate::element::{Element, ReduceOp};
use crate::error::Result;
use crate::transport::threads::{Entry, Given};

/// Waits until every rank has come.
pub(crate) fn barrier(entry: Entry<'_>) -> Result<()> {
    let operation = Operation::moving(Kind::Barrier, 0, 0);
    run::<u8>(entry, &operation, Buffers::InPlace(&mut []))
}

/// Copies the root's buffer into that of every other rank. They are of equal length.
pub(crate) fn broadcast<T: Element>(entry: Entry<'_>, buffer: &mut [T], root: usize) -> Result<()> {
    let operation = Operation::moving(Kind::Broadcast, root, size_of_val(buffer));
    run::<u8>(
        entry,
        &operation,
        Buffers::InPlace(bytemuck::cast_slice_mut(buffer)),
    )
}

/// Combines the buffers of all ranks, which are of equal length, into that of `root`.
pub(crate) fn reduce<T: Element>(
    entry: Entry<'_>,
    buffer: &mut [T],
    op: ReduceOp,
    root: usize,
) -> Result<()> {
    let operation = Operation::reducing::<T>(Kind::Reduce, root, op, buffer.len());
    run::<T>(
        entry,
        &operation,
        Buffers::InPlace(bytemuck::cast_slice_mut(buffer)),
    )
}

/// Combines the buffers of all ranks, which are of equal length, into each of them.
pub(crate) fn all_reduce<T: Element>(
    entry: Entry<'_>,
    buffer: &mut [T],
    op: ReduceOp,
) -> Result<()> {
    let operation = Operation::reducing::<T>(Kind::AllReduce, 0, op, buffer.len());
    run::<T>(
        entry,
        &operation,
        Buffers::InPlace(bytemuck::cast_slice_mut(buffer)),
    )
}

/// As [`all_reduce`], into memory that the ranks of a process share where that saves work.
pub(crate) fn all_reduce_shared<T: Element>(
    entry: Entry<'_>,
    given: Given<'_, T>,
    op: ReduceOp,
) -> Result<Reduced<T>> {
    let count = given.elements().len();
    let operation = Operation::reducing::<T>(Kind::AllReduce, 0, op, count);
    run_shared(entry, &operation, given)
}

/// Puts the inputs of all ranks, which are of equal length, one after the other into the root's output. The other
/// ranks have none.
pub(crate) fn gather<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: Option<&mut [T]>,
    root: usize,
) -> Result<()> {
    let operation = Operation::moving(Kind::Gather, root, size_of_val(input));
    run_apart(entry, &operation, input, output.unwrap_or_default())
}

/// Puts the inputs of all ranks, which are of equal length, one after the other into every output.
pub(crate) fn all_gather<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: &mut [T],
) -> Result<()> {
    let operation = Operation::moving(Kind::AllGather, 0, size_of_val(input));
    run_apart(entry, &operation, input, output)
}

/// Copies part `r` of the root's input, which is as long as all outputs together, into the output of rank `r`. The
/// other ranks have no input.
pub(crate) fn scatter<T: Element>(
    entry: Entry<'_>,
    input: Option<&[T]>,
    output: &mut [T],
    root: usize,
) -> Result<()> {
    let operation = Operation::moving(Kind::Scatter, root, size_of_val(output));
    run_apart(entry, &operation, input.unwrap_or(&[]), output)
}

/// Combines part `r` of all ranks' inputs into the output of rank `r`. An input is as long as all outputs together.
pub(crate) fn reduce_scatter<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: &mut [T],
    op: ReduceOp,
) -> Result<()> {
    let operation = Operation::reducing::<T>(Kind::ReduceScatter, 0, op, output.len());
    let buffers = Buffers::Apart {
        input: bytemuck::cast_slice(input),
        output: bytemuck::cast_slice_mut(output),
    };
    run::<T>(entry, &operation, buffers)
}

/// Copies part `r` of the input of rank `p` into part `p` of the output of rank `r`. All inputs and outputs are of
/// equal length, a multiple of the number of ranks.
pub(crate) fn all_to_all<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: &mut [T],
) -> Result<()> {
    let part = size_of_val(input) / entry.ranks();
    let operation = Operation::moving(Kind::AllToAll, 0, part);
    run_apart(entry, &operation, input, output)
}

fn run_apart<T: Element>(
    entry: Entry<'_>,
    operation: &Operation,
    input: &[T],
    output: &mut [T],
) -> Result<()> {
    let buffers = Buffers::Apart {
        input: bytemuck::cast_slice(input),
        output: bytemuck::cast_slice_mut(output),
    };
    run::<u8>(entry, operation, buffers)
}

/// Gives every rank the root's bytes, whose number the others don't know. `bytes` counts on the root alone.
pub(crate) fn broadcast_bytes(entry: Entry<'_>, bytes: &[u8], root: usize) -> Result<Vec<u8>> {
    let operation = Operation::moving(Kind::BroadcastBytes, root, 0);
    run_bytes(entry, &operation, bytes, |layout, come| {
        Ok(come[layout.home(root)].to_vec())
    })
}

/// Gives every rank the bytes of all, whose numbers may differ. Above `limit` bytes in all, every rank gets their
/// number instead.
///
/// A rank sends its number of bytes, in eight bytes, and then the bytes; not these if they alone are more than
/// `limit`.
pub(crate) fn all_gather_bytes(
    entry: Entry<'_>,
    bytes: &[u8],
    limit: usize,
) -> Result<Result<Vec<Vec<u8>>, usize>> {
    let operation = Operation::moving(Kind::AllGatherBytes, 0, 0);
    let sent = if bytes.len() > limit { &[] } else { bytes };
    let framed = [&(bytes.len() as u64).to_le_bytes()[..], sent].concat();
    run_bytes(entry, &operation, &framed, |layout, come| {
        let mut all = vec![(0, &[][..]); layout.ranks()];
        for (node, place) in layout.places().iter().enumerate() {
            let mut rest = &come[node][..];
            for &rank in &place.ranks {
                all[rank] = take_frame(&mut rest, limit).map_err(|message| (node, message))?;
            }
        }
        let lengths = all.iter().map(|(length, _)| *length);
        let total = lengths.fold(0, usize::saturating_add);
        Ok(if total > limit {
            Err(total)
        } else {
            Ok(all.into_iter().map(|(_, bytes)| bytes.to_vec()).collect())
        })
    })
}

/// Takes a rank's number of bytes and the bytes off the front of a parcel.
fn take_frame<'p>(rest: &mut &'p [u8], limit: usize) -> Result<(usize, &'p [u8]), String> {
    let (length, after) = rest.split_first_chunk().ok_or("it has no length")?;
    let length = u64::from_le_bytes(*length);
    let length = usize::try_from(length).map_err(|_| format!("it has {length} bytes"))?;
    let due = if length > limit { 0 } else { length };
    let (bytes, after) = after
        .split_at_checked(due)
        .ok_or_else(|| format!("it has {} bytes where {due} are due", after.len()))?;
    *rest = after;
    Ok((length, bytes))
}
