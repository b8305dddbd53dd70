//! Collectives on byte strings whose lengths differ and are known to their sender alone.
//!
//! Parts for single ranks are made of one gathering or broadcast of byte strings, so every rank of a process
//! receives all that any of them needs. Ranks agree on the limit: above it, all get the total instead.

use super::any_length::{self, LENGTH};
use super::operation::Kind;
use crate::engine::OpHandle;
use crate::error::Result;

/// The reason for which byte strings can't be given.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// They come to this total, which is above the limit.
    TooMany(usize),
    /// This rank sent a string that is not made of one part for each rank.
    Malformed(usize),
}

/// Gives every rank the root's bytes, whose number the others don't know; up to `limit`. `bytes` counts on the root
/// alone.
pub(crate) fn broadcast_bytes(
    handle: OpHandle<'_>,
    bytes: &[u8],
    root: usize,
    limit: usize,
) -> Result<Result<Vec<u8>, Unfit>> {
    let strings = any_length::run(handle, Kind::BroadcastBytes, root, bytes, limit)?;
    let strings = strings.map_err(Unfit::TooMany);
    Ok(strings.map(|strings| strings[root].to_vec()))
}

/// Gives every rank the bytes of all, whose numbers may differ. Above `limit` bytes in all, every rank gets their
/// number instead.
pub(crate) fn all_gather_bytes(
    handle: OpHandle<'_>,
    bytes: &[u8],
    limit: usize,
) -> Result<Result<Vec<Vec<u8>>, usize>> {
    let strings = any_length::run(handle, Kind::AllGatherBytes, 0, bytes, limit)?;
    Ok(strings.map(|strings| strings.iter().map(|bytes| bytes.to_vec()).collect()))
}

/// Gives the root the bytes of all ranks.
pub(crate) fn gather_bytes(
    handle: OpHandle<'_>,
    bytes: &[u8],
    root: usize,
    limit: usize,
) -> Result<Result<Option<Vec<Vec<u8>>>, Unfit>> {
    let is_root = handle.rank() == root;
    let all = all_gather_bytes(handle, bytes, limit)?;
    Ok(all
        .map(|all| is_root.then_some(all))
        .map_err(Unfit::TooMany))
}

/// Gives rank `r` part `r` of the root's, which has one for each rank.
pub(crate) fn scatter_bytes(
    handle: OpHandle<'_>,
    parts: Option<&[Vec<u8>]>,
    root: usize,
    limit: usize,
) -> Result<Result<Vec<u8>, Unfit>> {
    let (rank, ranks) = (handle.rank(), handle.layout().ranks());
    let total = total(parts.unwrap_or_default());
    // Above the limit, the total travels alone.
    let packed = match parts {
        None => Vec::new(),
        Some(parts) if total <= limit => pack(parts),
        Some(_) => (total as u64).to_le_bytes().to_vec(),
    };
    let lengths = ranks.saturating_mul(LENGTH);
    let packed = broadcast_bytes(handle, &packed, root, limit.saturating_add(lengths))?;
    let packed = match packed {
        Ok(packed) => packed,
        Err(unfit) => return Ok(Err(unfit)),
    };
    // One rank whose part is empty gets a length alone, too.
    if let Some(found) = number(&packed)
        && (ranks > 1 || found > 0)
    {
        return Ok(Err(Unfit::TooMany(found)));
    }
    let part = part(&packed, ranks, rank).map(<[u8]>::to_vec);
    Ok(part.ok_or(Unfit::Malformed(root)))
}

/// Gives rank `r` part `r` of every rank's, which has one for each rank.
pub(crate) fn all_to_all_bytes(
    handle: OpHandle<'_>,
    parts: &[Vec<u8>],
    limit: usize,
) -> Result<Result<Vec<Vec<u8>>, Unfit>> {
    let (rank, ranks) = (handle.rank(), handle.layout().ranks());
    let lengths = ranks.saturating_mul(ranks).saturating_mul(LENGTH);
    let all = all_gather_bytes(handle, &pack(parts), limit.saturating_add(lengths))?;
    let all = match all {
        Ok(all) => all,
        Err(total) => return Ok(Err(Unfit::TooMany(total))),
    };
    let parts = all.iter().enumerate().map(|(peer, packed)| {
        let part = part(packed, ranks, rank).map(<[u8]>::to_vec);
        part.ok_or(Unfit::Malformed(peer))
    });
    Ok(parts.collect())
}

fn total(parts: &[Vec<u8>]) -> usize {
    parts.iter().map(Vec::len).fold(0, usize::saturating_add)
}

/// Joins parts: their lengths first, then their bytes.
fn pack(parts: &[Vec<u8>]) -> Vec<u8> {
    let lengths = parts.iter().map(|part| (part.len() as u64).to_le_bytes());
    let mut packed = lengths.collect::<Vec<_>>().concat();
    for part in parts {
        packed.extend_from_slice(part);
    }
    packed
}

/// One of the parts that [`pack`] has joined, if these are as many and nothing else.
fn part(packed: &[u8], parts: usize, place: usize) -> Option<&[u8]> {
    let (head, body) = packed.split_at_checked(parts.checked_mul(LENGTH)?)?;
    let (mut start, mut found) = (0_usize, None);
    for (at, length) in head.chunks(LENGTH).enumerate() {
        let end = start.checked_add(number(length)?)?;
        let part = body.get(start..end)?;
        if at == place {
            found = Some(part);
        }
        start = end;
    }
    found.filter(|_| start == body.len())
}

fn number(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_come_back_as_they_went(parts: Vec<Vec<u8>>) {
            let packed = pack(&parts);
            for (place, part) in parts.iter().enumerate() {
                prop_assert_eq!(super::part(&packed, parts.len(), place), Some(&part[..]));
            }
        }

        #[test]
        fn any_bytes_are_parts_or_nothing(bytes: Vec<u8>, parts in 0_usize..5, place in 0_usize..5) {
            // It must return, and never more than it was given.
            let found = part(&bytes, parts, place);
            prop_assert!(found.is_none_or(|found| found.len() + parts * LENGTH <= bytes.len()));
        }
    }

    #[test]
    fn lengths_that_lie_are_no_parts() {
        let packed = pack(&[vec![1; 3], vec![2; 2]]);
        assert_eq!(part(&packed, 2, 1), Some(&[2, 2][..]));
        assert_eq!(part(&packed[..packed.len() - 1], 2, 0), None);
        let mut lying = packed;
        lying[..LENGTH].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(part(&lying, 2, 0), None);
    }
}
