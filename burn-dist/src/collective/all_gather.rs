//! All-gather: every rank copies from all.
//!
//! Steps: one. Bytes: of outputs of S bytes, each rank reads and writes S, all at once.

use super::remote;
use crate::element::Element;
use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Puts the inputs of all ranks, which are of equal length, one after the other into every output.
pub(crate) fn all_gather<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: &mut [T],
) -> Result<()> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::all_gather(abroad, input, output),
        Err(entry) => entry,
    };
    let ranks = entry.ranks();
    entry.attend(Lent::Read(bytemuck::cast_slice(input)), |floor| {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(output);
        let part = bytes.len() / ranks;
        for peer in 0..ranks {
            bytes[peer * part..(peer + 1) * part].copy_from_slice(floor.read(peer));
        }
    })
}

/// Gives every rank the bytes of all, whose numbers may differ. Above `limit` bytes in all, every rank
/// gets their number instead.
pub(crate) fn all_gather_bytes(
    entry: Entry<'_>,
    bytes: &[u8],
    limit: usize,
) -> Result<Result<Vec<Vec<u8>>, usize>> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::all_gather_bytes(abroad, bytes, limit),
        Err(entry) => entry,
    };
    let ranks = entry.ranks();
    entry.attend(Lent::Read(bytes), |floor| {
        let total = (0..ranks)
            .map(|peer| floor.read(peer).len())
            .fold(0, usize::saturating_add);
        if total > limit {
            return Err(total);
        }
        Ok((0..ranks).map(|peer| floor.read(peer).to_vec()).collect())
    })
}
