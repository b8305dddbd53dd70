//! All-reduce of a large buffer: reduce-scatter and all-gather by direct exchange, in a stream.
//!
//! Each process owns a segment of the buffer, and each segment is cut into chunks. In step `s` a process
//!
//! 1. sends its partial results of chunk `s + 1` of each segment to the segment's owner, and chunk
//!    `s - 1` of its own segment, which is done, to all;
//! 2. receives all processes' partial results of chunk `s` of its own segment, and chunk `s - 2` of each
//!    other segment, done by its owner;
//! 3. combines chunk `s` of its own segment in the canonical tree.
//!
//! So chunks are on their way in both directions while others are combined, and a chunk is combined while
//! it is in the core's cache. A process with one rank sends from the buffer itself and receives into it. Several
//! ranks of a process fill parcels, and share the result.
//! (A stream of one or two chunks sends nothing ahead: two steps more would cost more than they save.)
//!
//! Source: the reduce-scatter and all-gather of Rabenseifner (2004) by direct exchange; chunks in a
//! pipeline as in the ring of Patarasuk and Yuan (2009).

use super::{Exchange, Layout, Lend, Memory, Operation, Partials, Plan, Range, Span, Step, others};

/// The bytes of its own segment that a process receives from each other in one step: a frame that goes in
/// one write. Less costs more system calls, more falls out of the core's cache (measured with 2, 4 and 8
/// processes on 2 cores: half of it and twice as much take a quarter longer).
/// (Tests inside the crate make many steps of little.)
const CHUNK_BYTES: usize = if cfg!(test) { 1500 } else { 126 << 10 };
/// The bytes that it receives at least from all others together: with one other, two writes a step.
const STEP_BYTES: usize = 2 * CHUNK_BYTES;

/// The cuts of a buffer into segments and chunks.
#[derive(Clone)]
struct Cuts {
    nodes: usize,
    bytes: usize,
    element: usize,
    /// The bytes of a chunk.
    chunk: usize,
}

impl Cuts {
    fn new(operation: &Operation, nodes: usize) -> Self {
        let element = operation.element;
        let others = (nodes - 1).max(1);
        let chunk = CHUNK_BYTES.max(STEP_BYTES / others) / element;
        Self {
            nodes,
            bytes: operation.bytes,
            element,
            chunk: chunk.max(1) * element,
        }
    }

    /// The bytes that a node owns.
    fn segment(&self, node: usize) -> Range<usize> {
        // Nearly equal, so that none is empty, and the first message to each node has the call.
        let count = self.bytes / self.element;
        let cut = |node: usize| node * count / self.nodes * self.element;
        cut(node)..cut(node + 1)
    }

    /// The number of chunks of a node's segment.
    fn chunks(&self, node: usize) -> usize {
        self.segment(node).len().div_ceil(self.chunk)
    }

    /// A chunk of a node's segment, if it has so many.
    fn chunk(&self, node: usize, number: usize) -> Option<Range<usize>> {
        let segment = self.segment(node);
        let start = segment.start + number * self.chunk;
        (start < segment.end).then(|| start..(start + self.chunk).min(segment.end))
    }
}

/// The part of the messages that carry partial results of a chunk.
fn raw(chunk: usize) -> u32 {
    2 * chunk as u32
}

/// The part of the messages that carry a chunk that is done.
fn done(chunk: usize) -> u32 {
    2 * chunk as u32 + 1
}

