//! The canonical reduction: an aligned binary tree over ranks.
//!
//! At stride 1 every even rank `i` takes in rank `i + 1`; at stride 2 every fourth takes in the one two
//! further; and so on. A missing right partner is passed over. For six ranks:
//! `((x0 + x1) + (x2 + x3)) + (x4 + x5)`. It is the order in which recursive halving adds (Rabenseifner
//! 2004; Thakur, Rabenseifner and Gropp 2005), and every aligned block of ranks is a subtree, so any
//! transport that adds by pairs or by blocks can give the same bits.
//!
//! The tree is evaluated one block of elements at a time: a block of every rank and one block of
//! partial sums per level of the tree stay in the core's own cache, so memory is read and written once.

use std::marker::PhantomData;
use std::ops::Range;

use crate::element::{Element, ReduceOp};
use crate::shared_memory::{Scratch, ScratchPool};

/// The size of a block: with two sources, sums and targets together fill half of a usual 48 KiB
/// first-level cache.
const BLOCK_BYTES: usize = 8 * 1024;

/// Reduces one block after the other, in memory that is taken once.
pub(super) struct Reducer<T: Element> {
    op: ReduceOp,
    /// The ranks that a mean is over.
    ranks: usize,
    block: usize,
    /// A block of partial results for each level of the tree, in the type that the operation computes in.
    scratch: Scratch,
    elements: PhantomData<T>,
}

impl<T: Element> Reducer<T> {
    /// For blocks of up to `length` elements, of nodes of up to `ranks` ranks.
    pub(super) fn new(op: ReduceOp, ranks: usize, length: usize, pool: &ScratchPool) -> Self {
        // The lowest level too may need a block for each side.
        let levels = ranks.next_power_of_two().trailing_zeros() as usize + 1;
        let block = length.clamp(1, BLOCK_BYTES / size_of::<T>());
        let size = match op {
            ReduceOp::Mean => size_of::<T::Wide>(),
            _ => size_of::<T>(),
        };
        Self {
            op,
            ranks,
            block,
            scratch: pool.take(levels * block * size),
            elements: PhantomData,
        }
    }

    /// The blocks that slices of `length` elements are cut into.
    pub(super) fn blocks(&self, length: usize) -> impl Iterator<Item = Range<usize>> + use<T> {
        let block = self.block;
        (0..length)
            .step_by(block)
            .map(move |start| start..(start + block).min(length))
    }

    /// Combines one block of `length` elements over the ranks of one tree node. `part` gives the partial
    /// results: for every rank, one of the node that it is or of one above it.
    pub(super) fn combine<'s>(
        &mut self,
        ranks: Range<usize>,
        length: usize,
        part: &impl Fn(&Range<usize>) -> Option<Part<'s>>,
    ) {
        let scratch = self.scratch.as_mut();
        if self.op == ReduceOp::Mean {
            let wide = bytemuck::cast_slice_mut(scratch);
            return combine(ranks, length, part, wide, T::widen, T::wide_plus);
        }
        let narrow = bytemuck::cast_slice_mut(scratch);
        let keep = |value: T| value;
        match self.op {
            ReduceOp::Sum => combine(ranks, length, part, narrow, keep, T::plus),
            ReduceOp::Product => combine(ranks, length, part, narrow, keep, T::times),
            ReduceOp::Min => combine(ranks, length, part, narrow, keep, T::smaller),
            ReduceOp::Max => combine(ranks, length, part, narrow, keep, T::larger),
            ReduceOp::Mean => {}
        }
    }

    /// The first `length` elements of the block that was combined last, as a partial result.
    pub(super) fn partial(&self, length: usize) -> &[u8] {
        let size = match self.op {
            ReduceOp::Mean => size_of::<T::Wide>(),
            _ => size_of::<T>(),
        };
        &self.scratch.as_ref()[..length * size]
    }

    /// Writes the block that was combined last, which is over all ranks.
    pub(super) fn write(&self, target: &mut [T]) {
        if self.op == ReduceOp::Mean {
            let sums = bytemuck::cast_slice(self.scratch.as_ref());
            for (target, &sum) in target.iter_mut().zip(sums) {
                *target = T::mean(sum, self.ranks);
            }
        } else {
            let results = bytemuck::cast_slice(self.scratch.as_ref());
            target.copy_from_slice(&results[..target.len()]);
        }
    }
}

