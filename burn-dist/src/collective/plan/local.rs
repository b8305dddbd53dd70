//! Collectives within one process: every rank reads what the others lend.
//!
//! A reduction is a reduce-scatter and an all-gather by direct exchange, in one pass. Rank `r` owns segment `r`
//! of every buffer. It reads the segment of all ranks, block by block, adds them in the canonical tree, and
//! writes the result to all outputs.
//!
//! Bytes: of S bytes and N ranks, each rank of an all-reduce reads S and writes S (S/N of each buffer), the
//! least that shared memory allows, in one step whatever N is.
//!
//! Source: the direct exchange of Rabenseifner (2004), with shared memory in the place of messages.

use super::{
    Kind, Layout, Lend, Memory, Operation, Plan, Range, Sources, Span, Step, parcels, part,
};
use crate::shared_memory::segment;

/// The plan of a rank. Its steps are all of the first stage.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation {
        kind, root, bytes, ..
    } = *operation;
    let ranks = layout.ranks();
    let input = |rank, bytes| Span::new(Memory::Input(rank), bytes);
    let output = |bytes| Span::new(Memory::Output, bytes);
    let copy = |from, into| Step::Copy { from, into };
    let from_root = |bytes_there| vec![copy(input(root, bytes_there), output(0..bytes))];
    let gather = || (0..ranks).map(|peer| copy(input(peer, 0..bytes), output(part(peer, bytes))));
    let (lend, share) = match kind {
        Kind::Barrier => (Lend::Nothing, Vec::new()),
        Kind::Broadcast if rank == root => (Lend::Input, Vec::new()),
        Kind::Broadcast => (Lend::Nothing, from_root(0..bytes)),
        // The reduction of one value is the value, whatever the operation.
        Kind::AllReduce if ranks == 1 => (Lend::Nothing, Vec::new()),
        Kind::AllReduce | Kind::Reduce => {
            let owned = segment(bytes, ranks, rank);
            let lend = if kind == Kind::AllReduce || rank == root {
                Lend::InPlace
            } else {
                Lend::Input
            };
            let into = Span::new(Memory::Lent, owned.clone());
            (lend, vec![reduce(ranks, owned, into)])
        }
        Kind::Gather if rank != root => (Lend::Input, Vec::new()),
        Kind::Gather | Kind::AllGather => (Lend::Input, gather().collect()),
        Kind::Scatter => {
            let lend = if rank == root {
                Lend::Input
            } else {
                Lend::Nothing
            };
            (lend, from_root(part(rank, bytes)))
        }
        Kind::ReduceScatter => (
            Lend::Input,
            vec![reduce(ranks, part(rank, bytes), output(0..bytes))],
        ),
        Kind::AllToAll => {
            let copies = (0..ranks)
                .map(|peer| copy(input(peer, part(rank, bytes)), output(part(peer, bytes))));
            (Lend::Input, copies.collect())
        }
        Kind::AllGatherBytes | Kind::BroadcastBytes => {
            return parcels::plan_bytes(operation, layout, rank);
        }
    };
    Plan {
        lend,
        share,
        exchange: None,
        finish: Vec::new(),
    }
}

/// Reduces a range of the inputs of all ranks.
fn reduce(ranks: usize, bytes: Range<usize>, into: Span) -> Step {
    let ranks = 0..ranks;
    Step::Combine {
        sources: Sources::Inputs { ranks, bytes },
        into,
        last: true,
    }
}
