//! All-gather by dissemination: in each round a node passes on what it has of the nodes before it.
//!
//! What lies in memory in the order of nodes goes in one message or, where it wraps around the last node, in two.
//! Rounds: ⌈log2 P⌉. Bytes: each node receives those of every other once, the least there is.
//!
//! Source: Bruck et al. (1997), without their rotation: bytes are received in their place.

use super::{
    AFTER_CALL, Exchange, Layout, Lend, Memory, Operation, Plan, Range, Span, Step, part, rounds,
};

/// The bytes of all nodes, in the order in which they are passed on, in one memory.
pub(super) struct Gathered {
    pub(super) memory: Memory,
    /// The start of the bytes of each node, and the end of those of the last.
    pub(super) cuts: Vec<usize>,
}

impl Gathered {
    /// The messages that carry the bytes of `count` nodes, of which `last` is the last: their parts and bytes. The
    /// first may be empty.
    fn messages(&self, last: usize, count: usize, first_part: u32) -> Vec<(u32, Span)> {
        let nodes = self.cuts.len() - 1;
        let first = rounds::before(last, count - 1, nodes);
        // Those from `first` on; where they wrap, up to the last node, and from node 0 on.
        let end = if first <= last { last + 1 } else { nodes };
        let wrapped = if first <= last { 0 } else { last + 1 };
        let spans = [
            (first..end, first_part),
            (0..wrapped, first_part + AFTER_CALL),
        ];
        let spans = spans.into_iter();
        let spans = spans.map(|(nodes, part)| {
            let bytes = self.cuts[nodes.start]..self.cuts[nodes.end];
            (part, Span::new(self.memory, bytes))
        });
        spans
            .filter(|(part, span)| *part == first_part || !span.bytes.is_empty())
            .collect()
    }

    /// The rounds of a node, which has its own bytes. `at` gives the node of this layout with a number in the order
    /// of the bytes, where this node has number `own`. The parts of the messages begin with `first_part`. The node
    /// `sated`, if any, is sent empty messages.
    pub(super) fn steps(
        &self,
        own: usize,
        at: impl Fn(usize) -> usize,
        first_part: u32,
        sated: Option<usize>,
    ) -> Vec<Step> {
        let nodes = self.cuts.len() - 1;
        let mut steps = Vec::new();
        for round in 0..rounds::count(nodes) {
            let distance = 1 << round;
            let (to, from) = (
                (own + distance) % nodes,
                rounds::before(own, distance, nodes),
            );
            let messages = |sender, receiver| {
                if sated == Some(receiver) {
                    return vec![(first_part, Span::new(Memory::Work, 0..0))];
                }
                self.messages(sender, rounds::news(distance, nodes), first_part)
            };
            for (part, from) in messages(own, to) {
                let to = at(to);
                steps.push(Step::Send { to, part, from });
            }
            for (part, into) in messages(from, own) {
                let from = at(from);
                steps.push(Step::Recv { from, part, into });
            }
            steps.push(Step::Wait);
        }
        steps
    }
}

/// True if each process has one rank, and their order is that of the ranks.
fn is_spread(layout: &Layout) -> bool {
    let ranks = layout.ranks();
    layout.places().len() == ranks && (0..ranks).all(|rank| layout.home(rank) == rank)
}

/// The plan of a rank for an all-gather.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let bytes = operation.bytes;
    let here = layout.here();
    let is_direct = is_spread(layout);
    let mut end = 0;
    let mut cuts = vec![0];
    for place in layout.places() {
        end += place.ranks.len() * bytes;
        cuts.push(end);
    }
    let memory = if is_direct {
        Memory::Output
    } else {
        Memory::Work
    };
    let own = Span::new(memory, cuts[here]..cuts[here + 1]);
    let gathered = Gathered { memory, cuts };
    let copy = |from, into| Step::Copy { from, into };
    let input = |rank| Span::new(Memory::Input(rank), 0..bytes);
    let mut steps = Vec::new();
    let share = if is_direct {
        vec![copy(input(rank), own)]
    } else {
        steps.push(copy(Span::new(Memory::Parcel(0), 0..own.bytes.len()), own));
        let leads = layout.seat(rank) == 0;
        let local = layout.local().iter().filter(|_| leads);
        let append = |&rank| copy(input(rank), Span::whole(Memory::Parcel(0)));
        local.map(append).collect()
    };
    steps.extend(gathered.steps(here, |node| node, 0, None));
    let mut exchange = Exchange::new(steps.into_iter(), Vec::new());
    exchange.patience = rounds::NEWS;
    let mut finish = Vec::new();
    if !is_direct {
        exchange.work = end;
        for (node, place) in layout.places().iter().enumerate() {
            for (seat, &peer) in place.ranks.iter().enumerate() {
                let Range { start, end } = part(seat, bytes);
                let first = gathered.cuts[node];
                let from = Span::new(Memory::Work, first + start..first + end);
                finish.push(copy(from, Span::new(Memory::Output, part(peer, bytes))));
            }
        }
    }
    Plan {
        lend: Lend::Input,
        share,
        exchange: Some(exchange),
        finish,
    }
}

/// The exchange by which all nodes get so many bytes of each, which are in parcel 0.
pub(in crate::collective) fn lengths_plan<'p>(
    layout: &Layout,
    bytes: impl Iterator<Item = usize>,
) -> Exchange<'p> {
    gather_parcels(layout, bytes, 0, 0)
}

/// The same for parcel 1, in an operation in which all nodes have got the lengths.
pub(in crate::collective) fn strings_plan<'p>(
    layout: &Layout,
    bytes: impl Iterator<Item = usize>,
) -> Exchange<'p> {
    // The first exchange has two parts.
    gather_parcels(layout, bytes, 1, 2 * AFTER_CALL)
}

fn gather_parcels<'p>(
    layout: &Layout,
    bytes: impl Iterator<Item = usize>,
    parcel: usize,
    first_part: u32,
) -> Exchange<'p> {
    let here = layout.here();
    let mut cuts = vec![0];
    cuts.extend(bytes.scan(0, |end, bytes| {
        *end += bytes;
        Some(*end)
    }));
    let memory = Memory::Work;
    let (own, all) = (cuts[here]..cuts[here + 1], cuts.last().copied());
    let mut steps = vec![Step::Copy {
        from: Span::new(Memory::Parcel(parcel), 0..own.len()),
        into: Span::new(memory, own),
    }];
    let gathered = Gathered { memory, cuts };
    steps.extend(gathered.steps(here, |node| node, first_part, None));
    let mut exchange = Exchange::new(steps.into_iter(), Vec::new());
    exchange.work = all.unwrap_or(0);
    exchange.patience = rounds::NEWS;
    exchange
}
