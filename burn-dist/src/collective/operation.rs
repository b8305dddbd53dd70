//! The rule of each collective: which ranks have inputs and outputs, and of how many bytes.

use crate::element::{Element, ReduceOp};

/// The collectives that plans are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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
pub(crate) struct Operation {
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
    /// An operation that moves bytes and computes nothing.
    pub(crate) fn moving(kind: Kind, root: usize, bytes: usize) -> Self {
        Self {
            kind,
            root,
            op: ReduceOp::Sum,
            bytes,
            element: 1,
            partial: 1,
        }
    }

    /// An operation that combines `count` elements of type `T`.
    pub(crate) fn reducing<T: Element>(
        kind: Kind,
        root: usize,
        op: ReduceOp,
        count: usize,
    ) -> Self {
        let element = size_of::<T>();
        let partial = match op {
            ReduceOp::Mean => size_of::<T::Wide>(),
            _ => element,
        };
        Self {
            kind,
            root,
            op,
            bytes: count * element,
            element,
            partial,
        }
    }
}
