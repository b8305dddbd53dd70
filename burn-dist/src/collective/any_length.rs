//! Byte strings whose lengths differ and are known to their sender alone.
//!
//! Between few processes a string goes in one round, behind its length. Between more, all learn the lengths of all
//! first, and then receive the strings into memory that is just as long. If they exceed the limit together, no string
//! is sent.

use std::sync::Arc;

use bytes::Bytes;

use super::combine::Combiner;
use super::execute::{Buffers, carry_out, exchange, share};
use super::leader::Leader;
use super::operation::{Kind, Operation};
use super::plan::{self, lengths_plan, strings_plan};
use crate::engine::{Arrived, OpHandle, RunningOp};
use crate::error::Result;
use crate::shared_memory::LentBuffer;
use crate::transport::processes::Layout;

/// The bytes that a length takes.
pub(super) const LENGTH: usize = 8;

/// The strings of all senders by rank, empty for the other ranks; or their total length, if it is above the limit.
pub(super) type Strings = std::result::Result<Vec<Bytes>, usize>;

/// A string behind its length; the length alone if it is above the limit.
fn framed(bytes: &[u8], limit: usize) -> Vec<u8> {
    let sent = if bytes.len() > limit { &[] } else { bytes };
    [&(bytes.len() as u64).to_le_bytes()[..], sent].concat()
}

/// Gives every rank the strings of all senders: of all ranks, or of the root.
pub(super) fn run(
    handle: OpHandle<'_>,
    kind: Kind,
    root: usize,
    bytes: &[u8],
    limit: usize,
) -> Result<Strings> {
    let operation = Operation::moving(kind, root);
    let is_sender = kind == Kind::AllGatherBytes || handle.rank() == root;
    let input = if is_sender {
        framed(bytes, limit)
    } else {
        Vec::new()
    };
    let op = handle.begin()?;
    let layout = op.layout();
    let is_direct = layout.is_local() || layout.places().len() <= layout.crossovers().few;
    let strings = if is_direct {
        run_framed(&op, &operation, &input, limit)?
    } else {
        run_apart(&op, &operation, &input, limit)?
    };
    op.succeed();
    Ok(strings)
}

/// Between few: one round.
fn run_framed(
    op: &RunningOp<'_>,
    operation: &Operation,
    input: &[u8],
    limit: usize,
) -> Result<Strings> {
    let layout = op.layout();
    let plan = plan::plan(operation, layout, op.rank());
    let mut combiner = Combiner::<u8>::new(operation, op.ranks(), op.pool());
    let mut buffers = Buffers::Apart {
        input,
        output: &mut [],
    };
    share(op, &plan, &mut combiner, &mut buffers)?;
    let arrived = exchange(op, plan.exchange, &mut combiner, &mut [])?;
    let mut strings = vec![Bytes::new(); layout.ranks()];
    let mut total = 0_usize;
    for (node, place) in layout.places().iter().enumerate() {
        let mut rest = match &arrived {
            Some(arrived) if node != layout.here() => arrived.received[node].clone(),
            _ => op.parcel(0),
        };
        for &rank in senders(operation, &place.ranks) {
            let (length, bytes) =
                take_frame(&mut rest, limit).map_err(|message| op.malformed(node, message))?;
            total = total.saturating_add(length);
            strings[rank] = bytes;
        }
        if !rest.is_empty() {
            let message = format!("it has {} bytes after its last string", rest.len());
            return Err(op.malformed(node, message));
        }
    }
    Ok(if total > limit {
        Err(total)
    } else {
        Ok(strings)
    })
}

/// Those of these ranks that have a string.
fn senders<'r>(operation: &Operation, ranks: &'r [usize]) -> impl Iterator<Item = &'r usize> {
    let (kind, root) = (operation.kind, operation.root);
    let senders = ranks.iter();
    senders.filter(move |rank| kind == Kind::AllGatherBytes || **rank == root)
}

