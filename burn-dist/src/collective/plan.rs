//! An algorithm as data: the steps by which one rank of a layout does its part of a collective.
//!
//! A plan has three stages, each a list of steps:
//!
//! ```text
//! share    on every rank of a process, while all of them lend their buffers: reads inputs, fills parcels
//! exchange on the leader, the lowest rank of the process: sends, receives and combines
//! finish   on every rank: takes its result from what has come
//! ```
//!
//! Within one process a plan has the first stage alone. Steps name memory, and own none, so one executor
//! (`execute`) runs the plans of all algorithms over any network, and tests run them with plain vectors.
//!
//! Invariants of every plan:
//! - A rank writes only its own output, the parcels that are its own to fill, and its own segment of lent
//!   outputs.
//! - In each batch (the sends and receives between two other steps) no two receives share bytes, and none
//!   shares bytes with a send.
//! - The first message to each node has part 0. It carries the call, which the receiver compares with its own.
//! - Every node sends a message to every node that it receives one from before it ends, so that no operation
//!   ends unless all nodes make the same one. (Recursive doubling compares along its pairs.)

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::operation::{Kind, Operation};
use crate::transport::processes::Layout;

mod doubling;
mod local;
mod partials;
mod round;
mod stream;

#[cfg(test)]
mod tests;

use partials::Partials;

/// Memory that a step reads or writes, as the rank sees it that runs the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Memory {
    /// The buffer that a rank of this process has lent for reading.
    Input(usize),
    /// The outputs that ranks of this process have lent. A rank writes its own segment of each.
    Lent,
    /// This rank's own output. In an operation in place it holds the input.
    Output,
    /// The parcel with this number, which the ranks of this process fill for others.
    Parcel(usize),
    /// The bytes received from a node.
    Received(usize),
    /// The result that the ranks of this process share.
    Shared,
}

/// A range of bytes of some memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) memory: Memory,
    /// An end of `usize::MAX` means the memory's own end.
    pub(super) bytes: Range<usize>,
}

impl Span {
    pub(super) fn new(memory: Memory, bytes: Range<usize>) -> Self {
        Self { memory, bytes }
    }

    /// All of a memory, however long it is.
    pub(super) fn whole(memory: Memory) -> Self {
        Self::new(memory, 0..usize::MAX)
    }
}

/// The partial results that one combination joins: of nodes of the canonical tree, in rank order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// The elements of these ranks of this process, which lie at the same bytes of each input.
    Inputs {
        ranks: Range<usize>,
        bytes: Range<usize>,
    },
    /// Each tree node's ranks, and where its partial result is.
    Parts(Vec<(Range<usize>, Span)>),
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Sends bytes to a node.
    Send { to: usize, part: u32, from: Span },
    /// Receives bytes from a node.
    Recv { from: usize, part: u32, into: Span },
    /// Copies bytes. A copy into a parcel appends to it.
    Copy { from: Span, into: Span },
    /// Combines partial results in the canonical tree; a partial result again unless it is the `last`
    /// combination. One into a parcel appends to it.
    Combine {
        sources: Sources,
        into: Span,
        last: bool,
    },
}

/// Access that a rank gives the other ranks of its process to its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lend {
    Nothing,
    /// Its input, for reading.
    Input,
    /// Its buffer, of which every rank works on a segment in place.
    InPlace,
}

/// The steps of one rank.
pub(super) struct Plan<'p> {
    pub(super) lend: Lend,
    pub(super) share: Vec<Step>,
    /// None within one process.
    pub(super) exchange: Option<Exchange<'p>>,
    pub(super) finish: Vec<Step>,
}

/// The leader's part of a plan.
pub(super) struct Exchange<'p> {
    pub(super) steps: Box<dyn Iterator<Item = Step> + 'p>,
    /// Memory for what is received, by node: its bytes, or none if the length is the sender's choice.
    pub(super) received: Vec<Option<usize>>,
    /// The bytes of the result that the ranks of this process share; 0 if they share none.
    pub(super) shared: usize,
    /// The time by which each batch may be later than the one before.
    pub(super) patience: Duration,
}

impl fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("lend", &self.lend)
            .field("share", &self.share)
            .field("finish", &self.finish)
            .finish_non_exhaustive()
    }
}

