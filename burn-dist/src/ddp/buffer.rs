//! The memory of one bucket: gradients packed one behind the other, and the flags behind them.
//!
//! Invariant: as long as the bucket's length, and zero where nothing was packed.
//!
//! Callers: the reducer packs and averages; `settle` unpacks.

use super::layout::{Bucket, Precision};
use crate::element::ReduceOp;
use crate::error::Result;
use crate::group::ProcessGroup;
use burn::tensor::{DType, TensorData};
use std::ops::Range;

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

    /// Copies a gradient to `at`, or adds it to what lies there.
    ///
    /// The error says how the data's length differs from the place's.
    pub(super) fn pack(
        &mut self,
        at: Range<usize>,
        data: &TensorData,
        add: bool,
    ) -> Result<(), String> {
        match self {
            Self::Single(elements) => pack(&mut elements[at], data, add),
            Self::Double(elements) => pack(&mut elements[at], data, add),
        }
    }

    /// Sets one flag.
    pub(super) fn set_flag(&mut self, at: usize) {
        match self {
            Self::Single(elements) => elements[at] = 1.0,
            Self::Double(elements) => elements[at] = 1.0,
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

    /// The gradient at a place, in its parameter's own type.
    pub(super) fn unpack(&self, at: Range<usize>, shape: &[usize], dtype: DType) -> TensorData {
        let data = match self {
            Self::Single(elements) => TensorData::new(elements[at].to_vec(), shape),
            Self::Double(elements) => TensorData::new(elements[at].to_vec(), shape),
        };
        data.convert_dtype(dtype)
    }
}

fn pack<E>(place: &mut [E], data: &TensorData, add: bool) -> Result<(), String>
where
    E: burn::tensor::Element + std::ops::AddAssign,
{
    if data.num_elements() != place.len() {
        return Err(format!(
            "a gradient of {} elements came where the parameter has {}",
            data.num_elements(),
            place.len()
        ));
    }
    match (data.as_slice::<E>(), add) {
        (Ok(elements), false) => place.copy_from_slice(elements),
        (_, add) => {
            for (element, gradient) in place.iter_mut().zip(data.iter::<E>()) {
                if add {
                    *element += gradient;
                } else {
                    *element = gradient;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::layout::Slot;
    use super::*;
    use burn::tensor::{bf16, f16};

    #[test]
    fn half_precision_is_summed_in_single_and_comes_back() {
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
        buffer.set_flag(4);
        assert_eq!((buffer.flag(3), buffer.flag(4)), (false, true));
        let sum = buffer.unpack(0..2, &[2, 1], DType::F16);
        assert_eq!(sum.shape().as_slice(), [2, 1]);
        let sum: Vec<f16> = sum.try_to_vec().unwrap();
        assert_eq!(sum, [f16::from_f32(1.0), f16::from_f32(-6.0)]);
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
