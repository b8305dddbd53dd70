//! The memory of the buckets between two steps.
//!
//! An averaged bucket is lent: the gradients that the optimizer gets are views of its memory, and the
//! last of them to be dropped sends it home, on whatever thread that happens. The next step fills it
//! again, so that a loop that drops its gradients allocates no bucket after the first steps. Where
//! gradients are held longer, the next step's bucket is a new one, and the surplus is dropped once it
//! comes home. A lone gradient is averaged in its own memory, which the optimizer gets.
//!
//! Invariants: at most one spare memory a bucket; memory never changes while it is lent.

use super::buffer::BucketBuffer;
use super::layout::{BucketLayout, Precision};
use burn::tensor::{AllocationProperty, Bytes, DType, TensorData, bf16, f16};
use crossbeam::channel::{Receiver, Sender, unbounded};
use half::vec::HalfFloatVecExt;
use std::ops::Range;
use std::sync::Arc;

/// The memory of one layout's buckets.
#[derive(Debug)]
pub(super) struct Pool {
    spare: Vec<Option<BucketBuffer>>,
    returned: Receiver<(usize, BucketBuffer)>,
    home: Sender<(usize, BucketBuffer)>,
}

impl Pool {
    /// No memory yet.
    pub(super) fn new(layout: &BucketLayout) -> Self {
        let (home, returned) = unbounded();
        Self {
            spare: layout.buckets.iter().map(|_| None).collect(),
            returned,
            home,
        }
    }

    /// Memory for a bucket of the layout, with anything in it.
    pub(super) fn take(&mut self, layout: &BucketLayout, bucket: usize) -> BucketBuffer {
        for (bucket, buffer) in self.returned.try_iter() {
            self.spare[bucket] = Some(buffer);
        }
        let spare = self.spare[bucket].take();
        let bucket = &layout.buckets[bucket];
        spare.unwrap_or_else(|| BucketBuffer::new(bucket.precision, bucket.len()))
    }

    /// Lends an averaged bucket to the gradients that will be made of it.
    pub(super) fn lend(&self, bucket: usize, buffer: BucketBuffer) -> HostAverage {
        HostAverage::Lent(Arc::new(Lent {
            bucket,
            buffer,
            home: self.home.clone(),
        }))
    }
}

/// An averaged bucket.
#[derive(Debug)]
pub(super) enum HostAverage {
    /// One of the pool's.
    Lent(Arc<Lent>),
    /// A lone gradient.
    Lone(BucketBuffer),
}

impl HostAverage {
    fn buffer(&self) -> &BucketBuffer {
        match self {
            Self::Lent(lent) => &lent.buffer,
            Self::Lone(buffer) => buffer,
        }
    }

    /// Takes the gradient at a place, in its parameter's own type: a view of the bucket, if that is the
    /// bucket's type too. (What writes to a view in place is given a copy of it.)
    pub(super) fn take(&mut self, at: Range<usize>, shape: &[usize], dtype: DType) -> TensorData {
        let own = self.buffer().dtype();
        match (self, own, dtype) {
            (Self::Lent(lent), DType::F32, DType::F16) => {
                TensorData::new(Vec::<f16>::from_f32_slice(lent.buffer.read(at)), shape)
            }
            (Self::Lent(lent), DType::F32, DType::BF16) => {
                TensorData::new(Vec::<bf16>::from_f32_slice(lent.buffer.read(at)), shape)
            }
            (Self::Lent(lent), ..) => {
                let lent = Arc::clone(lent);
                let view = bytes::Bytes::from_owner(View { lent, at });
                let view = Bytes::from_shared(view, AllocationProperty::Native);
                TensorData::from_bytes(view, shape, own).convert_dtype(dtype)
            }
            (Self::Lone(buffer), ..) => {
                let buffer = std::mem::replace(buffer, BucketBuffer::new(Precision::Single, 0));
                TensorData::from_bytes(buffer.into_memory(), shape, own)
            }
        }
    }

    /// The address of its memory.
    #[cfg(test)]
    pub(super) fn address(&self) -> *const u8 {
        self.buffer().bytes(0..0).as_ptr()
    }
}

/// A bucket's memory while it is lent.
#[derive(Debug)]
pub(super) struct Lent {
    bucket: usize,
    buffer: BucketBuffer,
    home: Sender<(usize, BucketBuffer)>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::replace(&mut self.buffer, BucketBuffer::new(Precision::Single, 0));
        // Where the pool is gone, or is that of another layout, nobody needs it.
        let _ = self.home.send((self.bucket, buffer));
    }
}

