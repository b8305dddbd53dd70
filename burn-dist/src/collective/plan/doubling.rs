//! All-reduce and reduce of a small buffer: recursive doubling.
//!
//! In each round a node sends the partial results that it knows and its partner does not. Where the number of nodes
//! is a power of two, its partner in round `s` is the node whose number differs in bit `s`: both then know the
//! aligned block of `2^(s + 1)` nodes. Else the rounds are those of dissemination. What is sent are always the largest
//! nodes of the canonical tree all of whose ranks are known, so the order of additions is the canonical one in every
//! layout. With a power of two and as many ranks in each process, that is one partial result a round.
//!
//! Rounds: ⌈log2 P⌉. Bytes: about S in each, for a power of two.
//!
//! No rank ends unless all have made the same call: what it has received comes, by way of nodes that compare the
//! call, from all.
//!
//! Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH"
//! (2005).

use super::rounds::{self, NEWS};
use super::{
    Exchange, Kind, Layout, Lend, Memory, Operation, Partials, Plan, Range, Sources, Span, Step,
    take_shared,
};
use crate::collective::tree::covering;

/// The alignment of what is received: any element may begin there.
const ALIGNMENT: usize = 16;

/// A round, as one node sees it: each node knows of a window or block of so many nodes before it.
struct Round {
    to: usize,
    from: usize,
    known: usize,
}

/// The rounds of this process's node.
fn rounds(layout: &Layout) -> Vec<Round> {
    let (here, nodes) = (layout.here(), layout.places().len());
    let rounds = rounds::dissemination(layout).map(|round| {
        let known = round.distance;
        if nodes.is_power_of_two() {
            let peer = here ^ known;
            return Round {
                to: peer,
                from: peer,
                known,
            };
        }
        Round {
            to: round.to,
            from: round.from,
            known,
        }
    });
    rounds.collect()
}

/// True if a node knows of another in a round.
fn knows(node: usize, other: usize, known: usize, nodes: usize) -> bool {
    if nodes.is_power_of_two() {
        node / known == other / known
    } else {
        rounds::before(node, other, nodes) < known
    }
}

/// The nodes of the tree that one node tells another of: the largest that it knows all of, but for those that the
/// other knows all of. (Parts of a node that was received can't be told apart. So some of its ranks may be known.)
fn told(layout: &Layout, sender: usize, receiver: usize, known: usize) -> Vec<Range<usize>> {
    let nodes = layout.places().len();
    if nodes.is_power_of_two() && layout.is_aligned() {
        let each = layout.ranks() / nodes;
        let first = sender / known * known;
        let block = first * each..(first + known) * each;
        return vec![block];
    }
    let is_known = |node, rank| knows(node, layout.home(rank), known, nodes);
    let mut told = covering(0..layout.ranks(), &|rank| is_known(sender, rank));
    told.retain(|ranks| !ranks.clone().all(|rank| is_known(receiver, rank)));
    told
}

/// The plan of a rank.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation {
        kind, bytes, root, ..
    } = *operation;
    let here = layout.here();
    let partials = Partials::new(operation, layout);
    let is_alone = layout.local().len() == 1;
    let has_result = kind == Kind::AllReduce || layout.is_here(root);
    let (lend, own, result) = if is_alone {
        (Lend::Nothing, Memory::Output, Memory::Output)
    } else {
        (Lend::Input, Memory::Parcel(0), Memory::Shared)
    };
    let own = partials.parts(here, bytes, (own, 0));
    let mut exchange = exchange(operation, layout, own, has_result.then_some(result));
    let mut finish = Vec::new();
    if !is_alone && has_result {
        exchange.shared = bytes;
        finish = take_shared(operation, rank);
    }
    let whole = 0..bytes;
    let mut share = Vec::new();
    if !is_alone && layout.seat(rank) == 0 {
        share = partials.pack(here, std::slice::from_ref(&whole), 0);
    }
    Plan {
        lend,
        share,
        exchange: Some(exchange),
        finish,
    }
}

