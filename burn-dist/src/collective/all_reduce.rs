//! All-reduce in place: reduce-scatter and all-gather by direct exchange, in one pass.
//!
//! Steps: rank `r` owns segment `r` of every rank's buffer. It reads the segment of all ranks, block by
//! block, adds them in the canonical tree, and writes the result into all buffers.
//! Bytes: of S bytes and N ranks, each rank reads S and writes S (S/N of each buffer), the least that
//! shared memory allows, in one step whatever N is.
//! Where ranks share the result, there is one buffer to write to: each rank reads S and writes S/N.
//! Source: the direct exchange of Rabenseifner (2004), with shared memory in the place of messages.

use super::remote;
use super::tree::Reducer;
use crate::element::{Element, ReduceOp};
use crate::error::Result;
use crate::transport::threads::{Entry, Floor, Given, Lent, Piece};
use bytes::Bytes;

/// Reduces the buffers of all ranks, which are of equal length, into each of them.
pub(crate) fn all_reduce<T: Element>(
    entry: Entry<'_>,
    buffer: &mut [T],
    op: ReduceOp,
) -> Result<()> {
    if entry.ranks() == 1 {
        // The reduction of one value is the value, whatever the operation.
        return entry.attend(Lent::Read(&[]), |_| ());
    }
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::all_reduce(abroad, buffer, op),
        Err(entry) => entry,
    };
    let bytes = bytemuck::cast_slice_mut(buffer);
    entry.attend(Lent::InPlace(bytes), |floor| reduce_segment::<T>(floor, op))
}

/// What a rank gets of an all_reduce that may be shared.
pub(crate) enum Reduced<T> {
    /// Memory of this rank's own.
    Own(Vec<T>),
    /// The elements, as bytes that other ranks of this process see too.
    Shared(Bytes),
}

/// Reduces the inputs of all ranks, which are of equal length, into memory that the ranks of a process
/// share where that saves work.
pub(crate) fn all_reduce_shared<T: Element>(
    entry: Entry<'_>,
    given: Given<'_, T>,
    op: ReduceOp,
) -> Result<Reduced<T>> {
    if entry.ranks() == 1 {
        entry.attend(Lent::Read(&[]), |_| ())?;
        return Ok(Reduced::Own(given.into_own()));
    }
    match entry.abroad() {
        Ok(abroad) => remote::all_reduce_shared(abroad, given, op),
        Err(entry) => {
            let reduced = entry.attend_together(given, |floor| reduce_segment::<T>(floor, op));
            reduced.map(Reduced::Shared)
        }
    }
}

/// Reduces this rank's segment of all slices into the segments that are lent for work in place.
pub(super) fn reduce_segment<T: Element>(floor: Floor<'_>, op: ReduceOp) {
    let mut pieces = floor.pieces();
    // All slices have one length, so the segments have too.
    let length = pieces.first().map_or(0, |piece| elements::<T>(piece).len());
    let mut reducer = Reducer::<T>::new(op, pieces.len(), length);
    for block in reducer.blocks(length) {
        reducer.reduce(block.len(), &|rank| &elements(&pieces[rank])[block.clone()]);
        let mut done: Option<&[T]> = None;
        for piece in &mut pieces {
            if let Some(bytes) = piece.output() {
                // Aligned, as in `elements`.
                let target = &mut bytemuck::cast_slice_mut(bytes)[block.clone()];
                match done {
                    // A mean is divided once.
                    None => reducer.write(target),
                    Some(done) => target.copy_from_slice(done),
                }
                done = Some(target);
            }
        }
    }
}

/// A segment as elements. It is aligned: its slice was lent as `T`s (the ranks' types have been
/// compared), and segments start at multiples of a cache line, which every element's size divides.
fn elements<'p, T: Element>(piece: &'p Piece<'_>) -> &'p [T] {
    bytemuck::cast_slice(piece.input())
}
