//! All-to-all: every rank copies its part from all.
//!
//! Steps: one. Bytes: of inputs of S bytes, each rank reads and writes S, all at once.

use super::remote;
use crate::element::Element;
use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Copies part `r` of the input of rank `p` into part `p` of the output of rank `r`. All inputs and
/// outputs are of equal length, a multiple of the number of ranks.
pub(crate) fn all_to_all<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: &mut [T],
) -> Result<()> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::all_to_all(abroad, input, output),
        Err(entry) => entry,
    };
    let (rank, ranks) = (entry.rank, entry.ranks());
    entry.attend(Lent::Read(bytemuck::cast_slice(input)), |floor| {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(output);
        let part = bytes.len() / ranks;
        for peer in 0..ranks {
            let sent = &floor.read(peer)[rank * part..(rank + 1) * part];
            bytes[peer * part..(peer + 1) * part].copy_from_slice(sent);
        }
    })
}