/// Reduces the slices of all ranks, which are equally long, into `target`.
#[cfg(feature = "bench")]
pub(crate) fn reduce_slices<T: Element>(op: ReduceOp, sources: &[&[T]], target: &mut [T]) {
    let mut reducer = Reducer::<T>::new(op, sources.len(), target.len(), &ScratchPool::default());
    for block in reducer.blocks(target.len()) {
        reducer.combine(0..sources.len(), block.len(), &|ranks| {
            let elements = &sources[ranks.start][block.clone()];
            (ranks.len() == 1).then(|| Part::Rank(bytemuck::cast_slice(elements)))
        });
        reducer.write(&mut target[block]);
    }
}

/// One block of a node's partial result, as bytes of any alignment.
pub(super) enum Part<'s> {
    /// Of a node that is one rank: its elements.
    Rank(&'s [u8]),
    /// Of a node above: in the type that the operation computes in.
    Node(&'s [u8]),
}

/// The largest nodes of the tree over `ranks` all of whose ranks have one home, in rank order. Their
/// partial results are all that the other homes need.
pub(super) fn nodes(ranks: Range<usize>, home: &impl Fn(usize) -> usize) -> Vec<Range<usize>> {
    let first = home(ranks.start);
    if ranks.clone().all(|rank| home(rank) == first) {
        return vec![ranks];
    }
    let (left, right) = halves(&ranks);
    let mut all = nodes(left, home);
    all.extend(nodes(right, home));
    all
}

/// The largest nodes of the tree over `ranks` all of whose ranks are `inside`, in rank order.
pub(super) fn covering(ranks: Range<usize>, inside: &impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    if ranks.clone().all(inside) {
        return vec![ranks];
    }
    if ranks.len() == 1 {
        return Vec::new();
    }
    let (left, right) = halves(&ranks);
    let mut all = covering(left, inside);
    all.extend(covering(right, inside));
    all
}

/// The two nodes below one of several ranks.
fn halves(ranks: &Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = ranks.start + ranks.len().next_power_of_two() / 2;
    (ranks.start..middle, middle..ranks.end)
}

/// Evaluates the tree over `ranks` into the first `length` elements of `scratch`, from the partial results of
/// nodes. The rest of `scratch` is for the levels below.
fn combine<'s, T: Element, A: bytemuck::Pod>(
    ranks: Range<usize>,
    length: usize,
    part: &impl Fn(&Range<usize>) -> Option<Part<'s>>,
    scratch: &mut [A],
    lift: impl Fn(T) -> A + Copy,
    join: impl Fn(A, A) -> A + Copy,
) {
    if let Some(part) = part(&ranks) {
        return part.for_each(&mut scratch[..length], lift, |sum, value| *sum = value);
    }
    let (left, right) = halves(&ranks);
    match (part(&left), part(&right)) {
        (Some(left), Some(right)) => join_parts(&left, &right, &mut scratch[..length], lift, join),
        (_, Some(right)) => {
            combine(left, length, part, scratch, lift, join);
            let add = |sum: &mut A, value| *sum = join(*sum, value);
            right.for_each(&mut scratch[..length], lift, add);
        }
        (_, None) => {
            combine(left, length, part, scratch, lift, join);
            let (sums, below) = scratch.split_at_mut(length);
            combine(right, length, part, below, lift, join);
            for (sum, &right) in sums.iter_mut().zip(&*below) {
                *sum = join(*sum, right);
            }
        }
    }
}

impl Part<'_> {
    /// Does something to each sum with the part's element for it.
    fn for_each<T: Element, A: bytemuck::Pod>(
        &self,
        sums: &mut [A],
        lift: impl Fn(T) -> A,
        act: impl Fn(&mut A, A),
    ) {
        match self {
            Self::Rank(bytes) => for_each::<T, A>(bytes, sums, lift, act),
            Self::Node(bytes) => for_each::<A, A>(bytes, sums, |sum| sum, act),
        }
    }
}