/// The plan of a rank for an operation.
///
/// | operation, over P nodes | algorithm | rounds | bytes that one process sends |
/// |---|---|---|---|
/// | barrier | `round` | 1 | 0 |
/// | broadcast | `round` | 1 | (P-1) S from the root's process, 0 from others |
/// | scatter | `round` | 1 | S (N-n)/N from the root's process, 0 from others |
/// | gather | `round` | 1 | n S to the root's process |
/// | all_gather | `round` | 1 | (P-1) n S |
/// | all_to_all | `round` | 1 | n S (N-n)/N |
/// | reduce | `round` | 1 | k S to the root's process |
/// | reduce_scatter | `round` | 1 | k S (N-n)/N |
/// | all_reduce where (P-1) S is up to [`SMALL`] | `round` | 1 | (P-1) k S |
/// | all_reduce where S is [`MIDDLING`], n = 1, P > 2 a power of two | `doubling` | log2 P | S log2 P |
/// | all_reduce | `stream` | a stream | k S (P-1)/P and S (P-1)/P |
///
/// S is the bytes of one rank's input (the root's, for scatter), n the ranks in the process, N all ranks, k
/// the partial results of the process's ranks (1 if their number is a power of two at a multiple of it).
/// Partial means of 16-bit floats and integers travel in the wider type they are summed in. Each message that
/// is a node's first carries the call too, about 50 bytes.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    if layout.is_local() {
        return local::plan(operation, layout, rank);
    }
    if operation.kind != Kind::AllReduce {
        return round::plan(operation, layout, rank);
    }
    let partials = Partials::new(operation, layout);
    let large = operation.bytes.saturating_mul(layout.places().len() - 1) > SMALL;
    if MIDDLING.contains(&operation.bytes) && doubling::suits(layout, &partials) {
        doubling::plan(operation, layout, rank)
    } else if large {
        stream::plan(operation, layout, rank, partials)
    } else {
        round::plan(operation, layout, rank)
    }
}

/// True if the ranks of a process get one result that they share.
pub(super) fn shares_result(operation: &Operation, layout: &Layout) -> bool {
    let large = operation.bytes.saturating_mul(layout.places().len() - 1) > SMALL;
    large && layout.local().len() > 1
}

/// A buffer is reduced by everybody from everybody's partial results as long as it makes each process send
/// no more than this: one round of more bytes takes less time than two. Measured over loopback: with 2
/// processes it pays up to between 32 and 64 KiB, with 4 up to between 16 and 32 KiB a buffer.
/// (Tests inside the crate stream little.)
const SMALL: usize = if cfg!(test) { 8 << 10 } else { 48 << 10 };

/// A buffer of so many bytes is reduced by recursive doubling where the layout allows it. Measured
/// over loopback in µs, one round or a stream against doubling: with 4 processes 8 KiB 27 and 67, 16 KiB 98 and
/// 49, 64 KiB 127 and 98, 96 KiB 143 and 140, 128 KiB 155 and 173; with 8 processes 4 KiB 302 and 215, 64 KiB
/// 611 and 371, 128 KiB 746 and 716.
/// (Tests inside the crate double little.)
const MIDDLING: std::ops::RangeInclusive<usize> = if cfg!(test) {
    1 << 10..=5 << 10
} else {
    12 << 10..=96 << 10
};

/// The part of a range of `bytes` that belongs to a rank, of which each element takes `element` bytes.
fn part(rank: usize, bytes: usize) -> Range<usize> {
    rank * bytes..(rank + 1) * bytes
}

/// The other nodes. Each begins with the next after it, so that not all write to one at once.
fn others(layout: &Layout) -> impl Iterator<Item = usize> + use<> {
    let (here, nodes) = (layout.here(), layout.places().len());
    (1..nodes).map(move |step| (here + step) % nodes)
}

impl Exchange<'_> {
    /// An exchange of these steps.
    fn new<'p>(
        steps: impl Iterator<Item = Step> + 'p,
        received: Vec<Option<usize>>,
    ) -> Exchange<'p> {
        Exchange {
            steps: Box::new(steps),
            received,
            shared: 0,
            patience: Duration::ZERO,
        }
    }
}
