//! The steps of a rank that need no network, on the memory that it writes.

use std::ops::Range;

use super::combine::{Combiner, combine_block, elements};
use super::operation::Operation;
use super::plan::{Memory, Span, Step};
use super::tree::Reducer;
use crate::element::Element;

/// The memory that a rank writes in the stages in which it uses no network.
pub(super) struct Targets<'b> {
    output: Option<&'b mut [u8]>,
    /// The parcels that this rank fills, by number.
    pub(super) parcels: Vec<(usize, Vec<u8>)>,
}

impl<'b> Targets<'b> {
    pub(super) fn new(output: Option<&'b mut [u8]>) -> Self {
        Self {
            output,
            parcels: Vec::new(),
        }
    }

    pub(super) fn run<'s, T: Element>(
        &mut self,
        steps: &[Step],
        combiner: &mut Combiner<'_, T>,
        read: &impl Fn(&Span) -> &'s [u8],
    ) {
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Copy { from, into } => {
                    let bytes = read(from);
                    match into.memory {
                        Memory::Parcel(parcel) => {
                            let rest = || {
                                parcel_bytes(&steps[number..], parcel, combiner.operation(), read)
                            };
                            self.parcel(parcel, rest).extend_from_slice(bytes);
                        }
                        _ => self.output(into).copy_from_slice(bytes),
                    }
                }
                Step::Combine {
                    sources,
                    into,
                    last,
                } => {
                    let operation = combiner.operation();
                    let (reducer, blocks) =
                        combiner.begin(elements(operation, sources, into, *last));
                    for block in blocks {
                        combine_block(reducer, operation, sources, &block, read);
                        if let (Memory::Parcel(parcel), false) = (into.memory, last) {
                            let rest = || parcel_bytes(&steps[number..], parcel, operation, read);
                            let bytes = reducer.partial(block.len());
                            self.parcel(parcel, rest).extend_from_slice(bytes);
                        } else {
                            let size = operation.written(*last);
                            write(reducer, &block, size, self.output(into), *last);
                        }
                    }
                }
                // The network belongs to the stage between.
                Step::Send { .. } | Step::Recv { .. } | Step::Wait => {}
            }
        }
    }

    fn output(&mut self, span: &Span) -> &mut [u8] {
        let output = self.output.as_deref_mut().unwrap_or_default();
        &mut output[span.bytes.clone()]
    }

    /// The parcel to append to; a new one has room for `capacity` bytes.
    fn parcel(&mut self, number: usize, capacity: impl FnOnce() -> usize) -> &mut Vec<u8> {
        let found = self.parcels.iter().position(|(other, _)| *other == number);
        let at = found.unwrap_or_else(|| {
            self.parcels.push((number, Vec::with_capacity(capacity())));
            self.parcels.len() - 1
        });
        &mut self.parcels[at].1
    }
}

/// The bytes that these steps append to a parcel.
fn parcel_bytes<'s>(
    steps: &[Step],
    parcel: usize,
    operation: &Operation,
    read: &impl Fn(&Span) -> &'s [u8],
) -> usize {
    let own = |into: &Span| into.memory == Memory::Parcel(parcel);
    let bytes = steps.iter().map(|step| match step {
        Step::Copy { from, into } if own(into) => read(from).len(),
        Step::Combine { sources, into, .. } if own(into) => {
            elements(operation, sources, into, false) * operation.partial
        }
        _ => 0,
    });
    bytes.sum()
}

/// Writes a block of a combination to its place in `target`, where each element takes `size` bytes.
pub(super) fn write<T: Element>(
    reducer: &Reducer<T>,
    block: &Range<usize>,
    size: usize,
    target: &mut [u8],
    last: bool,
) {
    let target = &mut target[block.start * size..block.end * size];
    if last {
        reducer.write(bytemuck::cast_slice_mut(target));
    } else {
        target.copy_from_slice(reducer.partial(block.len()));
    }
}