/// The exchange of a node that knows its own partial results, and combines all into the result.
fn exchange<'p>(
    operation: &Operation,
    layout: &Layout,
    own: Vec<(Range<usize>, Span)>,
    result: Option<Memory>,
) -> Exchange<'p> {
    let here = layout.here();
    let mut known = Known {
        operation,
        parts: own,
        steps: Vec::new(),
        work: 0,
    };
    for Round {
        to,
        from,
        known: window,
    } in rounds(layout)
    {
        let sent = told(layout, here, to, window);
        let received = told(layout, from, here, window);
        known.exchange((to, &sent), (from, &received));
    }
    if let Some(result) = result {
        known.finish(layout.ranks(), result);
    }
    let work = known.work;
    let mut exchange = Exchange::new(known.steps.into_iter(), Vec::new());
    exchange.work = work;
    exchange.patience = NEWS;
    exchange
}

/// The partial results that a node knows, and its steps so far.
struct Known<'o> {
    operation: &'o Operation,
    /// By rank. Together they cover all ranks that are known. One may lie within another: what is sent later may be
    /// of its ranks alone.
    parts: Vec<(Range<usize>, Span)>,
    steps: Vec<Step>,
    work: usize,
}

impl Known<'_> {
    /// One round: sends partial results of these nodes of the tree to a node, and receives others.
    fn exchange(
        &mut self,
        (to, sent): (usize, &[Range<usize>]),
        (from, received): (usize, &[Range<usize>]),
    ) {
        let span = self.prepare(sent);
        let part = 0;
        self.steps.push(Step::Send {
            to,
            part,
            from: span,
        });
        let start = self.align();
        for ranks in received {
            let span = self.take(ranks);
            self.parts.push((ranks.clone(), span));
        }
        self.parts.sort_by_key(|(ranks, _)| ranks.start);
        let into = Span::new(Memory::Work, start..self.work);
        self.steps.push(Step::Recv { from, part, into });
        self.steps.push(Step::Wait);
    }

    /// The partial results of these nodes, one after the other, in memory that nothing else is written to.
    fn prepare(&mut self, nodes: &[Range<usize>]) -> Span {
        if let [node] = nodes
            && let Some(found) = self.position(node)
        {
            return self.parts[found].1.clone();
        }
        let start = self.align();
        for node in nodes {
            let into = self.take(node);
            let step = match self.position(node) {
                Some(found) => Step::Copy {
                    from: self.parts[found].1.clone(),
                    into: into.clone(),
                },
                None => Step::Combine {
                    sources: Sources::Parts(self.below(node)),
                    into: into.clone(),
                    last: false,
                },
            };
            self.steps.push(step);
            self.parts.push((node.clone(), into));
        }
        self.parts.sort_by_key(|(ranks, _)| ranks.start);
        Span::new(Memory::Work, start..self.work)
    }

    fn position(&self, node: &Range<usize>) -> Option<usize> {
        self.parts.iter().position(|(ranks, _)| ranks == node)
    }

    /// The partial results of which that of a node is made: the largest that are known.
    fn below(&self, node: &Range<usize>) -> Vec<(Range<usize>, Span)> {
        let is_within = |inner: &Range<usize>, outer: &Range<usize>| {
            outer.start <= inner.start && inner.end <= outer.end
        };
        let below = self
            .parts
            .iter()
            .filter(|(ranks, _)| is_within(ranks, node));
        let below = below.filter(|(ranks, _)| {
            let mut others = self.parts.iter().map(|(other, _)| other);
            !others.any(|other| {
                is_within(other, node) && other.len() > ranks.len() && is_within(ranks, other)
            })
        });
        below.cloned().collect()
    }

    /// Combines all that is known into the result.
    fn finish(&mut self, ranks: usize, result: Memory) {
        self.steps.push(Step::Combine {
            sources: Sources::Parts(self.below(&(0..ranks))),
            into: Span::new(result, 0..self.operation.bytes),
            last: true,
        });
    }

    fn align(&mut self) -> usize {
        self.work = self.work.next_multiple_of(ALIGNMENT);
        self.work
    }

    /// Work memory for the partial result of a node.
    fn take(&mut self, node: &Range<usize>) -> Span {
        let operation = self.operation;
        let count = operation.bytes / operation.element;
        let size = operation.size_of(node);
        let start = self.work;
        self.work += count * size;
        Span::new(Memory::Work, start..self.work)
    }
}
