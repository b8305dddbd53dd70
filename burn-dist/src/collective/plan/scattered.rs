//! All-reduce and reduce of a large buffer over any number of nodes: a reduce-scatter by direct exchange, and an
//! all-gather.
//!
//! Each node owns a segment of the buffer, and sends its partial results of every other segment to the segment's
//! owner: to the nodes after it, a window of ⌈log2 P⌉ nodes at a time. The owner combines them in the canonical
//! tree. Then the segments are gathered by dissemination; for a reduce they go to the root.
//!
//! Bytes: k S (P - 1) / P for k partial results of a process, and S (P - 1) / P. Partners at a time: ⌈log2 P⌉.
//!
//! Source: the reduce-scatter of Rabenseifner (2004) by direct exchange; Bruck et al. (1997).

use super::all_gather::Gathered;
use super::{
    AFTER_CALL, Exchange, Kind, Layout, Lend, Memory, Operation, Partials, Plan, Range, Span, Step,
    result_memory, rounds, take_shared,
};

/// The plan of a rank.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let bytes = operation.bytes;
    let scattered = Scattered::new(operation, layout);
    let mut steps = scattered.reduce();
    steps.extend(scattered.gather());
    let (here, nodes) = (layout.here(), layout.places().len());
    let owned = scattered.segment(here).len();
    let lengths = (0..nodes).map(|node| match node {
        own if own == here => Some(0),
        other => Some(scattered.partials.length(other, owned)),
    });
    let mut exchange = Exchange::new(steps.into_iter(), lengths.collect());
    exchange.patience = rounds::NEWS;
    let mut finish = Vec::new();
    if scattered.gathered.memory == Memory::Shared {
        exchange.shared = bytes;
        finish = take_shared(operation, rank);
    }
    let mut share = Vec::new();
    if !scattered.is_alone {
        let (seat, seats) = (layout.seat(rank), layout.local().len());
        for node in (0..nodes).skip(seat).step_by(seats) {
            let segment = scattered.segment(node);
            share.extend(scattered.partials.pack(here, &[segment], node));
        }
    }
    Plan {
        lend: if scattered.is_alone {
            Lend::Nothing
        } else {
            Lend::Input
        },
        share,
        exchange: Some(exchange),
        finish,
    }
}

/// One operation, as the leader of a process sees it.
struct Scattered<'p> {
    operation: Operation,
    layout: &'p Layout,
    partials: Partials,
    is_alone: bool,
    /// The segments, in the memory of the result.
    gathered: Gathered,
}

impl<'p> Scattered<'p> {
    fn new(operation: &Operation, layout: &'p Layout) -> Self {
        let nodes = layout.places().len();
        let is_alone = layout.local().len() == 1;
        let count = operation.bytes / operation.element;
        let cut = |node| node * count / nodes * operation.element;
        Self {
            operation: *operation,
            layout,
            partials: Partials::new(operation, layout),
            is_alone,
            gathered: Gathered {
                memory: result_memory(operation, layout),
                cuts: (0..=nodes).map(cut).collect(),
            },
        }
    }

    /// The bytes that a node owns.
    fn segment(&self, node: usize) -> Range<usize> {
        self.gathered.cuts[node]..self.gathered.cuts[node + 1]
    }

    /// This process's partial results of a node's segment.
    fn parts_of(&self, node: usize) -> Span {
        if self.is_alone {
            Span::new(Memory::Output, self.segment(node))
        } else {
            Span::whole(Memory::Parcel(node))
        }
    }

    /// The reduce-scatter.
    fn reduce(&self) -> Vec<Step> {
        let (here, nodes) = (self.layout.here(), self.layout.places().len());
        let owned = self.segment(here);
        let window = rounds::count(nodes) as usize;
        let mut steps = Vec::new();
        let part = 0;
        for first in (1..nodes).step_by(window) {
            for distance in first..(first + window).min(nodes) {
                let (to, from) = (
                    (here + distance) % nodes,
                    rounds::before(here, distance, nodes),
                );
                let length = self.partials.length(from, owned.len());
                steps.push(Step::Send {
                    to,
                    part,
                    from: self.parts_of(to),
                });
                steps.push(Step::Recv {
                    from,
                    part,
                    into: Span::new(Memory::Received(from), 0..length),
                });
            }
            steps.push(Step::Wait);
        }
        let own = self.parts_of(here);
        let at = |node| match node {
            own_node if own_node == here => (own.memory, own.bytes.start),
            other => (Memory::Received(other), 0),
        };
        steps.push(Step::Combine {
            sources: self.partials.sources(&(0..owned.len()), owned.len(), at),
            into: Span::new(self.gathered.memory, owned),
            last: true,
        });
        steps
    }

    /// The all-gather, or the way of the segments to the root.
    fn gather(&self) -> Vec<Step> {
        let (here, nodes) = (self.layout.here(), self.layout.places().len());
        let part = AFTER_CALL;
        if self.operation.kind != Kind::Reduce {
            return self.gathered.steps(here, |node| node, part, None);
        }
        let home = self.layout.home(self.operation.root);
        let span = |node| Span::new(self.gathered.memory, self.segment(node));
        if here != home {
            let (to, from) = (home, span(here));
            return vec![Step::Send { to, part, from }];
        }
        let others = (1..nodes).map(|distance| rounds::before(here, distance, nodes));
        let receives = others.map(|from| Step::Recv {
            from,
            part,
            into: span(from),
        });
        receives.collect()
    }
}
