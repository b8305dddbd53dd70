//! All-reduce and reduce of a large buffer over a power of two of nodes: recursive halving, then doubling.
//!
//! In step `s` a node and the one whose number differs in bit `s` halve the range of elements that they still hold
//! partial results of. Each sends the partial results of one half and combines those of the other. Neighbours come
//! first, so what a node holds after step `s` is the partial result of the aligned block of `2^(s + 1)` nodes: a node
//! of the canonical tree. After the last step each holds the result of its range. For an all-reduce the same pairs
//! then exchange results, the last pair first; for a reduce they go to the root.
//!
//! Steps: 2 log2 P. Bytes: 2 S (P - 1) / P, the least that an all-reduce by messages can send. Partners: log2 P.
//!
//! Source: Rabenseifner (2004); Thakur, Rabenseifner and Gropp (2005).

use super::rounds::NEWS;
use super::{
    AFTER_CALL, Exchange, Kind, Layout, Lend, Memory, Operation, Partials, Plan, Range, Sources,
    Span, Step, result_memory, take_shared,
};

/// True for a power of two of nodes, each of which is a node of the canonical tree.
pub(super) fn suits(layout: &Layout) -> bool {
    layout.places().len().is_power_of_two() && layout.is_aligned()
}

/// The plan of a rank.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let bytes = operation.bytes;
    let halving = Halving::new(operation, layout);
    let (steps, work) = halving.steps();
    let mut exchange = Exchange::new(steps.into_iter(), Vec::new());
    exchange.work = work;
    exchange.patience = NEWS;
    let mut finish = Vec::new();
    if halving.result == Memory::Shared {
        exchange.shared = bytes;
        finish = take_shared(operation, rank);
    }
    let (seat, seats) = (layout.seat(rank), layout.local().len());
    let mut share = Vec::new();
    if !halving.is_alone {
        let partials = Partials::new(operation, layout);
        let pieces = halving.pieces.iter().enumerate().skip(seat).step_by(seats);
        for (parcel, piece) in pieces {
            let bytes = piece.start * operation.element..piece.end * operation.element;
            share.extend(partials.pack(layout.here(), &[bytes], parcel));
        }
    }
    Plan {
        lend: if halving.is_alone {
            Lend::Nothing
        } else {
            Lend::Input
        },
        share,
        exchange: Some(exchange),
        finish,
    }
}

/// The two halves of a range.
fn halves(range: &Range<usize>) -> [Range<usize>; 2] {
    let middle = range.start + range.len() / 2;
    [range.start..middle, middle..range.end]
}

/// One operation, as the leader of a process sees it. Ranges are of elements.
struct Halving<'p> {
    operation: Operation,
    layout: &'p Layout,
    is_alone: bool,
    /// The memory of the result.
    result: Memory,
    /// The elements of each parcel. Several ranks of a process share them out.
    pieces: Vec<Range<usize>>,
    /// The elements of this node's half, whose partial results work memory begins with.
    half: Range<usize>,
}

impl<'p> Halving<'p> {
    fn new(operation: &Operation, layout: &'p Layout) -> Self {
        let is_alone = layout.local().len() == 1;
        let all = 0..operation.bytes / operation.element;
        let seats = layout.local().len().next_power_of_two();
        let mut pieces = vec![all.clone()];
        while pieces.len() < seats.min(layout.places().len()) {
            pieces = pieces.iter().flat_map(halves).collect();
        }
        Self {
            operation: *operation,
            layout,
            is_alone,
            result: result_memory(operation, layout),
            pieces,
            half: halves(&all)[layout.here() & 1].clone(),
        }
    }

    /// The steps, and the bytes of work memory that they need.
    fn steps(&self) -> (Vec<Step>, usize) {
        let (here, nodes) = (self.layout.here(), self.layout.places().len());
        let mut steps = Vec::new();
        let all = 0..self.operation.bytes / self.operation.element;
        let mut held = vec![all];
        for step in 0..nodes.trailing_zeros() {
            let [low, high] = halves(&held[step as usize]);
            let (kept, given) = if here >> step & 1 == 0 {
                (low, high)
            } else {
                (high, low)
            };
            if step == 0 {
                steps.extend(self.halve_first(&kept, &given));
            } else {
                steps.extend(self.halve(step, &kept, &given));
            }
            held.push(kept);
        }
        for step in (0..nodes.trailing_zeros()).rev() {
            let (own, both) = (&held[step as usize + 1], &held[step as usize]);
            steps.extend(self.double(step, own, both));
        }
        let first = self.half.len() * self.operation.size_of(&self.block(here, 0));
        let second = self.half.len().div_ceil(2) * self.operation.partial;
        (steps, self.received() + first.max(second))
    }

    /// The ranks of the aligned block of `2^step` nodes around a node.
    fn block(&self, node: usize, step: u32) -> Range<usize> {
        let each = self.layout.ranks() / self.layout.places().len();
        let first = node >> step << step;
        first * each..(first + (1 << step)) * each
    }

    /// The start of received partial results in work memory: after those of this node's half.
    fn received(&self) -> usize {
        let held = if self.is_in_place() {
            0
        } else {
            self.half.len() * self.operation.partial
        };
        held.next_multiple_of(16)
    }

