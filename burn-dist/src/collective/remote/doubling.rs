//! All-reduce of a middling buffer: recursive doubling.
//!
//! In step `s` each rank exchanges what it has reduced so far with the rank whose number differs in bit
//! `s`, and both join the two: after step `s` a rank has the partial result of the aligned block of
//! `2^(s + 1)` ranks that it lies in, which is a node of the canonical tree. So the order of additions is
//! the canonical one, and every rank computes it for itself.
//!
//! Steps: log2 N, for N ranks, a power of two, each alone in its process. Bytes: S in each step. Memory: S,
//! the group's spare.
//! A stream sends fewer bytes, but 2 (N - 1) messages; one round of everything sends more bytes.
//!
//! No rank ends unless all have made the same call: whom it exchanges with has compared calls before.
//! Who waits for a rank that has itself waited in vain has a later deadline, so that the error names the
//! rank that did not come.
//!
//! Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH"
//! (2005).
//!
//! Callers: `reductions`.

use std::sync::Arc;
use std::time::Duration;

use super::super::tree::Part;
use super::reductions::Partials;
use crate::element::Element;
use crate::error::Result;
use crate::transport::processes::Layout;
use crate::transport::threads::{Abroad, Carrier, Inward, Lent, Outward};

/// How much longer each step waits than the one before: long enough for the news of a timeout.
const NEWS: Duration = Duration::from_secs(1);

/// Whether the ranks lie so that they can double, with partial results that fit into their buffers. (Two
/// have everything after one round.)
pub(super) fn suits(layout: &Layout, ranks: usize, partials: &Partials<'_>) -> bool {
    let is_spread = layout.places().len() == ranks;
    is_spread && ranks.is_power_of_two() && ranks > 2 && partials.are_narrow()
}

/// Reduces the buffer of this process's only rank in its place.
pub(super) fn all_reduce<T: Element>(
    abroad: Abroad<'_>,
    buffer: &mut [T],
    partials: &Partials<'_>,
) -> Result<()> {
    let (rank, ranks) = (abroad.rank(), abroad.ranks());
    let mut reducer = partials.reducer::<T>(buffer.len());
    let done = abroad.lead(Lent::Read(&[]), (0..0, &|_, _| Vec::new()), |carrier| {
        let mut theirs = carrier.memory(size_of_val(buffer));
        let theirs = bytemuck::cast_slice_mut::<u8, T>(theirs.as_mut());
        for step in 0..ranks.trailing_zeros() {
            let half = 1 << step;
            let peer = rank ^ half;
            let patient = carrier.with_patience(NEWS * step);
            trade(&patient, partials.layout.home(peer), buffer, theirs)?;
            let first = rank & !(2 * half - 1);
            let node = first..first + 2 * half;
            for block in reducer.blocks(buffer.len()) {
                let (lower, upper) = if rank < peer {
                    (&buffer[block.clone()], &theirs[block.clone()])
                } else {
                    (&theirs[block.clone()], &buffer[block.clone()])
                };
                reducer.merge_part(node.clone(), block.len(), &|part| {
                    let bytes =
                        bytemuck::cast_slice(if part.start == first { lower } else { upper });
                    match part.len() {
                        1 => Some(Part::Rank(bytes)),
                        ranks => (ranks == half).then_some(Part::Node(bytes)),
                    }
                });
                if node.len() == ranks {
                    reducer.write(&mut buffer[block]);
                } else {
                    reducer.write_part(&mut buffer[block]);
                }
            }
        }
        Ok(Arc::default())
    });
    done.map(drop)
}

/// Sends a place some elements and receives as many. A pair meets once, so this is its first message.
fn trade<T: Element>(
    carrier: &Carrier<'_, '_>,
    place: usize,
    mine: &[T],
    theirs: &mut [T],
) -> Result<()> {
    let sent = Outward {
        place,
        part: 0,
        bytes: bytemuck::cast_slice(mine),
    };
    let received = Inward {
        place,
        part: 0,
        bytes: bytemuck::cast_slice_mut(theirs),
    };
    carrier.pass(&[sent], vec![received])
}
