//! The inner kernels one by one: what a rank's core does with every gradient, for the benches in
//! `kernels/`.
//!
//! Nothing here is part of the library: it is compiled with the feature `bench` only.

use burn::tensor::{DType, TensorData};

use crate::collective::reduce_slices;
use crate::ddp::{BenchedAverage, BenchedBucket};
use crate::element::{Element, ReduceOp};

/// Reduces the slices of all ranks into `target`, as one rank does with its segment. All are of one length.
pub fn reduce<T: Element>(op: ReduceOp, sources: &[&[T]], target: &mut [T]) {
    reduce_slices(op, sources, target);
}

/// A bucket of one gradient, which is averaged in f32.
#[derive(Debug)]
pub struct Bucket(BenchedBucket);

impl Bucket {
    /// For a gradient of so many elements.
    pub fn new(length: usize) -> Self {
        Self(BenchedBucket::new(length))
    }

    /// Packs the gradient.
    ///
    /// # Errors
    /// Its length is another.
    pub fn pack(&mut self, gradient: &TensorData) -> Result<(), String> {
        self.0.pack(gradient)
    }

    /// Lends it, as a bucket that was averaged.
    #[must_use]
    pub fn lend(self) -> Average {
        Average(self.0.lend())
    }
}

/// A bucket that was averaged.
#[derive(Debug)]
pub struct Average(BenchedAverage);

impl Average {
    /// The gradient as elements of this type: a view where that is the bucket's type.
    pub fn unpack(&mut self, dtype: DType) -> TensorData {
        self.0.unpack(dtype)
    }
}
