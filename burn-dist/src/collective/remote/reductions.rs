//! The operations that combine elements.
//!
//! A parcel holds, for each largest node of the canonical tree that lies in the sender's process, the
//! node's partial result: for all the elements that the receiver owns, one after the other. Whoever owns
//! elements merges the partial results of all processes in the tree, so the result has the same bits as
//! in one process.

use std::ops::Range;

use super::super::all_reduce::Reduced;
use super::super::tree::{Part, Reducer, nodes};
use super::{MIDDLING, SMALL, check_length, doubling, stream};

use crate::element::{Element, ReduceOp};
use crate::error::Result;
use crate::transport::processes::Layout;
use crate::transport::threads::{Abroad, Audience, Floor, Given, Lent, Parcels, Plan};

/// The partial results of one reduction, and where they are in the parcels.
pub(super) struct Partials<'l> {
    pub(super) layout: &'l Layout,
    op: ReduceOp,
    ranks: usize,
    /// The bytes of an element, and of one that a node has summed.
    sizes: (usize, usize),
    /// All nodes, in rank order.
    nodes: Vec<Node>,
}

struct Node {
    ranks: Range<usize>,
    /// Where the node lies.
    place: usize,
    /// The bytes per owned element that come before it in its place's parcel.
    before: usize,
    /// Its own.
    size: usize,
}

impl<'l> Partials<'l> {
    fn new<T: Element>(layout: &'l Layout, ranks: usize, op: ReduceOp) -> Self {
        let narrow = size_of::<T>();
        let wide = match op {
            ReduceOp::Mean => size_of::<T::Wide>(),
            _ => narrow,
        };
        let mut filled = vec![0; layout.places().len()];
        let found = nodes(0..ranks, &|rank| layout.home(rank));
        let found = found.into_iter().map(|ranks| {
            let place = layout.home(ranks.start);
            let size = if ranks.len() == 1 { narrow } else { wide };
            filled[place] += size;
            Node {
                ranks,
                place,
                before: filled[place] - size,
                size,
            }
        });
        let nodes = found.collect();
        Self {
            layout,
            op,
            ranks,
            sizes: (narrow, wide),
            nodes,
        }
    }

    /// Whether they are of the elements' own type.
    pub(super) fn are_narrow(&self) -> bool {
        self.sizes.0 == self.sizes.1
    }

    /// The length of a place's parcel for `owned` elements.
    pub(super) fn length(&self, place: usize, owned: usize) -> usize {
        let nodes = self.nodes.iter().filter(|node| node.place == place);
        nodes.map(|node| node.size).sum::<usize>() * owned
    }

    /// The parcel for the owner of these ranges of elements.
    pub(super) fn pack<T: Element>(&self, floor: &Floor<'_>, owned: &[Range<usize>]) -> Vec<u8> {
        let here = self.layout.here();
        let count = owned.iter().map(ExactSizeIterator::len).sum();
        let mut parcel = Vec::with_capacity(self.length(here, count));
        let input = |rank: usize| floor.read(self.layout.seat(rank));
        let elements = |rank: usize| bytemuck::cast_slice::<u8, T>(input(rank));
        let mut reducer = Reducer::<T>::new(self.op, self.ranks, count);
        for node in self.nodes.iter().filter(|node| node.place == here) {
            for range in owned {
                if node.ranks.len() == 1 {
                    let bytes = range.start * self.sizes.0..range.end * self.sizes.0;
                    parcel.extend_from_slice(&input(node.ranks.start)[bytes]);
                    continue;
                }
                for block in reducer.blocks(range.len()) {
                    let part = range.start + block.start..range.start + block.end;
                    let source = |rank: usize| &elements(rank)[part.clone()];
                    reducer.reduce_part(node.ranks.clone(), block.len(), &source);
                    reducer.append_part(block.len(), &mut parcel);
                }
            }
        }
        parcel
    }

    /// Merges what all places sent of `owned` elements, from number `first` on, into `target`.
    fn merge<T: Element>(&self, come: &Parcels, owned: usize, first: usize, target: &mut [T]) {
        let mut reducer = Reducer::<T>::merging(self.op, self.ranks, target.len());
        for block in reducer.blocks(target.len()) {
            let elements = first + block.start..first + block.end;
            self.merge_block(&mut reducer, elements, owned, &|place| &come[place]);
            reducer.write(&mut target[block]);
        }
    }

