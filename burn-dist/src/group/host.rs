//! Tensors in host memory: how they are read, cut, joined and written back.
//!
//! A tensor is read into plain elements and made anew from the result on the device it came from, so
//! this works for every backend. A tensor of an autodiff device is read without its history and comes
//! back on that device as a new leaf that is not tracked.
//!
//! Callers: `tensor`.

use burn::tensor::kind::Numeric;
use burn::tensor::{Bytes, DType, Device, Tensor, TensorData};

use super::ProcessGroup;
use crate::element::Element;
use crate::error::{Departure, Error, Result};

/// Runs `$body` with `$element` as the element type that travels for a dtype; `$other` if none does.
macro_rules! for_elements {
    ($dtype:expr, $element:ident => $body:expr, $other:expr) => {
        match $dtype {
            // Flex32 is f32 in memory, of whatever precision in the device's registers.
            DType::F32 | DType::Flex32 => for_elements!(@ f32, $element, $body),
            DType::F64 => for_elements!(@ f64, $element, $body),
            DType::F16 => for_elements!(@ half::f16, $element, $body),
            DType::BF16 => for_elements!(@ half::bf16, $element, $body),
            DType::I64 => for_elements!(@ i64, $element, $body),
            DType::I32 => for_elements!(@ i32, $element, $body),
            DType::U8 => for_elements!(@ u8, $element, $body),
            _ => $other,
        }
    };
    (@ $type:ty, $element:ident, $body:expr) => {{
        type $element = $type;
        $body
    }};
}
pub(super) use for_elements;

/// A tensor's contents, read into host memory.
pub(super) struct Contents<const D: usize> {
    bytes: Bytes,
    pub(super) origin: Origin<D>,
}

/// Where a tensor came from, and so where its like belongs.
#[derive(Clone)]
pub(super) struct Origin<const D: usize> {
    pub(super) shape: [usize; D],
    pub(super) dtype: DType,
    device: Device,
    /// For errors.
    rank: usize,
    operation: &'static str,
}

impl<const D: usize> Contents<D> {
    /// The elements, of the type that goes with the dtype.
    pub(super) fn elements<T: Element>(self) -> Vec<T> {
        // Memory that was allocated for another alignment has to be copied.
        self.bytes
            .try_into_vec()
            .unwrap_or_else(|bytes| bytemuck::pod_collect_to_vec(&bytes))
    }
}

impl<const D: usize> Origin<D> {
    /// The number of elements.
    pub(super) fn length(&self) -> usize {
        self.shape.iter().product()
    }

    /// A tensor of this device and dtype.
    pub(super) fn tensor<K: Numeric, T: Element>(
        &self,
        elements: Vec<T>,
        shape: [usize; D],
    ) -> Result<Tensor<D, K>> {
        let dtype = self.dtype;
        let data = TensorData::try_from_bytes(Bytes::from_elems(elements), shape, dtype);
        let data = data.map_err(|error| self.failed(error.to_string()))?;
        Ok(Tensor::from_data(data, (&self.device, dtype)))
    }

    /// One tensor of this shape for each part of the elements.
    pub(super) fn tensors<K: Numeric, T: Element>(
        &self,
        elements: &[T],
        parts: usize,
    ) -> Result<Vec<Tensor<D, K>>> {
        let length = self.length();
        (0..parts)
            .map(|part| {
                self.tensor(
                    elements[part * length..(part + 1) * length].to_vec(),
                    self.shape,
                )
            })
            .collect()
    }

    fn failed(&self, message: String) -> Error {
        Error::Tensor {
            rank: self.rank,
            operation: self.operation,
            message,
        }
    }
}

impl ProcessGroup {
    /// Where a tensor comes from.
    pub(super) fn origin<const D: usize, K: Numeric>(
        &self,
        operation: &'static str,
        tensor: &Tensor<D, K>,
    ) -> Origin<D> {
        Origin {
            shape: tensor.dims(),
            dtype: tensor.dtype(),
            device: tensor.device(),
            rank: self.global_rank(),
            operation,
        }
    }

    /// Reads a tensor.
    pub(super) fn contents<const D: usize, K: Numeric>(
        &self,
        operation: &'static str,
        tensor: Tensor<D, K>,
    ) -> Result<Contents<D>> {
        let origin = self.origin(operation, &tensor);
        let data = tensor.try_into_data().map_err(|error| {
            self.unusable(operation, format!("reading the tensor failed: {error}"))
        })?;
        // What was read counts: a backend may keep a dtype in another.
        let origin = Origin {
            dtype: data.dtype(),
            ..origin
        };
        Ok(Contents {
            bytes: data.into_bytes(),
            origin,
        })
    }

    /// Reads tensors of one shape and dtype, one for each rank, one after the other.
    pub(super) fn contents_of_all<const D: usize, K: Numeric, T: Element>(
        &self,
        like: &Origin<D>,
        tensors: Vec<Tensor<D, K>>,
    ) -> Result<Vec<T>> {
        let call = like.operation;
        if tensors.len() != self.world_size() {
            let (found, size) = (tensors.len(), self.world_size());
            let message = format!("{found} tensors were given where {size} ranks need one each");
            return Err(self.refuse(call, message));
        }
        let mut all = Vec::with_capacity(like.length() * tensors.len());
        for (number, tensor) in tensors.into_iter().enumerate() {
            let contents = self.contents(call, tensor)?;
            let found = &contents.origin;
            if found.shape != like.shape || found.dtype != like.dtype {
                let message = format!(
                    "tensor {number} is {:?}{:?} where {:?}{:?} is due",
                    found.dtype, found.shape, like.dtype, like.shape
                );
                return Err(self.refuse(call, message));
            }
            all.extend(contents.elements::<T>());
        }
        Ok(all)
    }

    /// The error for a dtype that can't travel.
    pub(super) fn no_elements(&self, operation: &'static str, dtype: DType) -> Error {
        let message = format!(
            "tensors of dtype {dtype:?} can't travel; cast to F32, F64, F16, BF16, I64, I32 or U8"
        );
        self.unusable(operation, message)
    }

    /// The error of a tensor that can't be used, of which the other ranks are told.
    fn unusable(&self, operation: &'static str, message: String) -> Error {
        let error = Error::Tensor {
            rank: self.global_rank(),
            operation,
            message,
        };
        let reason = Departure::Failed(error.to_string().into());
        self.core().meeting.fail(Error::PeerLeft {
            peer: self.global_rank(),
            reason,
            call: None,
        });
        error
    }
}
