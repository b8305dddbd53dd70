//! The operations that copy and compute nothing.

use super::check_length;
use crate::element::Element;
use crate::error::Result;
use crate::transport::threads::{Abroad, Audience, Check, Floor, Lent, Plan};

/// Waits until every rank has come.
pub(in crate::collective) fn barrier(abroad: Abroad<'_>) -> Result<()> {
    let plan = Plan {
        audience: Audience::All,
        pack: &|_, _| Vec::new(),
        check: &|_, bytes| check_length(bytes, 0),
    };
    abroad.trade(Lent::Read(&[]), &plan).map(drop)
}

/// The bytes of all ranks here, one after the other.
fn joined(floor: &Floor<'_>, seats: usize) -> Vec<u8> {
    let inputs: Vec<&[u8]> = (0..seats).map(|seat| floor.read(seat)).collect();
    inputs.concat()
}

pub(in crate::collective) fn all_gather<T: Element>(
    abroad: Abroad<'_>,
    input: &[T],
    output: &mut [T],
) -> Result<()> {
    collect(abroad, input, Some(output), Audience::All)
}

pub(in crate::collective) fn gather<T: Element>(
    abroad: Abroad<'_>,
    input: &[T],
    output: Option<&mut [T]>,
    root: usize,
) -> Result<()> {
    let audience = Audience::One(abroad.layout().home(root));
    collect(abroad, input, output, audience)
}

/// Puts the inputs of all ranks into the output of those who have one.
fn collect<T: Element>(
    abroad: Abroad<'_>,
    input: &[T],
    output: Option<&mut [T]>,
    audience: Audience,
) -> Result<()> {
    let layout = abroad.layout();
    let mine: &[u8] = bytemuck::cast_slice(input);
    let part = mine.len();
    let come_here = match audience {
        Audience::One(place) => place == layout.here(),
        Audience::All | Audience::Each => true,
    };
    let plan = Plan {
        audience,
        pack: &|floor, _| joined(floor, layout.local().len()),
        check: &|place, bytes| {
            let ranks = layout.places()[place].ranks.len();
            check_length(bytes, if come_here { ranks * part } else { 0 })
        },
    };
    let come = abroad.trade(Lent::Read(mine), &plan)?;
    if let Some(output) = output {
        let output: &mut [u8] = bytemuck::cast_slice_mut(output);
        for (place, parcel) in layout.places().iter().zip(&*come) {
            for (seat, &rank) in place.ranks.iter().enumerate() {
                let sent = &parcel[seat * part..(seat + 1) * part];
                output[rank * part..(rank + 1) * part].copy_from_slice(sent);
            }
        }
    }
    Ok(())
}

pub(in crate::collective) fn broadcast<T: Element>(
    abroad: Abroad<'_>,
    buffer: &mut [T],
    root: usize,
) -> Result<()> {
    let rank = abroad.rank();
    let home = abroad.layout().home(root);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(buffer);
    let lent: &[u8] = if rank == root { bytes } else { &[] };
    let length = bytes.len();
    let come = from_root(abroad, lent, root, &|place, bytes| {
        check_length(bytes, if place == home { length } else { 0 })
    })?;
    if rank != root {
        bytes.copy_from_slice(&come);
    }
    Ok(())
}

/// Gives every rank the root's bytes, whose number the others don't know.
pub(in crate::collective) fn broadcast_bytes(
    abroad: Abroad<'_>,
    bytes: &[u8],
    root: usize,
) -> Result<Vec<u8>> {
    let lent = if abroad.rank() == root { bytes } else { &[] };
    // The network bounds what it takes in, and the sender what it sends.
    let come = from_root(abroad, lent, root, &|_, _| Ok(()))?;
    Ok(come.to_vec())
}

/// What the root has lent.
fn from_root(
    abroad: Abroad<'_>,
    lent: &[u8],
    root: usize,
    check: Check<'_>,
) -> Result<bytes::Bytes> {
    let layout = abroad.layout();
    let plan = Plan {
        audience: Audience::All,
        pack: &|floor, _| {
            let root = layout.is_here(root).then(|| layout.seat(root));
            root.map_or_else(Vec::new, |seat| floor.read(seat).to_vec())
        },
        check,
    };
    let come = abroad.trade(Lent::Read(lent), &plan)?;
    Ok(come[layout.home(root)].clone())
}

