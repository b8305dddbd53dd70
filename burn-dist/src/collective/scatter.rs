//! Scatter: every rank copies its part from the root.
//!
//! Steps: one. Bytes: of an input of S bytes and N ranks, each rank reads and writes S/N, all at once.

use super::remote;
use crate::element::Element;
use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Copies part `r` of the root's input, which is as long as all outputs together, into the output of
/// rank `r`. The other ranks have no input.
pub(crate) fn scatter<T: Element>(
    entry: Entry<'_>,
    input: Option<&[T]>,
    output: &mut [T],
    root: usize,
) -> Result<()> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::scatter(abroad, input, output, root),
        Err(entry) => entry,
    };
    let rank = entry.rank;
    entry.attend(
        Lent::Read(bytemuck::cast_slice(input.unwrap_or(&[]))),
        |floor| {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(output);
            let part = bytes.len();
            bytes.copy_from_slice(&floor.read(root)[rank * part..(rank + 1) * part]);
        },
    )
}