    /// Merges one block of the `owned` elements whose partial results each place has sent.
    pub(super) fn merge_block<'s, T: Element>(
        &self,
        reducer: &mut Reducer<T>,
        block: Range<usize>,
        owned: usize,
        sent: &impl Fn(usize) -> &'s [u8],
    ) {
        reducer.merge(block.len(), &|ranks| {
            let number = self
                .nodes
                .binary_search_by_key(&ranks.start, |node| node.ranks.start);
            let node = number.ok().map(|number| &self.nodes[number])?;
            if node.ranks != *ranks {
                return None;
            }
            let start = node.before * owned + block.start * node.size;
            let bytes = &sent(node.place)[start..start + block.len() * node.size];
            Some(match ranks.len() {
                1 => Part::Rank(bytes),
                _ => Part::Node(bytes),
            })
        });
    }

    /// To merge blocks of up to `length` elements.
    pub(super) fn reducer<T: Element>(&self, length: usize) -> Reducer<T> {
        Reducer::merging(self.op, self.ranks, length)
    }
}

pub(in crate::collective) fn all_reduce<T: Element>(
    abroad: Abroad<'_>,
    buffer: &mut [T],
    op: ReduceOp,
) -> Result<()> {
    let layout = abroad.layout();
    let partials = Partials::new::<T>(layout, abroad.ranks(), op);
    if MIDDLING.contains(&size_of_val(buffer)) && doubling::suits(layout, abroad.ranks(), &partials)
    {
        return doubling::all_reduce(abroad, buffer, &partials);
    }
    if is_large(layout, buffer) && is_alone(layout) {
        return stream::all_reduce_alone(abroad, buffer, &partials);
    }
    if is_large(layout, buffer) {
        let done = stream::all_reduce_together(abroad, buffer, &partials)?;
        bytemuck::cast_slice_mut(buffer).copy_from_slice(&done);
        return Ok(());
    }
    let count = buffer.len();
    let plan = Plan {
        audience: Audience::All,
        pack: &|floor, _| partials.pack::<T>(floor, std::slice::from_ref(&(0..count))),
        check: &|place, bytes| check_length(bytes, partials.length(place, count)),
    };
    let come = abroad.trade(Lent::Read(bytemuck::cast_slice(buffer)), &plan)?;
    partials.merge(&come, count, 0, buffer);
    Ok(())
}

/// As [`all_reduce`]; what is large and comes to several ranks of a process, they share.
pub(in crate::collective) fn all_reduce_shared<T: Element>(
    abroad: Abroad<'_>,
    given: Given<'_, T>,
    op: ReduceOp,
) -> Result<Reduced<T>> {
    let layout = abroad.layout();
    if is_large(layout, given.elements()) && !is_alone(layout) {
        let partials = Partials::new::<T>(layout, abroad.ranks(), op);
        let done = stream::all_reduce_together(abroad, given.elements(), &partials);
        return done.map(Reduced::Shared);
    }
    let mut buffer = given.into_own();
    all_reduce(abroad, &mut buffer, op)?;
    Ok(Reduced::Own(buffer))
}

/// Whether two rounds, in a stream, take less time than one of so many more bytes.
fn is_large<T>(layout: &Layout, buffer: &[T]) -> bool {
    size_of_val(buffer).saturating_mul(layout.places().len() - 1) > SMALL
}

/// Whether this process has one rank of the group.
fn is_alone(layout: &Layout) -> bool {
    layout.local().len() == 1
}

pub(in crate::collective) fn reduce<T: Element>(
    abroad: Abroad<'_>,
    buffer: &mut [T],
    op: ReduceOp,
    root: usize,
) -> Result<()> {
    let (layout, rank) = (abroad.layout(), abroad.rank());
    let partials = Partials::new::<T>(layout, abroad.ranks(), op);
    let (home, count) = (layout.home(root), buffer.len());
    // Nothing comes to the other places.
    let owned = if home == layout.here() { count } else { 0 };
    let plan = Plan {
        audience: Audience::One(home),
        pack: &|floor, _| partials.pack::<T>(floor, std::slice::from_ref(&(0..count))),
        check: &|place, bytes| check_length(bytes, partials.length(place, owned)),
    };
    let come = abroad.trade(Lent::Read(bytemuck::cast_slice(buffer)), &plan)?;
    if rank == root {
        partials.merge(&come, count, 0, buffer);
    }
    Ok(())
}

pub(in crate::collective) fn reduce_scatter<T: Element>(
    abroad: Abroad<'_>,
    input: &[T],
    output: &mut [T],
    op: ReduceOp,
) -> Result<()> {
    let (layout, rank) = (abroad.layout(), abroad.rank());
    let partials = Partials::new::<T>(layout, abroad.ranks(), op);
    let part = output.len();
    let owned = part * layout.local().len();
    let plan = Plan {
        audience: Audience::Each,
        pack: &|floor, place| {
            let ranks = layout.places()[place].ranks.iter();
            let parts: Vec<_> = ranks.map(|rank| rank * part..(rank + 1) * part).collect();
            partials.pack::<T>(floor, &parts)
        },
        check: &|place, bytes| check_length(bytes, partials.length(place, owned)),
    };
    let come = abroad.trade(Lent::Read(bytemuck::cast_slice(input)), &plan)?;
    partials.merge(&come, owned, layout.seat(rank) * part, output);
    Ok(())
}
