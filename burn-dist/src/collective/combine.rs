//! Combinations of a plan: which bytes each block of the canonical tree is evaluated from.

use std::ops::Range;

use super::operation::Operation;
use super::plan::{Sources, Span};
use super::tree::{Part, Reducer};
use crate::element::Element;
use crate::shared_memory::ScratchPool;

/// The combinations of one operation, in scratch memory that is taken for the first.
pub(super) struct Combiner<'o, T: Element> {
    operation: &'o Operation,
    ranks: usize,
    pool: &'o ScratchPool,
    reducer: Option<Reducer<T>>,
}

impl<'o, T: Element> Combiner<'o, T> {
    /// For an operation over so many ranks.
    pub(super) fn new(operation: &'o Operation, ranks: usize, pool: &'o ScratchPool) -> Self {
        Self {
            operation,
            ranks,
            pool,
            reducer: None,
        }
    }

    pub(super) fn operation(&self) -> &'o Operation {
        self.operation
    }

    /// A reducer for so many elements, and the blocks that they are cut into. The first combination of a plan
    /// is the longest.
    pub(super) fn begin(
        &mut self,
        count: usize,
    ) -> (&mut Reducer<T>, impl Iterator<Item = Range<usize>> + use<T>) {
        let (op, ranks, pool) = (self.operation.op, self.ranks, self.pool);
        let reducer = self
            .reducer
            .get_or_insert_with(|| Reducer::new(op, ranks, count, pool));
        let blocks = reducer.blocks(count);
        (reducer, blocks)
    }
}

/// Evaluates one block of a combination, which the reducer keeps.
pub(super) fn combine_block<'s, T: Element>(
    reducer: &mut Reducer<T>,
    operation: &Operation,
    sources: &Sources,
    block: &Range<usize>,
    read: &impl Fn(&Span) -> &'s [u8],
) {
    let element = operation.element;
    match sources {
        Sources::Inputs { ranks, bytes } => {
            let start = bytes.start + block.start * element;
            reducer.combine(ranks.clone(), block.len(), &|node| {
                (node.len() == 1).then(|| {
                    let bytes = start..start + block.len() * element;
                    Part::Rank(read(&Span::new(
                        super::plan::Memory::Input(node.start),
                        bytes,
                    )))
                })
            });
        }
        Sources::Parts(parts) => {
            let first = parts.first().map_or(0, |(ranks, _)| ranks.start);
            let end = parts.last().map_or(0, |(ranks, _)| ranks.end);
            reducer.combine(first..end, block.len(), &|node| {
                let found = parts.binary_search_by_key(&node.start, |(ranks, _)| ranks.start);
                let (ranks, span) = &parts[found.ok()?];
                if ranks != node {
                    return None;
                }
                let is_rank = ranks.len() == 1;
                let size = if is_rank { element } else { operation.partial };
                let start = span.bytes.start + block.start * size;
                let bytes = read(&Span::new(span.memory, start..start + block.len() * size));
                Some(if is_rank {
                    Part::Rank(bytes)
                } else {
                    Part::Node(bytes)
                })
            });
        }
    }
}

/// The elements of a combination into this many bytes.
pub(super) fn elements(operation: &Operation, sources: &Sources, into: &Span, last: bool) -> usize {
    match sources {
        Sources::Inputs { bytes, .. } => bytes.len() / operation.element,
        Sources::Parts(_) => into.bytes.len() / operation.written(last),
    }
}
