//! One bucket as benches see it.

use super::buffer::BucketBuffer;
use super::layout::{Bucket, BucketLayout, GradientSlot, Precision};
use super::pool::{HostAverage, Pool};
use burn::tensor::{DType, TensorData};

/// A bucket of one gradient, which is averaged in f32.
#[derive(Debug)]
pub(crate) struct BenchedBucket {
    length: usize,
    pool: Pool,
    buffer: BucketBuffer,
}

/// The same, averaged.
#[derive(Debug)]
pub(crate) struct BenchedAverage {
    length: usize,
    average: HostAverage,
}

impl BenchedBucket {
    pub(crate) fn new(length: usize) -> Self {
        let slot = GradientSlot {
            parameter: 0,
            offset: 0,
            len: length,
        };
        let layout = BucketLayout {
            buckets: vec![Bucket {
                precision: Precision::Single,
                slots: vec![slot],
                flags: vec![0],
                last: false,
            }],
        };
        let mut pool = Pool::new(&layout);
        let buffer = pool.take(&layout, 0);
        Self {
            length,
            pool,
            buffer,
        }
    }

    pub(crate) fn pack(&mut self, gradient: &TensorData) -> Result<(), String> {
        self.buffer.pack(0..self.length, gradient, false)
    }

    pub(crate) fn lend(self) -> BenchedAverage {
        BenchedAverage {
            length: self.length,
            average: self.pool.lend(0, self.buffer),
        }
    }
}

impl BenchedAverage {
    pub(crate) fn unpack(&mut self, dtype: DType) -> TensorData {
        self.average.take(0..self.length, &[self.length], dtype)
    }
}