pub(in crate::collective) fn scatter<T: Element>(
    abroad: Abroad<'_>,
    input: Option<&[T]>,
    output: &mut [T],
    root: usize,
) -> Result<()> {
    let (layout, rank) = (abroad.layout(), abroad.rank());
    let output: &mut [u8] = bytemuck::cast_slice_mut(output);
    let part = output.len();
    let home = layout.home(root);
    let plan = Plan {
        audience: Audience::Each,
        pack: &|floor, place| {
            let mut parcel = Vec::new();
            if layout.is_here(root) {
                let whole = floor.read(layout.seat(root));
                for &rank in &layout.places()[place].ranks {
                    parcel.extend_from_slice(&whole[rank * part..(rank + 1) * part]);
                }
            }
            parcel
        },
        check: &|place, bytes| {
            let due = layout.local().len() * part;
            check_length(bytes, if place == home { due } else { 0 })
        },
    };
    let lent = bytemuck::cast_slice(input.unwrap_or(&[]));
    let come = abroad.trade(Lent::Read(lent), &plan)?;
    let seat = layout.seat(rank);
    output.copy_from_slice(&come[home][seat * part..(seat + 1) * part]);
    Ok(())
}

pub(in crate::collective) fn all_to_all<T: Element>(
    abroad: Abroad<'_>,
    input: &[T],
    output: &mut [T],
) -> Result<()> {
    let (layout, rank) = (abroad.layout(), abroad.rank());
    let output: &mut [u8] = bytemuck::cast_slice_mut(output);
    let part = output.len() / abroad.ranks();
    let seats = layout.local().len();
    let plan = Plan {
        audience: Audience::Each,
        pack: &|floor, place| {
            let there = &layout.places()[place].ranks;
            let mut parcel = Vec::with_capacity(seats * there.len() * part);
            for seat in 0..seats {
                let sent = floor.read(seat);
                for &rank in there {
                    parcel.extend_from_slice(&sent[rank * part..(rank + 1) * part]);
                }
            }
            parcel
        },
        check: &|place, bytes| {
            let there = layout.places()[place].ranks.len();
            check_length(bytes, seats * there * part)
        },
    };
    let come = abroad.trade(Lent::Read(bytemuck::cast_slice(input)), &plan)?;
    let mine = layout.seat(rank);
    for (place, parcel) in layout.places().iter().zip(&*come) {
        for (seat, &peer) in place.ranks.iter().enumerate() {
            let start = (seat * seats + mine) * part;
            let sent = &parcel[start..start + part];
            output[peer * part..(peer + 1) * part].copy_from_slice(sent);
        }
    }
    Ok(())
}

/// Gives every rank the bytes of all, as `all_gather_bytes` of one process does.
///
/// A parcel is the lengths of its ranks' bytes, eight bytes each, and then the bytes; without them, if
/// they alone are more than `limit`.
pub(in crate::collective) fn all_gather_bytes(
    abroad: Abroad<'_>,
    bytes: &[u8],
    limit: usize,
) -> Result<Result<Vec<Vec<u8>>, usize>> {
    let layout = abroad.layout();
    let ranks = abroad.ranks();
    let plan = Plan {
        audience: Audience::All,
        pack: &|floor, _| {
            let seats = layout.local().len();
            let mut parcel = Vec::new();
            let mut total = 0_usize;
            for seat in 0..seats {
                let length = floor.read(seat).len();
                total = total.saturating_add(length);
                parcel.extend_from_slice(&(length as u64).to_le_bytes());
            }
            if total <= limit {
                parcel.extend(joined(floor, seats));
            }
            parcel
        },
        check: &|place, bytes| {
            let lengths = lengths(bytes, layout.places()[place].ranks.len());
            let total = lengths.as_deref().map_or(0, sum);
            let due = if total > limit { 0 } else { total };
            let head = layout.places()[place].ranks.len() * LENGTH;
            check_length(bytes, head + due)
        },
    };
    let come = abroad.trade(Lent::Read(bytes), &plan)?;
    let mut all = vec![Vec::new(); ranks];
    let mut total = 0_usize;
    for (place, parcel) in layout.places().iter().zip(&*come) {
        // The parcels have been checked.
        let lengths = lengths(parcel, place.ranks.len()).unwrap_or_default();
        total = total.saturating_add(sum(&lengths));
        if total > limit {
            continue;
        }
        let mut start = place.ranks.len() * LENGTH;
        for (&rank, &length) in place.ranks.iter().zip(&lengths) {
            all[rank] = parcel[start..start + length].to_vec();
            start += length;
        }
    }
    Ok(if total > limit { Err(total) } else { Ok(all) })
}

/// The bytes that a length takes.
const LENGTH: usize = 8;

/// The lengths at the beginning of a parcel of byte strings, if it is long enough.
fn lengths(parcel: &[u8], ranks: usize) -> Option<Vec<usize>> {
    let head = parcel.get(..ranks * LENGTH)?;
    let lengths = head.as_chunks::<LENGTH>().0.iter();
    lengths
        .map(|length| usize::try_from(u64::from_le_bytes(*length)).ok())
        .collect()
}

fn sum(lengths: &[usize]) -> usize {
    lengths.iter().copied().fold(0, usize::saturating_add)
}