/// A part of a bucket that is lent.
struct View {
    lent: Arc<Lent>,
    at: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self.lent.buffer.bytes(self.at.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Bucket, GradientSlot};
    use super::*;
    use burn::tensor::{Device, Tensor};

    /// One bucket of one gradient of three elements.
    fn layout(precision: Precision) -> BucketLayout {
        let slot = GradientSlot {
            parameter: 0,
            offset: 0,
            len: 3,
        };
        BucketLayout {
            buckets: vec![Bucket {
                precision,
                slots: vec![slot],
                flags: vec![0],
                last: false,
            }],
        }
    }

    fn filled(pool: &mut Pool, layout: &BucketLayout, with: f32) -> BucketBuffer {
        let mut buffer = pool.take(layout, 0);
        let data = TensorData::new(vec![with; 3], [3]);
        let data = data.convert_dtype(buffer.dtype());
        buffer.pack(0..3, &data, false).unwrap();
        buffer
    }

    fn tensor(data: TensorData) -> Tensor<1> {
        let dtype = data.dtype();
        Tensor::from_data(data, (&Device::flex(), dtype))
    }

    #[test]
    fn memory_comes_home_with_the_last_gradient() {
        for precision in [Precision::Single, Precision::Double] {
            let layout = layout(precision);
            let mut pool = Pool::new(&layout);
            let buffer = filled(&mut pool, &layout, 7.0);
            let (address, own) = (buffer.bytes(0..3).as_ptr(), buffer.dtype());
            let mut average = pool.lend(0, buffer);
            let gradient = tensor(average.take(0..3, &[3], own));
            drop(average);
            // Held still: the next step's memory is another.
            let other = filled(&mut pool, &layout, 8.0);
            assert_ne!(other.bytes(0..3).as_ptr(), address);
            let held = gradient.clone();
            assert_eq!(gradient.into_data().iter::<f32>().last(), Some(7.0));
            drop(held);
            let again = pool.take(&layout, 0);
            assert_eq!(again.bytes(0..3).as_ptr(), address);
            // New memory is zero.
            assert!(again.bytes(0..3).iter().any(|byte| *byte != 0));
        }
    }

    #[test]
    fn a_gradient_that_is_changed_in_place_leaves_the_others_alone() {
        let layout = layout(Precision::Single);
        let mut pool = Pool::new(&layout);
        let buffer = filled(&mut pool, &layout, 2.0);
        let mut average = pool.lend(0, buffer);
        let mut gradient = || tensor(average.take(0..3, &[3], DType::F32));
        // Alone with its view, the backend would write to it.
        let (scaled, other) = (gradient().mul_scalar(5.0), gradient());
        assert_eq!(
            scaled.into_data().iter::<f32>().collect::<Vec<_>>(),
            [10.0; 3]
        );
        assert_eq!(
            other.into_data().iter::<f32>().collect::<Vec<_>>(),
            [2.0; 3]
        );
    }

    #[test]
    fn a_surplus_and_what_outlives_the_pool_are_dropped() {
        let layout = layout(Precision::Single);
        let mut pool = Pool::new(&layout);
        let lent: Vec<HostAverage> = (0..3)
            .map(|_| {
                let buffer = pool.take(&layout, 0);
                pool.lend(0, buffer)
            })
            .collect();
        drop(lent);
        let last = pool.take(&layout, 0);
        assert!(pool.spare[0].is_none() && pool.returned.is_empty());
        let mut last = pool.lend(0, last);
        drop(pool);
        assert_eq!(last.take(0..0, &[0], DType::F32).num_elements(), 0);
    }

    #[test]
    fn an_empty_gradient_is_a_tensor() {
        let layout = layout(Precision::Single);
        let mut pool = Pool::new(&layout);
        let buffer = filled(&mut pool, &layout, 2.0);
        let mut average = pool.lend(0, buffer);
        let gradient = tensor(average.take(1..1, &[0], DType::F32)).mul_scalar(2.0);
        assert_eq!(gradient.into_data().num_elements(), 0);
    }

    #[test]
    fn half_precision_comes_back() {
        let layout = layout(Precision::Single);
        let mut pool = Pool::new(&layout);
        let buffer = filled(&mut pool, &layout, -6.0);
        let mut average = pool.lend(0, buffer);
        for dtype in [DType::F16, DType::BF16] {
            let data = average.take(0..2, &[2, 1], dtype);
            assert_eq!(
                (data.dtype(), data.shape().as_slice()),
                (dtype, &[2, 1][..])
            );
            assert_eq!(data.iter::<f32>().collect::<Vec<_>>(), [-6.0; 2]);
        }
    }
}
