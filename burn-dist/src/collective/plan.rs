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
//! - A message whose part is below [`AFTER_CALL`] carries the call, which the receiver compares with its own. One
//!   without the call goes to a node that has got one with it, or after rounds in which all nodes have compared it.
//! - No node ends before messages have come to it, by way of nodes that compare the call, from all nodes. So no
//!   operation ends unless all nodes make the same one.
//! - If nodes make different calls, one of them gets another's call, whatever algorithms the calls choose. So they
//!   do not all wait for one another.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::operation::{Kind, Operation};
use crate::transport::processes::Layout;

mod all_gather;
mod broadcast;
mod doubling;
mod halving;
mod local;
mod parcels;
mod partials;
mod rounds;
mod scattered;
mod stream;

#[cfg(test)]
mod tests;

pub(super) use all_gather::{lengths_plan, strings_plan};
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
    /// Memory of the leader for the exchange, which the ranks of its process may read when they finish.
    Work,
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

/// The parts of messages that carry no call begin here.
pub(super) const AFTER_CALL: u32 = 2;

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Sends bytes to a node.
    Send { to: usize, part: u32, from: Span },
    /// Receives bytes from a node.
    Recv { from: usize, part: u32, into: Span },
    /// Waits for the sends and receives before it.
    Wait,
    /// Copies bytes. A copy into a parcel appends to it; one of an exchange goes into work memory.
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
    /// The bytes of work memory.
    pub(super) work: usize,
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
/// | operation, over P nodes | where | algorithm | rounds | bytes that one process sends |
/// |---|---|---|---|---|
/// | barrier | | `parcels/routed` | log P | 0 |
/// | broadcast | small | `parcels/routed` | log P | S log P from the root, at most |
/// | gather, scatter, all_to_all, all_gather, reduce_scatter, reduce | P few | `parcels/direct` | 1 | its parcel for every other |
/// | broadcast | large, P > 2 | `broadcast` | 2 log P + 1 | 2 S (P-1)/P |
/// | gather, scatter, all_to_all, reduce_scatter | small | `parcels/routed` | log P | half of all parcels a round, at most |
/// | the same | large | `parcels/windows` | P/log P | its own parcels |
/// | all_gather | P more | `all_gather` | log P | n S (P-1) |
/// | all_reduce | small, P few | `parcels/direct` | 1 | (P-1) k S |
/// | all_reduce, reduce | small | `doubling` | log P | about S log P |
/// | all_reduce | large, P few | `stream` | a stream | k S (P-1)/P and S (P-1)/P |
/// | all_reduce, reduce | large, P a power of two | `halving` | 2 log P | 2 S (P-1)/P |
/// | all_reduce, reduce | large | `scattered` | P/log P | k S (P-1)/P and S (P-1)/P |
///
/// S is the bytes of one rank's input (the root's, for scatter), n the ranks in the process, k the partial results of
/// the process's ranks (1 if their number is a power of two at a multiple of it), log P the logarithm to base 2,
/// rounded up. `Crossovers` says what is few, small and large. Partial
/// means of 16-bit floats and integers travel in the wider type they are summed in. Each message that is a node's
/// first carries the call too, about 50 bytes.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    if layout.is_local() {
        return local::plan(operation, layout, rank);
    }
    let crossovers = layout.crossovers();
    let nodes = layout.places().len();
    let few = nodes <= crossovers.few;
    match operation.kind {
        Kind::AllReduce | Kind::Reduce => match reduction(operation, layout) {
            Reduction::Round => parcels::plan(operation, layout, rank),
            Reduction::Doubling => doubling::plan(operation, layout, rank),
            Reduction::Stream => stream::plan(operation, layout, rank),
            Reduction::Halving => halving::plan(operation, layout, rank),
            Reduction::Scattered => scattered::plan(operation, layout, rank),
        },
        Kind::Broadcast if nodes > 2 && operation.bytes > crossovers.broadcast => {
            broadcast::plan(operation, layout, rank)
        }
        Kind::AllGather if !few => all_gather::plan(operation, layout, rank),
        _ => parcels::plan(operation, layout, rank),
    }
}

/// An algorithm of an all-reduce or reduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    Round,
    Doubling,
    Stream,
    Halving,
    Scattered,
}

/// The algorithm of an all-reduce or reduce.
fn reduction(operation: &Operation, layout: &Layout) -> Reduction {
    let crossovers = layout.crossovers();
    let nodes = layout.places().len();
    let few = nodes <= crossovers.few;
    let sizes = crossovers.all_reduce(nodes);
    if few && (operation.kind == Kind::Reduce || operation.bytes <= sizes.round) {
        Reduction::Round
    } else if operation.bytes <= sizes.doubling {
        Reduction::Doubling
    } else if few && operation.bytes < nodes * operation.element {
        // A stream needs an element for each node.
        Reduction::Round
    } else if few {
        Reduction::Stream
    } else if halving::suits(layout) {
        Reduction::Halving
    } else {
        Reduction::Scattered
    }
}

/// True if the ranks of a process get one result of an all-reduce over several processes that they share.
pub(super) fn shares_result(operation: &Operation, layout: &Layout) -> bool {
    !layout.is_local()
        && layout.local().len() > 1
        && reduction(operation, layout) != Reduction::Round
}

/// The memory of the result of a large reduction. The only rank of a process has that of an all-reduce in its output.
fn result_memory(operation: &Operation, layout: &Layout) -> Memory {
    if layout.local().len() == 1 && operation.kind == Kind::AllReduce {
        Memory::Output
    } else {
        Memory::Shared
    }
}

/// The steps by which a rank takes the result of a reduction that its process shares, if it has one.
fn take_shared(operation: &Operation, rank: usize) -> Vec<Step> {
    let has_result = operation.kind == Kind::AllReduce || rank == operation.root;
    let whole = |memory| Span::new(memory, 0..operation.bytes);
    let take = has_result.then(|| Step::Copy {
        from: whole(Memory::Shared),
        into: whole(Memory::Output),
    });
    take.into_iter().collect()
}

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
            work: 0,
            shared: 0,
            patience: Duration::ZERO,
        }
    }
}
