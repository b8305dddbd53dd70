//! Gather: the root copies from all.
//!
//! Steps: one. Bytes: of an output of S bytes, the root reads and writes S.

use super::all_gather::all_gather;
use super::remote;
use crate::element::Element;
use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Puts the inputs of all ranks, which are of equal length, one after the other into the root's
/// output; the other ranks have none.
pub(crate) fn gather<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: Option<&mut [T]>,
    root: usize,
) -> Result<()> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::gather(abroad, input, output, root),
        Err(entry) => entry,
    };
    match output {
        Some(output) => all_gather(entry, input, output),
        None => entry.attend(Lent::Read(bytemuck::cast_slice(input)), |_| ()),
    }
}