/// Takes a string's length and the string off the front of a parcel.
fn take_frame(rest: &mut Bytes, limit: usize) -> std::result::Result<(usize, Bytes), String> {
    let length = rest.split_first_chunk().map(|(length, _)| *length);
    let length = length_of(length.ok_or("it has no length")?)?;
    let due = if length > limit { 0 } else { length };
    let after = rest.slice(LENGTH..);
    if after.len() < due {
        let found = after.len();
        return Err(format!("it has {found} bytes where {due} are due"));
    }
    *rest = after.slice(due..);
    Ok((length, after.slice(..due)))
}

fn length_of(bytes: [u8; LENGTH]) -> std::result::Result<usize, String> {
    let length = u64::from_le_bytes(bytes);
    usize::try_from(length).map_err(|_| format!("it has {length} bytes"))
}

/// Between more: the lengths first, then the strings.
fn run_apart(
    op: &RunningOp<'_>,
    operation: &Operation,
    input: &[u8],
    limit: usize,
) -> Result<Strings> {
    let layout = op.layout();
    op.share(LentBuffer::Read(input), |buffers| {
        if op.leads() {
            let (mut lengths, mut strings) = (Vec::new(), Vec::new());
            for &rank in senders(operation, layout.local()) {
                let framed = buffers.read(op.seat_of(rank));
                let (length, string) = framed.split_at(LENGTH);
                lengths.extend_from_slice(length);
                strings.extend_from_slice(string);
            }
            op.fill(0, lengths.into());
            op.fill(1, strings.into());
        }
    })?;
    let arrived = if op.leads() {
        lead(op, operation, limit)?
    } else {
        op.follow()?
    };
    let lengths = Lengths::read(op, operation, &arrived.shared)?;
    if lengths.total > limit {
        return Ok(Err(lengths.total));
    }
    let mut strings = vec![Bytes::new(); layout.ranks()];
    let mut start = 0;
    for (rank, length) in lengths.by_rank {
        strings[rank] = arrived.work.slice(start..start + length);
        start += length;
    }
    Ok(Ok(strings))
}

/// Exchanges lengths and strings, and delivers both.
fn lead(op: &RunningOp<'_>, operation: &Operation, limit: usize) -> Result<Arc<Arrived>> {
    let layout = op.layout();
    let mut combiner = Combiner::<u8>::new(operation, op.ranks(), op.pool());
    let counts = layout.places().iter();
    let counts = counts.map(|place| LENGTH * senders(operation, &place.ranks).count());
    let first = lengths_plan(layout, counts);
    let mut leader = Leader::new(op, first.patience)?;
    let known = carry_out(&mut leader, first, &mut combiner, &mut [])?.work;
    let lengths = Lengths::read(op, operation, &known)?;
    let mut work = Bytes::new();
    if lengths.total <= limit {
        let second = strings_plan(layout, lengths.by_node(layout).into_iter());
        work = carry_out(&mut leader, second, &mut combiner, &mut [])?.work;
    }
    Ok(leader.deliver(Arrived {
        work,
        shared: known,
        ..Arrived::default()
    }))
}

/// The lengths of all strings.
struct Lengths {
    /// In the order of processes.
    by_rank: Vec<(usize, usize)>,
    total: usize,
}

impl Lengths {
    /// Reads the lengths that the processes have sent.
    fn read(op: &RunningOp<'_>, operation: &Operation, known: &[u8]) -> Result<Self> {
        let mut by_rank = Vec::new();
        let mut total = 0_usize;
        let (mut lengths, _) = known.as_chunks::<LENGTH>();
        for (node, place) in op.layout().places().iter().enumerate() {
            for &rank in senders(operation, &place.ranks) {
                let (first, rest) = lengths.split_first().unwrap_or((&[0; LENGTH], &[]));
                lengths = rest;
                let length = length_of(*first).map_err(|message| op.malformed(node, message))?;
                total = total.saturating_add(length);
                by_rank.push((rank, length));
            }
        }
        Ok(Self { by_rank, total })
    }

    /// The bytes of each process's strings.
    fn by_node(&self, layout: &Layout) -> Vec<usize> {
        let mut bytes = vec![0; layout.places().len()];
        for (rank, length) in &self.by_rank {
            bytes[layout.home(*rank)] += length;
        }
        bytes
    }
}
