//! The memory of one bucket: gradients one behind the other, and the flags behind them.
//!
//! Invariants: as long as the bucket's length, and aligned for its elements. Memory is used again: a
//! step writes each place.

use super::layout::Precision;
use crate::element::ReduceOp;
use crate::error::Result;
use crate::group::{ProcessGroup, Work};
use burn::tensor::{Bytes, DType, DataError, Element, TensorData, bf16, f16};
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use std::ops::{AddAssign, Range};
use std::time::Instant;
use tracing::Span;

/// A bucket's elements, in the type they are averaged in.
#[derive(Debug)]
pub(super) struct BucketBuffer {
    precision: Precision,
    memory: Bytes,
}

/// The elements of a buffer.
enum TypedSlice<'a> {
    Single(&'a mut [f32]),
    Double(&'a mut [f64]),
}

impl BucketBuffer {
    /// All zero.
    pub(super) fn new(precision: Precision, len: usize) -> Self {
        let memory = match precision {
            Precision::Single => Bytes::from_elems(vec![0.0_f32; len]),
            Precision::Double => Bytes::from_elems(vec![0.0_f64; len]),
        };
        Self { precision, memory }
    }

    /// The memory of a gradient of so many elements, without a copy where it is of the right type and
    /// nobody else's.
    pub(super) fn of(
        mut data: TensorData,
        precision: Precision,
        len: usize,
    ) -> std::result::Result<Self, String> {
        // This also moves memory that can't be written to, such as a device's, to where it can.
        let writable = data.num_elements() == len
            && match precision {
                Precision::Single => data.as_mut_slice::<f32>().is_ok(),
                Precision::Double => data.as_mut_slice::<f64>().is_ok(),
            };
        if writable {
            let memory = data.into_bytes();
            return Ok(Self { precision, memory });
        }
        let mut buffer = Self::new(precision, len);
        buffer.pack(0..len, &data, false)?;
        Ok(buffer)
    }

    /// The type of the elements.
    pub(super) fn dtype(&self) -> DType {
        self.precision.dtype()
    }

    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.memory.len() / self.precision.size()
    }

    /// The memory of some elements.
    pub(super) fn bytes(&self, at: Range<usize>) -> &[u8] {
        let size = self.precision.size();
        &self.memory[at.start * size..at.end * size]
    }

    /// All its memory.
    pub(super) fn into_memory(self) -> Bytes {
        self.memory
    }

    fn elements(&mut self) -> TypedSlice<'_> {
        match self.precision {
            Precision::Single => TypedSlice::Single(bytemuck::cast_slice_mut(&mut self.memory)),
            Precision::Double => TypedSlice::Double(bytemuck::cast_slice_mut(&mut self.memory)),
        }
    }

    /// Copies a gradient to `at`, or adds it to what lies there.
    ///
    /// The error says how the data's length differs from the place's.
    pub(super) fn pack(
        &mut self,
        at: Range<usize>,
        data: &TensorData,
        add: bool,
    ) -> std::result::Result<(), String> {
        checked_len(data.num_elements(), at.len())?;
        let packed = match (self.elements(), data.dtype()) {
            (TypedSlice::Single(elements), DType::F16) => data
                .as_slice::<f16>()
                .map(|gradient| pack_half(&mut elements[at], gradient, add)),
            (TypedSlice::Single(elements), DType::BF16) => data
                .as_slice::<bf16>()
                .map(|gradient| pack_half(&mut elements[at], gradient, add)),
            (TypedSlice::Single(elements), _) => pack(&mut elements[at], data, add),
            (TypedSlice::Double(elements), _) => pack(&mut elements[at], data, add),
        };
        packed.map_err(|error| error.to_string())
    }

    /// Makes a place zero: nothing came for it.
    pub(super) fn clear(&mut self, at: Range<usize>) {
        match self.elements() {
            TypedSlice::Single(elements) => elements[at].fill(0.0),
            TypedSlice::Double(elements) => elements[at].fill(0.0),
        }
    }

    /// Sets or clears one flag.
    pub(super) fn set_flag(&mut self, at: usize, flag: bool) {
        match self.elements() {
            TypedSlice::Single(elements) => elements[at] = f32::from(flag),
            TypedSlice::Double(elements) => elements[at] = f64::from(flag),
        }
    }

    /// Returns true if any rank had set a flag, once the bucket is averaged.
    pub(super) fn flag(&self, at: usize) -> bool {
        match self.precision {
            Precision::Single => self.read::<f32>(at..at + 1)[0] > 0.0,
            Precision::Double => self.read::<f64>(at..at + 1)[0] > 0.0,
        }
    }

    /// Some elements, which must be of this type.
    pub(super) fn read<E: Pod>(&self, at: Range<usize>) -> &[E] {
        bytemuck::cast_slice(self.bytes(at))
    }

    /// Averages over all ranks of the group, a piece after the other.
    pub(super) fn average(&mut self, group: &ProcessGroup, pieces: &[Range<usize>]) -> Result<()> {
        for piece in pieces {
            let piece = piece.clone();
            match self.elements() {
                TypedSlice::Single(elements) => {
                    group.all_reduce(&mut elements[piece], ReduceOp::Mean)
                }
                TypedSlice::Double(elements) => {
                    group.all_reduce(&mut elements[piece], ReduceOp::Mean)
                }
            }?;
        }
        Ok(())
    }

    /// Averages or adds up over all ranks of the group on the group's own thread; the span is around it
    /// there.
    pub(super) fn start_reducing(
        self,
        group: &ProcessGroup,
        op: ReduceOp,
        span: Span,
    ) -> Work<(Self, Range<Instant>)> {
        match self.precision {
            Precision::Single => group.all_reduce_owned::<f32, _>(self, op, span),
            Precision::Double => group.all_reduce_owned::<f64, _>(self, op, span),
        }
    }

    /// Gives every rank of the group the first one's.
    pub(super) fn broadcast(&mut self, group: &ProcessGroup) -> Result<()> {
        match self.elements() {
            TypedSlice::Single(elements) => group.broadcast(elements, 0),
            TypedSlice::Double(elements) => group.broadcast(elements, 0),
        }
    }
}