/// The plan of a rank.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let partials = Partials::new(operation, layout);
    let (here, nodes) = (layout.here(), layout.places().len());
    let cuts = Cuts::new(operation, nodes);
    let alone = layout.local().len() == 1;
    let mut share = Vec::new();
    if !alone {
        let (seat, seats) = (layout.seat(rank), layout.local().len());
        for node in (0..nodes).skip(seat).step_by(seats) {
            for chunk in (0..cuts.chunks(node)).filter_map(|chunk| cuts.chunk(node, chunk)) {
                share.extend(partials.pack(here, &[chunk], node));
            }
        }
    }
    let longest = cuts.chunk(here, 0).map_or(0, |chunk| chunk.len());
    let received = (0..nodes).map(|node| match node {
        own if own == here => Some(0),
        other => Some(partials.length(other, longest)),
    });
    let received = received.collect();
    let bytes = operation.bytes;
    let stream = Stream {
        layout,
        result: if alone {
            Memory::Output
        } else {
            Memory::Shared
        },
        chunks: (0..nodes).map(|node| cuts.chunks(node)).max().unwrap_or(0),
        cuts,
        partials,
    };
    let mut exchange = Exchange::new(stream.steps(), received);
    let mut finish = Vec::new();
    if !alone {
        exchange.shared = bytes;
        finish.push(Step::Copy {
            from: Span::new(Memory::Shared, 0..bytes),
            into: Span::new(Memory::Output, 0..bytes),
        });
    }
    Plan {
        lend: if alone { Lend::Nothing } else { Lend::Input },
        share,
        exchange: Some(exchange),
        finish,
    }
}

/// One all-reduce, as the leader of a process sees it.
struct Stream<'p> {
    layout: &'p Layout,
    cuts: Cuts,
    partials: Partials,
    /// The memory of the result. The only rank of a process has its input there.
    result: Memory,
    /// The chunks of the longest segment.
    chunks: usize,
}

impl<'p> Stream<'p> {
    fn steps(self) -> impl Iterator<Item = Step> + 'p {
        // The chunks that are sent before they are needed.
        let ahead = usize::from(self.chunks > 2);
        (0..=self.chunks + ahead).flat_map(move |step| {
            let mut steps = self.messages(step, ahead);
            steps.extend(self.combine(step));
            steps
        })
    }

    /// The messages that are due in a step.
    fn messages(&self, step: usize, ahead: usize) -> Vec<Step> {
        let (cuts, here) = (&self.cuts, self.layout.here());
        let first = if step == 0 { 0 } else { step + ahead };
        let finished = step.checked_sub(1);
        let finished = finished.and_then(|chunk| Some((chunk, cuts.chunk(here, chunk)?)));
        let mut steps = Vec::new();
        for to in others(self.layout) {
            for chunk in first..=step + ahead {
                if let Some(bytes) = cuts.chunk(to, chunk) {
                    let (part, from) = (raw(chunk), self.parts_of(to, chunk, bytes));
                    steps.push(Step::Send { to, part, from });
                }
            }
            if let Some((chunk, bytes)) = finished.clone() {
                let (part, from) = (done(chunk), Span::new(self.result, bytes));
                steps.push(Step::Send { to, part, from });
            }
        }
        let owned = cuts.chunk(here, step).map(|chunk| chunk.len());
        for from in others(self.layout) {
            if let Some(chunk) = step.checked_sub(1 + ahead)
                && let Some(bytes) = cuts.chunk(from, chunk)
            {
                let (part, into) = (done(chunk), Span::new(self.result, bytes));
                steps.push(Step::Recv { from, part, into });
            }
            if let Some(owned) = owned {
                let length = self.partials.length(from, owned);
                let (part, into) = (raw(step), Span::new(Memory::Received(from), 0..length));
                steps.push(Step::Recv { from, part, into });
            }
        }
        steps
    }

    /// This process's partial results of a chunk of a node's segment.
    fn parts_of(&self, node: usize, chunk: usize, bytes: Range<usize>) -> Span {
        if self.result == Memory::Output {
            return Span::new(Memory::Output, bytes);
        }
        let length = |bytes| self.partials.length(self.layout.here(), bytes);
        let start = length(chunk * self.cuts.chunk);
        Span::new(Memory::Parcel(node), start..start + length(bytes.len()))
    }

    /// The combination of a chunk of this process's segment.
    fn combine(&self, chunk: usize) -> Option<Step> {
        let here = self.layout.here();
        let bytes = self.cuts.chunk(here, chunk)?;
        let own = self.parts_of(here, chunk, bytes.clone());
        let at = |node| match node {
            own_node if own_node == here => (own.memory, own.bytes.start),
            other => (Memory::Received(other), 0),
        };
        Some(Step::Combine {
            sources: self.partials.sources(&(0..bytes.len()), bytes.len(), at),
            into: Span::new(self.result, bytes),
            last: true,
        })
    }
}
