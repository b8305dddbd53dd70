//! The partial results of a reduction, and their places in parcels.
//!
//! A parcel holds, for each largest node of the canonical tree that lies in the sender's process, that node's
//! partial result: for all elements that the receiver owns, one after the other. The owner of the elements
//! combines the partial results of all processes in the tree, so the result has the same bits as in one process.

use super::{Layout, Memory, Operation, Range, Sources, Span, Step};
use crate::collective::tree::nodes;

/// The tree nodes whose partial results travel, in rank order.
pub(super) struct Partials {
    element: usize,
    nodes: Vec<TreeNode>,
    /// By process, the bytes of an element in its parcel.
    sizes: Vec<usize>,
}

struct TreeNode {
    ranks: Range<usize>,
    /// The index of the process that hosts the ranks.
    place: usize,
    /// The bytes of an owned element that lie before this node's in the parcel.
    before: usize,
    /// The bytes of this node's.
    size: usize,
}

impl Partials {
    pub(super) fn new(operation: &Operation, layout: &Layout) -> Self {
        let element = operation.element;
        let mut sizes = vec![0; layout.places().len()];
        let found = nodes(0..layout.ranks(), &|rank| layout.home(rank)).into_iter();
        let nodes = found.map(|ranks| {
            let place = layout.home(ranks.start);
            let size = operation.size_of(&ranks);
            sizes[place] += size;
            TreeNode {
                ranks,
                place,
                before: sizes[place] - size,
                size,
            }
        });
        let nodes = nodes.collect();
        Self {
            element,
            nodes,
            sizes,
        }
    }

    /// The partial results of a process for `bytes` of elements, one after the other from `at` on.
    pub(super) fn parts(
        &self,
        place: usize,
        bytes: usize,
        at: (Memory, usize),
    ) -> Vec<(Range<usize>, Span)> {
        let count = bytes / self.element;
        let own = self.nodes.iter().filter(|node| node.place == place);
        let parts = own.map(|node| {
            let start = at.1 + node.before * count;
            let span = Span::new(at.0, start..start + node.size * count);
            (node.ranks.clone(), span)
        });
        parts.collect()
    }

    /// The bytes of a node's parcel for `owned` bytes of elements.
    pub(super) fn length(&self, place: usize, owned: usize) -> usize {
        self.sizes[place] * (owned / self.element)
    }

    /// The steps that append to `parcel` what the owner of these byte ranges of the inputs needs.
    pub(super) fn pack(&self, here: usize, owned: &[Range<usize>], parcel: usize) -> Vec<Step> {
        let into = Span::whole(Memory::Parcel(parcel));
        let mine = self.nodes.iter().filter(|node| node.place == here);
        let steps = mine.flat_map(|node| {
            owned.iter().map(|bytes| {
                let (ranks, bytes, into) = (node.ranks.clone(), bytes.clone(), into.clone());
                if ranks.len() == 1 {
                    let from = Span::new(Memory::Input(ranks.start), bytes);
                    return Step::Copy { from, into };
                }
                Step::Combine {
                    sources: Sources::Inputs { ranks, bytes },
                    into,
                    last: false,
                }
            })
        });
        steps.collect()
    }

    /// The sources of the elements at `bytes`, which are counted within the `owned` bytes of elements that the
    /// parcels are for. `at` gives, for a node, the memory of its parcel and the parcel's start in it.
    pub(super) fn sources(
        &self,
        bytes: &Range<usize>,
        owned: usize,
        at: impl Fn(usize) -> (Memory, usize),
    ) -> Sources {
        let (first, count) = (bytes.start / self.element, bytes.len() / self.element);
        let owned = owned / self.element;
        let parts = self.nodes.iter().map(|node| {
            let (memory, start) = at(node.place);
            let start = start + node.before * owned + first * node.size;
            let span = Span::new(memory, start..start + count * node.size);
            (node.ranks.clone(), span)
        });
        Sources::Parts(parts.collect())
    }
}
