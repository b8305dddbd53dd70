//! The rule of each collective: which ranks have inputs and outputs, and of how many bytes.

use std::ops::Range;

use crate::element::{Element, ReduceOp};

/// A collective that carries elements, with all that ranks must agree on but the elements.
#[derive(Clone, Copy, Debug)]
pub enum Collective {
    /// Without elements.
    Barrier,
    /// In place.
    Broadcast { root: usize },
    /// In place.
    Reduce { op: ReduceOp, root: usize },
    /// In place.
    AllReduce { op: ReduceOp },
    /// From a part to the whole, which the root alone has.
    Gather { root: usize },
    /// From a part to the whole.
    AllGather,
    /// From the whole, which the root alone has, to a part.
    Scatter { root: usize },
    /// From the whole to a part.
    ReduceScatter { op: ReduceOp },
    /// From a whole to a whole.
    AllToAll,
}

impl Collective {
    /// The name of its public method.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier",
            Self::Broadcast { .. } => "broadcast",
            Self::Reduce { .. } => "reduce",
            Self::AllReduce { .. } => "all_reduce",
            Self::Gather { .. } => "gather",
            Self::AllGather => "all_gather",
            Self::Scatter { .. } => "scatter",
            Self::ReduceScatter { .. } => "reduce_scatter",
            Self::AllToAll => "all_to_all",
        }
    }

    pub(crate) fn reduction(self) -> Option<ReduceOp> {
        match self {
            Self::Reduce { op, .. } | Self::AllReduce { op } | Self::ReduceScatter { op } => {
                Some(op)
            }
            _ => None,
        }
    }

    pub(crate) fn root(self) -> Option<usize> {
        match self {
            Self::Broadcast { root }
            | Self::Reduce { root, .. }
            | Self::Gather { root }
            | Self::Scatter { root } => Some(root),
            _ => None,
        }
    }
}

/// The kinds of operations that plans are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Barrier,
    Broadcast,
    Reduce,
    AllReduce,
    Gather,
    AllGather,
    Scatter,
    ReduceScatter,
    AllToAll,
    /// Every rank gets the bytes of all, of any lengths.
    AllGatherBytes,
    /// Every rank gets the bytes of the root, of any length.
    BroadcastBytes,
}

/// One collective, as all ranks of a group agree on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    /// The rank that all send to or receive from, where there is one.
    pub(super) root: usize,
    pub(super) op: ReduceOp,
    /// The bytes of one rank's buffer: of its output for a scatter or reduce-scatter, of the part for one rank
    /// for an all-to-all, else of its input.
    pub(super) bytes: usize,
    /// The bytes of an element.
    pub(super) element: usize,
    /// The bytes of an element's partial result over several ranks.
    pub(super) partial: usize,
}

impl Operation {
    /// An operation without elements, or on bytes of any lengths.
    pub(super) fn moving(kind: Kind, root: usize) -> Self {
        Self {
            kind,
            root,
            op: ReduceOp::Sum,
            bytes: 0,
            element: 1,
            partial: 1,
        }
    }

    /// The bytes of an element's partial result over these ranks.
    pub(super) fn size_of(&self, ranks: &Range<usize>) -> usize {
        if ranks.len() == 1 {
            self.element
        } else {
            self.partial
        }
    }

    /// The bytes of an element that a combination writes: a result if it is the `last`, else a partial result.
    pub(super) fn written(&self, last: bool) -> usize {
        if last { self.element } else { self.partial }
    }

    /// The operation of a collective over so many ranks, for these lengths of this rank's input and output. A call
    /// in place has an output alone.
    pub(super) fn new<T: Element>(
        collective: Collective,
        ranks: usize,
        (input, output): (usize, usize),
    ) -> Self {
        let (kind, count) = match collective {
            Collective::Barrier => (Kind::Barrier, 0),
            Collective::Broadcast { .. } => (Kind::Broadcast, output),
            Collective::Reduce { .. } => (Kind::Reduce, output),
            Collective::AllReduce { .. } => (Kind::AllReduce, output),
            Collective::Gather { .. } => (Kind::Gather, input),
            Collective::AllGather => (Kind::AllGather, input),
            Collective::Scatter { .. } => (Kind::Scatter, output),
            Collective::ReduceScatter { .. } => (Kind::ReduceScatter, output),
            Collective::AllToAll => (Kind::AllToAll, input / ranks),
        };
        let op = collective.reduction().unwrap_or(ReduceOp::Sum);
        let element = size_of::<T>();
        Self {
            kind,
            root: collective.root().unwrap_or(0),
            op,
            bytes: count * element,
            element,
            partial: match op {
                ReduceOp::Mean => size_of::<T::Wide>(),
                _ => element,
            },
        }
    }
}