/// Does something to each sum with its element, which is read from bytes of any alignment.
fn for_each<E: bytemuck::Pod, A>(
    bytes: &[u8],
    sums: &mut [A],
    lift: impl Fn(E) -> A,
    act: impl Fn(&mut A, A),
) {
    if let Ok(elements) = bytemuck::try_cast_slice::<u8, E>(bytes) {
        for (sum, &element) in sums.iter_mut().zip(elements) {
            act(sum, lift(element));
        }
    } else {
        let elements = bytes.chunks_exact(size_of::<E>());
        for (sum, element) in sums.iter_mut().zip(elements) {
            act(sum, lift(bytemuck::pod_read_unaligned(element)));
        }
    }
}

/// Joins two parts, in one pass where they are alike and aligned.
fn join_parts<T: Element, A: bytemuck::Pod>(
    left: &Part<'_>,
    right: &Part<'_>,
    sums: &mut [A],
    lift: impl Fn(T) -> A + Copy,
    join: impl Fn(A, A) -> A + Copy,
) {
    fn pair<'p, E: bytemuck::Pod>(left: &'p [u8], right: &'p [u8]) -> Option<[&'p [E]; 2]> {
        let cast = |bytes| bytemuck::try_cast_slice(bytes).ok();
        Some([cast(left)?, cast(right)?])
    }
    let (ranks, nodes) = match (left, right) {
        (Part::Rank(left), Part::Rank(right)) => (pair::<T>(left, right), None),
        (Part::Node(left), Part::Node(right)) => (None, pair::<A>(left, right)),
        _ => (None, None),
    };
    if let Some([left, right]) = ranks {
        for (sum, (&left, &right)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum = join(lift(left), lift(right));
        }
    } else if let Some([left, right]) = nodes {
        for (sum, (&left, &right)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum = join(left, right);
        }
    } else {
        left.for_each(sums, lift, |sum, value| *sum = value);
        right.for_each(sums, lift, |sum, value| *sum = join(*sum, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree written as its definition says, one stride after the other.
    fn by_strides(mut values: Vec<String>) -> String {
        let mut stride = 1;
        while stride < values.len() {
            for left in (0..values.len()).step_by(2 * stride) {
                if let Some(right) = values.get(left + stride).cloned() {
                    values[left] = format!("({}+{right})", values[left]);
                }
            }
            stride *= 2;
        }
        values.swap_remove(0)
    }

    /// The order in which `combine` joins, as an index into a table of the expressions seen so far.
    fn by_combine(ranks: usize) -> String {
        let sources: Vec<[u8; 1]> = (0..ranks as u8).map(|rank| [rank]).collect();
        let seen = std::cell::RefCell::new(Vec::<String>::new());
        let keep = |text: String| {
            seen.borrow_mut().push(text);
            seen.borrow().len() - 1
        };
        let mut scratch = vec![0_usize; 8];
        let join = |left: usize, right: usize| {
            let text = format!("({}+{})", seen.borrow()[left], seen.borrow()[right]);
            keep(text)
        };
        combine(
            0..ranks,
            1,
            &|node| (node.len() == 1).then(|| Part::Rank(&sources[node.start])),
            &mut scratch,
            |rank: u8| keep(format!("x{rank}")),
            join,
        );
        seen.take().swap_remove(scratch[0])
    }

    #[test]
    fn ranks_are_joined_in_the_canonical_order() {
        assert_eq!(by_combine(6), "(((x0+x1)+(x2+x3))+(x4+x5))");
        for ranks in 1..=17 {
            let leaves = (0..ranks).map(|rank| format!("x{rank}")).collect();
            assert_eq!(by_combine(ranks), by_strides(leaves), "{ranks} ranks");
        }
    }

    #[test]
    fn blocks_cover_a_slice_once() {
        let reducer = Reducer::<f32>::new(ReduceOp::Sum, 2, 10_000, &ScratchPool::default());
        let mut next = 0;
        for block in reducer.blocks(5_000) {
            assert_eq!(block.start, next);
            next = block.end;
        }
        assert_eq!(next, 5_000);
        assert_eq!(
            Reducer::<f32>::new(ReduceOp::Sum, 2, 0, &ScratchPool::default())
                .blocks(0)
                .count(),
            0
        );
    }
}
