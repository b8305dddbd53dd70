//! All-reduce of a middling buffer: recursive doubling.
//!
//! In step `s` each rank exchanges what it has reduced so far with the rank whose number differs in bit
//! `s`, and both join the two: after step `s` a rank has the partial result of the aligned block of
//! `2^(s + 1)` ranks that it lies in, which is a node of the canonical tree. So the order of additions is
//! the canonical one, and every rank computes it for itself.
//!
//! Steps: log2 N, for N ranks, a power of two, each alone in its process. Bytes: S in each step.
//! A stream sends fewer bytes, but 2 (N - 1) messages; one round of everything sends more bytes.
//!
//! No rank ends unless all have made the same call: its partners have compared calls before.
//! A rank that waits for one which has itself waited in vain has a later deadline, so that the error names the
//! rank that did not come.
//!
//! Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH"
//! (2005).

use super::{
    Duration, Exchange, Layout, Lend, Memory, Operation, Partials, Plan, Sources, Span, Step,
};

/// The time by which each step waits longer than the one before: enough for the news of a timeout.
const NEWS: Duration = Duration::from_secs(1);

/// True for one rank per process and a power-of-two size above two, with partial results that fit into the
/// buffers. (Two ranks have everything after one round.)
pub(super) fn suits(layout: &Layout, partials: &Partials) -> bool {
    let ranks = layout.ranks();
    let is_spread = layout.places().len() == ranks;
    is_spread && ranks.is_power_of_two() && ranks > 2 && partials.are_narrow()
}

/// The plan of a rank, which is the only one of its process.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let (bytes, ranks) = (operation.bytes, layout.ranks());
    let mut received = vec![Some(0); ranks];
    let partners = (0..ranks.trailing_zeros()).map(move |step| layout.home(rank ^ (1 << step)));
    for partner in partners {
        received[partner] = Some(bytes);
    }
    let steps = (0..ranks.trailing_zeros()).flat_map(move |step| {
        let half = 1 << step;
        let peer = layout.home(rank ^ half);
        let mine = Span::new(Memory::Output, 0..bytes);
        let theirs = Span::new(Memory::Received(peer), 0..bytes);
        let first = rank & !(2 * half - 1);
        let (lower, upper) = if rank & half == 0 {
            (mine.clone(), theirs.clone())
        } else {
            (theirs.clone(), mine.clone())
        };
        let parts = vec![
            (first..first + half, lower),
            (first + half..first + 2 * half, upper),
        ];
        [
            // A pair meets once, so this is its first message.
            Step::Send {
                to: peer,
                part: 0,
                from: mine.clone(),
            },
            Step::Recv {
                from: peer,
                part: 0,
                into: theirs,
            },
            Step::Combine {
                sources: Sources::Parts(parts),
                into: mine,
                last: 2 * half == ranks,
            },
        ]
    });
    let mut exchange = Exchange::new(steps, received);
    exchange.patience = NEWS;
    Plan {
        lend: Lend::Nothing,
        share: Vec::new(),
        exchange: Some(exchange),
        finish: Vec::new(),
    }
}
