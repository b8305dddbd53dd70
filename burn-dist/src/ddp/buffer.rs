//! The memory of one bucket: gradients packed one behind the other, and the flags behind them.
//!
//! Invariant: as long as the bucket's length. Memory is used again: a step writes each place.
//!
//! Callers: the reducer packs and averages; `pool` keeps and lends it.

use super::layout::{Bucket, Precision};
use crate::element::ReduceOp;
use crate::error::Result;
use crate::group::ProcessGroup;
use burn::tensor::{DType, Element, TensorData, bf16, f16};
use half::slice::HalfFloatSliceExt;
use std::ops::{AddAssign, Range};

/// A bucket's elements, in the type they are averaged in.
#[derive(Debug)]
pub(super) enum Buffer {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Buffer {
    /// All zero.
    pub(super) fn new(bucket: &Bucket) -> Self {
        match bucket.precision {
            Precision::Single => Self::Single(vec![0.0; bucket.len()]),
            Precision::Double => Self::Double(vec![0.0; bucket.len()]),
        }
    }

    /// The type of the elements.
    pub(super) fn dtype(&self) -> DType {
        match self {
            Self::Single(_) => DType::F32,
            Self::Double(_) => DType::F64,
        }
    }

    /// The memory of some elements.
    pub(super) fn bytes(&self, at: Range<usize>) -> &[u8] {
        match self {
            Self::Single(elements) => bytemuck::cast_slice(&elements[at]),
            Self::Double(elements) => bytemuck::cast_slice(&elements[at]),
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
    ) -> Result<(), String> {
        let (came, expected) = (data.num_elements(), at.len());
        if came != expected {
            return Err(format!(
                "a gradient of {came} elements came where the parameter has {expected}"
            ));
        }
        match self {
            Self::Single(elements) => {
                let place = &mut elements[at];
                if let Ok(gradient) = data.as_slice::<f16>() {
                    pack_half(place, gradient, add);
                } else if let Ok(gradient) = data.as_slice::<bf16>() {
                    pack_half(place, gradient, add);
                } else {
                    pack(place, data, add);
                }
            }
            Self::Double(elements) => pack(&mut elements[at], data, add),
        }
        Ok(())
    }

    /// Makes a place zero: nothing came for it.
    pub(super) fn clear(&mut self, at: Range<usize>) {
        match self {
            Self::Single(elements) => elements[at].fill(0.0),
            Self::Double(elements) => elements[at].fill(0.0),
        }
    }

    /// Sets or clears one flag.
    pub(super) fn set_flag(&mut self, at: usize, flag: bool) {
        match self {
            Self::Single(elements) => elements[at] = f32::from(flag),
            Self::Double(elements) => elements[at] = f64::from(flag),
        }
    }

    /// Whether any rank had set a flag, once the bucket is averaged.
    pub(super) fn flag(&self, at: usize) -> bool {
        match self {
            Self::Single(elements) => elements[at] > 0.0,
            Self::Double(elements) => elements[at] > 0.0,
        }
    }

    /// Averages over all ranks of the group.
    pub(super) fn average(&mut self, group: &ProcessGroup) -> Result<()> {
        match self {
            Self::Single(elements) => group.all_reduce(elements, ReduceOp::Mean),
            Self::Double(elements) => group.all_reduce(elements, ReduceOp::Mean),
        }
    }
}

fn pack<E: Element + AddAssign>(place: &mut [E], data: &TensorData, add: bool) {
    match data.as_slice::<E>() {
        Ok(gradient) => put(place, gradient.iter().copied(), add),
        Err(_) => put(place, data.iter::<E>(), add),
    }
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
    use super::super::layout::Slot;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_precision_is_summed_in_single() {
        let bucket = Bucket {
            precision: Precision::Single,
            slots: vec![
                Slot {
                    parameter: 0,
                    offset: 0,
                    len: 2,
                },
                Slot {
                    parameter: 1,
                    offset: 2,
                    len: 1,
                },
            ],
        };
        let mut buffer = Buffer::new(&bucket);
        let half = TensorData::new(vec![f16::from_f32(0.5), f16::from_f32(-3.0)], [2]);
        buffer.pack(0..2, &half, false).unwrap();
        buffer.pack(0..2, &half, true).unwrap();
        let brain = TensorData::new(vec![bf16::from_f32(7.0)], [1]);
        buffer.pack(2..3, &brain, false).unwrap();
        buffer.set_flag(4, true);
        assert_eq!((buffer.flag(3), buffer.flag(4)), (false, true));
        assert_eq!(elements(&buffer), [1.0, -6.0, 7.0, 0.0, 1.0]);
        buffer.clear(1..3);
        buffer.set_flag(4, false);
        assert_eq!(elements(&buffer), [1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn every_element_is_converted(bits in prop::collection::vec(any::<u16>(), 0..700)) {
            let finite = |bits: &u16| f16::from_bits(*bits).is_finite();
            let halves: Vec<f16> =
                bits.iter().filter(|bits| finite(bits)).map(|bits| f16::from_bits(*bits)).collect();
            let len = halves.len();
            let mut buffer = Buffer::Single(vec![3.0; len]);
            let data = TensorData::new(halves.clone(), [len]);
            buffer.pack(0..len, &data, false).unwrap();
            let once: Vec<f32> = halves.iter().map(|half| half.to_f32()).collect();
            prop_assert_eq!(elements(&buffer), &once[..]);
            buffer.pack(0..len, &data, true).unwrap();
            let twice: Vec<f32> = once.iter().map(|element| element * 2.0).collect();
            prop_assert_eq!(elements(&buffer), &twice[..]);
        }
    }

    fn elements(buffer: &Buffer) -> &[f32] {
        match buffer {
            Buffer::Single(elements) => elements,
            Buffer::Double(_) => panic!("a bucket of f32"),
        }
    }

    #[test]
    fn a_gradient_of_another_length_is_an_error() {
        let bucket = Bucket {
            precision: Precision::Double,
            slots: vec![Slot {
                parameter: 0,
                offset: 0,
                len: 3,
            }],
        };
        let data = TensorData::new(vec![1.0_f64; 2], [2]);
        assert!(Buffer::new(&bucket).pack(0..3, &data, false).is_err());
    }
}