    /// True if partial results are kept in the output.
    fn is_in_place(&self) -> bool {
        self.result == Memory::Output && self.operation.element == self.operation.partial
    }

    /// The place of partial results of elements after the first step.
    fn held(&self, elements: &Range<usize>) -> Span {
        let size = self.operation.partial;
        if self.is_in_place() {
            return Span::new(Memory::Output, elements.start * size..elements.end * size);
        }
        let first = self.half.start;
        let bytes = (elements.start - first) * size..(elements.end - first) * size;
        Span::new(Memory::Work, bytes)
    }

    /// The places of this process's own partial results of elements: in its output or, by piece, in parcels.
    fn own(&self, elements: &Range<usize>) -> Vec<(Range<usize>, Span)> {
        let size = self.operation.size_of(&self.block(self.layout.here(), 0));
        let pieces = self.pieces.iter().enumerate().map(|(parcel, piece)| {
            let common = piece.start.max(elements.start)..piece.end.min(elements.end);
            let (memory, first) = if self.is_alone {
                (Memory::Output, 0)
            } else {
                (Memory::Parcel(parcel), piece.start)
            };
            let start = common.start.saturating_sub(first) * size;
            let bytes = start..start + common.len() * size;
            (common, Span::new(memory, bytes))
        });
        let pieces: Vec<_> = pieces.filter(|(common, _)| !common.is_empty()).collect();
        if pieces.is_empty() {
            // An empty message carries the call.
            return vec![(0..0, Span::new(Memory::Work, 0..0))];
        }
        pieces
    }

    /// The first step: what is sent and combined is by piece.
    fn halve_first(&self, kept: &Range<usize>, given: &Range<usize>) -> Vec<Step> {
        let here = self.layout.here();
        let peer = here ^ 1;
        let size = self.operation.size_of(&self.block(here, 0));
        let part = |piece: usize| match piece {
            0 => 0,
            later => AFTER_CALL + later as u32,
        };
        let mut steps = Vec::new();
        for (piece, (_, from)) in self.own(given).into_iter().enumerate() {
            let (to, part) = (peer, part(piece));
            steps.push(Step::Send { to, part, from });
        }
        let mut combinations = Vec::new();
        for (piece, (elements, mine)) in self.own(kept).into_iter().enumerate() {
            let start = self.received() + elements.start.saturating_sub(kept.start) * size;
            let into = Span::new(Memory::Work, start..start + elements.len() * size);
            combinations.push((elements, mine, into.clone()));
            let (from, part) = (peer, part(piece));
            steps.push(Step::Recv { from, part, into });
        }
        steps.push(Step::Wait);
        for (elements, mine, theirs) in combinations {
            steps.push(self.combine(0, &elements, mine, theirs));
        }
        steps
    }

    /// A step after the first.
    fn halve(&self, step: u32, kept: &Range<usize>, given: &Range<usize>) -> Vec<Step> {
        let peer = self.layout.here() ^ (1 << step);
        let start = self.received();
        let bytes = start..start + kept.len() * self.operation.partial;
        let into = Span::new(Memory::Work, bytes);
        vec![
            Step::Send {
                to: peer,
                part: 0,
                from: self.held(given),
            },
            Step::Recv {
                from: peer,
                part: 0,
                into: into.clone(),
            },
            self.combine(step, kept, self.held(kept), into),
        ]
    }

    /// Combines the partial results of this node's block and of its partner's.
    fn combine(&self, step: u32, elements: &Range<usize>, mine: Span, theirs: Span) -> Step {
        let here = self.layout.here();
        let peer = here ^ (1 << step);
        let mut parts = vec![
            (self.block(here, step), mine),
            (self.block(peer, step), theirs),
        ];
        parts.sort_by_key(|(ranks, _)| ranks.start);
        let last = 2 << step == self.layout.places().len();
        Step::Combine {
            sources: Sources::Parts(parts),
            into: if last {
                self.done(elements)
            } else {
                self.held(elements)
            },
            last,
        }
    }

    /// The place of the result of elements.
    fn done(&self, elements: &Range<usize>) -> Span {
        let size = self.operation.element;
        Span::new(self.result, elements.start * size..elements.end * size)
    }

    /// A step of the doubling: the results of `own` go to the partner, those of the rest of `both` come; for a
    /// reduce, only those on the way to the root.
    fn double(&self, step: u32, own: &Range<usize>, both: &Range<usize>) -> Vec<Step> {
        let here = self.layout.here();
        let peer = here ^ (1 << step);
        let (sends, receives) = match self.operation.kind {
            Kind::Reduce => {
                let way = here ^ self.layout.home(self.operation.root);
                let is_on_way = way >> (step + 1) == 0;
                let is_further = way >> step & 1 == 1;
                (is_on_way && is_further, is_on_way && !is_further)
            }
            _ => (true, true),
        };
        let rest = if own.start == both.start {
            own.end..both.end
        } else {
            both.start..own.start
        };
        let part = AFTER_CALL;
        let send = sends.then(|| Step::Send {
            to: peer,
            part,
            from: self.done(own),
        });
        let receive = receives.then(|| Step::Recv {
            from: peer,
            part,
            into: self.done(&rest),
        });
        let steps = send.into_iter().chain(receive);
        steps.chain([Step::Wait]).collect()
    }
}
