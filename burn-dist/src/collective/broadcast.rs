//! Broadcast: every rank copies from the root.
//!
//! Steps: one. Bytes: each rank but the root reads and writes S, all at once.

use super::remote;
use crate::element::Element;
use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Copies the root's buffer into that of every other rank; they are of equal length.
pub(crate) fn broadcast<T: Element>(entry: Entry<'_>, buffer: &mut [T], root: usize) -> Result<()> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::broadcast(abroad, buffer, root),
        Err(entry) => entry,
    };
    if entry.rank == root {
        return entry.attend(Lent::Read(bytemuck::cast_slice(buffer)), |_| ());
    }
    entry.attend(Lent::Read(&[]), |floor| {
        buffer.copy_from_slice(bytemuck::cast_slice(floor.read(root)));
    })
}

/// Gives every rank the root's bytes, whose number the others don't know. `bytes` counts on the root
/// alone.
pub(crate) fn broadcast_bytes(entry: Entry<'_>, bytes: &[u8], root: usize) -> Result<Vec<u8>> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::broadcast_bytes(abroad, bytes, root),
        Err(entry) => entry,
    };
    entry.attend(Lent::Read(bytes), |floor| floor.read(root).to_vec())
}