/// All elements, which must be of this type.
impl<E: Pod> AsMut<[E]> for BucketBuffer {
    fn as_mut(&mut self) -> &mut [E] {
        bytemuck::cast_slice_mut(&mut self.memory)
    }
}

/// Checks that a gradient is as long as its parameter.
pub(super) fn checked_len(came: usize, expected: usize) -> std::result::Result<(), String> {
    if came == expected {
        return Ok(());
    }
    Err(format!(
        "expected a gradient of {expected} elements, got {came}"
    ))
}

fn pack<E: Element + Pod + AddAssign>(
    place: &mut [E],
    data: &TensorData,
    add: bool,
) -> std::result::Result<(), DataError> {
    match data.as_slice::<E>() {
        Ok(gradient) => put(place, gradient.iter().copied(), add),
        // It lies where none of its type may.
        Err(DataError::InvalidRepresentation(_)) => {
            let bytes = data.as_bytes().chunks_exact(size_of::<E>());
            put(place, bytes.map(bytemuck::pod_read_unaligned), add);
        }
        Err(DataError::DTypeMismatch { .. }) => put(place, data.iter::<E>(), add),
        // The device gave nothing.
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Converts a block at a time, for which processors have instructions.
fn pack_half<H>(place: &mut [f32], gradient: &[H], add: bool)
where
    [H]: HalfFloatSliceExt,
{
    let mut wide = [0.0; 256];
    for (place, half) in place
        .chunks_mut(wide.len())
        .zip(gradient.chunks(wide.len()))
    {
        let wide = &mut wide[..half.len()];
        half.convert_to_f32_slice(wide);
        put(place, wide.iter().copied(), add);
    }
}

fn put<E: Copy + AddAssign>(place: &mut [E], gradient: impl Iterator<Item = E>, add: bool) {
    let places = place.iter_mut().zip(gradient);
    if add {
        places.for_each(|(element, gradient)| *element += gradient);
    } else {
        places.for_each(|(element, gradient)| *element = gradient);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::AllocationProperty;
    use proptest::prelude::*;

    #[test]
    fn half_precision_is_summed_in_single() {
        let mut buffer = BucketBuffer::new(Precision::Single, 5);
        let half = TensorData::new(vec![f16::from_f32(0.5), f16::from_f32(-3.0)], [2]);
        buffer.pack(0..2, &half, false).unwrap();
        buffer.pack(0..2, &half, true).unwrap();
        let brain = TensorData::new(vec![bf16::from_f32(7.0)], [1]);
        buffer.pack(2..3, &brain, false).unwrap();
        buffer.set_flag(4, true);
        assert_eq!((buffer.flag(3), buffer.flag(4)), (false, true));
        assert_eq!(buffer.read::<f32>(0..5), [1.0, -6.0, 7.0, 0.0, 1.0]);
        buffer.clear(1..3);
        buffer.set_flag(4, false);
        assert_eq!(buffer.read::<f32>(0..5), [1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn every_element_is_converted(bits in prop::collection::vec(any::<u16>(), 0..700)) {
            let halves = bits.iter().map(|bits| f16::from_bits(*bits));
            let halves: Vec<f16> = halves.filter(|half| half.is_finite()).collect();
            let len = halves.len();
            let mut buffer = BucketBuffer::new(Precision::Single, len);
            let data = TensorData::new(halves.clone(), [len]);
            buffer.pack(0..len, &data, false).unwrap();
            let once: Vec<f32> = halves.iter().map(|half| half.to_f32()).collect();
            prop_assert_eq!(buffer.read::<f32>(0..len), &once[..]);
            buffer.pack(0..len, &data, true).unwrap();
            let twice: Vec<f32> = once.iter().map(|element| element * 2.0).collect();
            prop_assert_eq!(buffer.read::<f32>(0..len), &twice[..]);
        }
    }

    #[test]
    fn a_gradient_of_another_length_is_an_error() {
        let data = TensorData::new(vec![1.0_f64; 2], [2]);
        let mut buffer = BucketBuffer::new(Precision::Double, 3);
        assert!(buffer.pack(0..3, &data, false).is_err());
        assert!(BucketBuffer::of(data, Precision::Double, 3).is_err());
    }

    #[test]
    fn a_gradients_own_memory_is_taken() {
        let data = TensorData::new(vec![1.0_f32, 2.0], [2]);
        let address = data.bytes().as_ptr();
        let buffer = BucketBuffer::of(data, Precision::Single, 2).unwrap();
        assert_eq!(buffer.bytes(0..2).as_ptr(), address);
        assert_eq!(buffer.read::<f32>(0..2), [1.0, 2.0]);
    }

    #[test]
    fn a_gradient_of_another_type_or_alignment_is_copied() {
        let data = TensorData::new(vec![1.0_f64, 2.0], [2]);
        let buffer = BucketBuffer::of(data, Precision::Single, 2).unwrap();
        assert_eq!(buffer.read::<f32>(0..2), [1.0, 2.0]);

        // It begins where no f64 may.
        let mut memory = vec![0; 17];
        memory[1..].copy_from_slice(bytemuck::cast_slice(&[3.0_f64, 4.0]));
        let shared = bytes::Bytes::from(memory).slice(1..);
        let shared = Bytes::from_shared(shared, AllocationProperty::Native);
        let data = TensorData::from_bytes(shared, [2], DType::F64);
        let buffer = BucketBuffer::of(data, Precision::Double, 2).unwrap();
        assert_eq!(buffer.read::<f64>(0..2), [3.0, 4.0]);
    }
}
