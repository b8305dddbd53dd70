//! Broadcast of a large buffer: a scatter and an all-gather.
//!
//! The buffer is cut into a segment for each node. They are counted from the root's, which is 0. The segments go
//! down a binomial tree, each to its node; then an all-gather by dissemination gives all to all. The root sends
//! less than twice the buffer, whatever the number of nodes is.
//!
//! Before that, each node sends its call to all nodes that it will send anything to. Nodes that wait for different
//! roots would otherwise wait for one another, and none would send the call that tells them.
//!
//! Source: van de Geijn's broadcast, as in Thakur, Rabenseifner and Gropp (2005).

use super::all_gather::Gathered;
use super::rounds::Round;
use super::{AFTER_CALL, Exchange, Layout, Lend, Memory, Operation, Plan, Span, Step, rounds};

/// The plan of a rank.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation { root, bytes, .. } = *operation;
    let (here, nodes) = (layout.here(), layout.places().len());
    let home = layout.home(root);
    let own = rounds::before(here, home, nodes);
    let memory = match (layout.local().len(), own) {
        (1, _) => Memory::Output,
        (_, 0) => Memory::Parcel(0),
        _ => Memory::Work,
    };
    let segments = Gathered {
        memory,
        cuts: (0..=nodes).map(|node| bytes * node / nodes).collect(),
    };
    let at = |number| (home + number) % nodes;
    let mut steps = compare(layout);
    steps.extend(scatter(&segments, own, at));
    // The root knows all.
    steps.extend(segments.steps(own, at, GATHER, Some(0)));
    let mut exchange = Exchange::new(steps.into_iter(), Vec::new());
    exchange.patience = rounds::NEWS;
    if memory == Memory::Work {
        exchange.work = bytes;
    }
    let copy = |from, into| Step::Copy { from, into };
    let whole = |memory| Span::new(memory, 0..bytes);
    let is_leader = layout.seat(rank) == 0;
    // The leader of the root's process may be another rank.
    let fills = memory == Memory::Parcel(0) && is_leader;
    let fill = fills.then(|| copy(whole(Memory::Input(root)), Span::whole(Memory::Parcel(0))));
    let takes = memory != Memory::Output && rank != root;
    let take = takes.then(|| copy(whole(memory), whole(Memory::Output)));
    Plan {
        lend: if rank == root {
            Lend::Input
        } else {
            Lend::Nothing
        },
        share: fill.into_iter().collect(),
        exchange: Some(exchange),
        finish: take.into_iter().collect(),
    }
}

/// The part of a segment on its way down the tree.
const SCATTER: u32 = AFTER_CALL;
/// The first part of the all-gather.
const GATHER: u32 = AFTER_CALL + 1;

/// The steps by which each node compares its call with those of all nodes that will send it anything: as in
/// dissemination, but at once.
fn compare(layout: &Layout) -> Vec<Step> {
    let empty = || Span::new(Memory::Work, 0..0);
    let part = 0;
    let messages = rounds::dissemination(layout).flat_map(|Round { to, from, .. }| {
        let send = Step::Send {
            to,
            part,
            from: empty(),
        };
        let receive = Step::Recv {
            from,
            part,
            into: empty(),
        };
        [send, receive]
    });
    messages.chain([Step::Wait]).collect()
}

/// The steps that bring the node with a number its segment, and those of the nodes below it in the tree.
fn scatter(segments: &Gathered, own: usize, at: impl Fn(usize) -> usize) -> Vec<Step> {
    let nodes = segments.cuts.len() - 1;
    let bytes = |first: usize, count: usize| {
        let end = (first + count).min(nodes);
        Span::new(segments.memory, segments.cuts[first]..segments.cuts[end])
    };
    let mut steps = Vec::new();
    let part = SCATTER;
    for round in (0..rounds::count(nodes)).rev() {
        let distance = 1 << round;
        if own % (2 * distance) == distance {
            let (from, into) = (at(own - distance), bytes(own, distance));
            steps.push(Step::Recv { from, part, into });
            steps.push(Step::Wait);
        } else if own.is_multiple_of(2 * distance) && own + distance < nodes {
            let (to, from) = (at(own + distance), bytes(own + distance, distance));
            steps.push(Step::Send { to, part, from });
        }
    }
    steps.push(Step::Wait);
    steps
}
