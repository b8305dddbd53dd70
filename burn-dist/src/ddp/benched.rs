//! One bucket as benches see it.
//!
//! Callers: `kernels`.

use super::buffer::Buffer;
use super::layout::{Bucket, Precision, Slot};
use burn::tensor::{DType, TensorData};

/// A bucket of one gradient, which is averaged in f32.
#[derive(Debug)]
pub(crate) struct BenchedBucket {
    length: usize,
    buffer: Buffer,
}

impl BenchedBucket {
    pub(crate) fn new(length: usize) -> Self {
        let slot = Slot {
            parameter: 0,
            offset: 0,
            len: length,
        };
        let buffer = Buffer::new(&Bucket {
            precision: Precision::Single,
            slots: vec![slot],
        });
        Self { length, buffer }
    }

    pub(crate) fn pack(&mut self, gradient: &TensorData) -> Result<(), String> {
        self.buffer.pack(0..self.length, gradient, false)
    }

    pub(crate) fn unpack(&self, dtype: DType) -> TensorData {
        self.buffer.unpack(0..self.length, &[self.length], dtype)
    }
}
