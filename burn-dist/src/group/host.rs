//! Tensors in host memory: how they are read, cut, joined and written back.
//!
//! A tensor is read into plain elements and made anew from the result on the device it came from, so
//! this works for every backend. A tensor of an autodiff device is read without its history and comes
//! back on that device as a new leaf that is not tracked.

#[cfg(feature = "flex")]
use std::ops::ControlFlow;

use burn::tensor::kind::Basic;
use burn::tensor::{AllocationProperty, BoolStore, Bytes, DType, Device, Tensor, TensorData};

use super::ProcessGroup;
use super::call::BOOL;
use crate::collective::Reduced;
use crate::element::Element;
use crate::error::{Departure, Error, Result};
use crate::shared_memory::Input;

/// Runs `$body` with `$element` as the element type that travels for a dtype; `$other` if none does.
macro_rules! for_elements {
    ($dtype:expr, $element:ident => $body:expr, $other:expr) => {
        match $dtype {
            // Flex32 is f32 in memory, of whatever precision in the device's registers.
            burn::tensor::DType::F32 | burn::tensor::DType::Flex32 => for_elements!(@ f32, $element, $body),
            burn::tensor::DType::F64 => for_elements!(@ f64, $element, $body),
            burn::tensor::DType::F16 => for_elements!(@ half::f16, $element, $body),
            burn::tensor::DType::BF16 => for_elements!(@ half::bf16, $element, $body),
            burn::tensor::DType::I64 => for_elements!(@ i64, $element, $body),
            burn::tensor::DType::I32 => for_elements!(@ i32, $element, $body),
            burn::tensor::DType::U8 | burn::tensor::DType::Bool(_) => for_elements!(@ u8, $element, $body),
            _ => $other,
        }
    };
    (@ $type:ty, $element:ident, $body:expr) => {{
        type $element = $type;
        $body
    }};
}
pub(super) use for_elements;

/// A tensor's contents in host memory.
pub(super) struct Contents<const D: usize> {
    held: Held,
    pub(super) origin: Origin<D>,
}

/// Memory of a tensor, its own or shared with other tensors.
enum Held {
    /// Its own.
    Own(Bytes),
    /// Other tensors of the CPU backend: it can be read without a copy.
    #[cfg(feature = "flex")]
    Shared(FlexTensor),
}

#[cfg(feature = "flex")]
type FlexTensor = burn::backend::tensor::FloatTensor<burn::backend::Flex>;

/// Origin of a tensor, which results of its kind go back to.
#[derive(Clone)]
pub(super) struct Origin<const D: usize> {
    pub(super) shape: [usize; D],
    pub(super) dtype: DType,
    device: Device,
    /// For errors.
    rank: usize,
    pub(super) operation: &'static str,
}

impl<const D: usize> Contents<D> {
    /// The elements, of the type that goes with the dtype.
    pub(super) fn elements<T: Element>(self) -> Vec<T> {
        self.lend(|given: Input<'_, T>| match given {
            Input::Own(elements) => elements,
            Input::Borrowed(elements) => elements.to_vec(),
        })
    }

    /// As [`Self::elements`], copied only if `work` needs them for its own.
    pub(super) fn lend<T: Element, R>(self, work: impl FnOnce(Input<'_, T>) -> R) -> R {
        match self.held {
            Held::Own(bytes) => {
                let elements = bytes.try_into_vec();
                // Memory that was allocated for another alignment has to be copied.
                work(Input::Own(elements.unwrap_or_else(|bytes| {
                    bytemuck::pod_collect_to_vec(&bytes)
                })))
            }
            #[cfg(feature = "flex")]
            Held::Shared(tensor) => {
                let bytes = contiguous(&tensor);
                match bytes.map(bytemuck::try_cast_slice) {
                    Some(Ok(elements)) => work(Input::Borrowed(elements)),
                    _ => work(Input::Own(bytemuck::pod_collect_to_vec(
                        &tensor.into_data().into_bytes(),
                    ))),
                }
            }
        }
    }
}

/// The bytes of a tensor's elements, if they lie one after the other.
#[cfg(feature = "flex")]
fn contiguous(tensor: &FlexTensor) -> Option<&[u8]> {
    let (start, end) = tensor.layout().contiguous_offsets()?;
    let size = tensor.dtype().size();
    tensor.bytes().get(start * size..end * size)
}

impl<const D: usize> Origin<D> {
    /// Returns the origin of a rank's tensor in an operation.
    pub(super) fn of<K: Basic>(
        tensor: &Tensor<D, K>,
        rank: usize,
        operation: &'static str,
    ) -> Self {
        Self {
            shape: tensor.dims(),
            dtype: tensor.dtype(),
            device: tensor.device(),
            rank,
            operation,
        }
    }

    /// The number of elements.
    pub(super) fn length(&self) -> usize {
        self.shape.iter().product()
    }

    /// The dtype and shape as ranks compare them.
    pub(super) fn signature<T: Element>(&self) -> (&'static str, &[usize]) {
        let is_bool = matches!(self.dtype, DType::Bool(_));
        (if is_bool { BOOL } else { T::NAME }, &self.shape)
    }

    /// A tensor of this device and dtype.
    pub(super) fn tensor<K: Basic, T: Element>(
        &self,
        elements: Vec<T>,
        shape: [usize; D],
    ) -> Result<Tensor<D, K>> {
        self.tensor_of(Bytes::from_elems(elements), shape)
    }

    /// A tensor of this shape, device and dtype. (What writes to one of shared memory in place is given
    /// a copy of it.)
    pub(super) fn reduced<K: Basic, T: Element>(
        &self,
        reduced: Reduced<T>,
    ) -> Result<Tensor<D, K>> {
        let bytes = match reduced {
            Reduced::Own(elements) => Bytes::from_elems(elements),
            Reduced::Shared(bytes) => Bytes::from_shared(bytes, AllocationProperty::Native),
        };
        self.tensor_of(bytes, self.shape)
    }

    fn tensor_of<K: Basic>(&self, bytes: Bytes, shape: [usize; D]) -> Result<Tensor<D, K>> {
        let dtype = self.dtype;
        let stored = match dtype {
            DType::Bool(_) => DType::Bool(BoolStore::U8),
            dtype => dtype,
        };
        let data = TensorData::try_from_bytes(bytes, shape, stored);
        let data = data.map_err(|error| self.failed(error.to_string()))?;
        Ok(Tensor::from_data(data, (&self.device, dtype)))
    }

    /// One tensor of this shape for each part of the elements.
    pub(super) fn tensors<K: Basic, T: Element>(
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

    pub(super) fn failed(&self, message: String) -> Error {
        Error::Tensor {
            rank: self.rank,
            operation: self.operation,
            message,
        }
    }
}

/// Waits until what was read of a tensor is in host memory: GPUs give it only when it is used. The error says
/// what went wrong.
pub(crate) fn in_memory(data: &TensorData) -> std::result::Result<(), String> {
    #[expect(clippy::default_trait_access, reason = "Burn does not export the type")]
    let read = data.bytes().read(Default::default());
    read.map(|_| ()).map_err(|error| error.to_string())
}

impl ProcessGroup {
    /// Returns the tensor of rank `root`, of any kind and dtype, to the bit, on this rank's device. Its bytes are
    /// sent as they are, so it must be as long as this rank's.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that can't be read; otherwise see [the calls](Self#errors-of-all-calls).
    pub(crate) fn broadcast_any<const D: usize, K: Basic>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
    ) -> Result<Tensor<D, K>> {
        let call = "broadcast";
        let (device, dtype) = (tensor.device(), tensor.dtype());
        let unreadable = |error| self.unusable(call, format!("reading the tensor failed: {error}"));
        let data = tensor.try_into_data();
        let data = data.map_err(|error| unreadable(error.to_string()))?;
        let (mut bytes, shape, read) = data.into_parts();
        #[expect(clippy::default_trait_access, reason = "Burn does not export the type")]
        let writable = bytes.write(Default::default());
        let writable = writable.map_err(|error| unreadable(error.to_string()))?;
        self.broadcast(writable, root)?;
        let data = TensorData::try_from_bytes(bytes, shape, read);
        let data = data.map_err(|error| unreadable(error.to_string()))?;
        Ok(Tensor::from_data(data, (&device, dtype)))
    }
}

impl<M> ProcessGroup<M> {
    /// Returns the origin of a tensor of this rank.
    pub(super) fn origin<const D: usize, K: Basic>(
        &self,
        operation: &'static str,
        tensor: &Tensor<D, K>,
    ) -> Origin<D> {
        Origin::of(tensor, self.global_rank(), operation)
    }

    /// Reads a tensor.
    pub(super) fn contents<const D: usize, K: Basic>(
        &self,
        operation: &'static str,
        tensor: Tensor<D, K>,
    ) -> Result<Contents<D>> {
        let origin = self.origin(operation, &tensor);
        #[cfg(feature = "flex")]
        let tensor = match shared(tensor) {
            ControlFlow::Break(tensor) => {
                let held = Held::Shared(tensor);
                return Ok(Contents { held, origin });
            }
            ControlFlow::Continue(tensor) => tensor,
        };
        let data = tensor.try_into_data().map_err(|error| error.to_string());
        // Now, not when its elements are first used: whoever calls may write to the tensor in place by then.
        let data = data.and_then(|data| in_memory(&data).map(|()| data));
        let data = data.map_err(|error| {
            self.unusable(operation, format!("reading the tensor failed: {error}"))
        })?;
        // What was read counts: a backend may keep a dtype in another.
        let origin = Origin {
            dtype: data.dtype(),
            ..origin
        };
        // One byte for each, whatever the backend takes.
        let data = match origin.dtype {
            DType::Bool(_) => data.convert_dtype(DType::Bool(BoolStore::U8)),
            _ => data,
        };
        Ok(Contents {
            held: Held::Own(data.into_bytes()),
            origin,
        })
    }

    /// Reads tensors of one shape and dtype, one for each rank, one after the other.
    pub(super) fn contents_of_all<const D: usize, K: Basic, T: Element>(
        &self,
        like: &Origin<D>,
        tensors: Vec<Tensor<D, K>>,
    ) -> Result<Vec<T>> {
        let call = like.operation;
        self.check_count(call, tensors.len())?;
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
        self.core().state.fail(Error::PeerLeft {
            peer: self.global_rank(),
            reason,
            call: None,
        });
        error
    }
}

/// A tensor of the CPU backend whose memory other tensors have too; any other goes on as it is.
#[cfg(feature = "flex")]
fn shared<const D: usize, K: Basic>(tensor: Tensor<D, K>) -> ControlFlow<FlexTensor, Tensor<D, K>> {
    use burn::backend::{BackendTensor, DispatchTensor, DispatchTensorKind};
    let DispatchTensor { kind, autodiff } = tensor.into_dispatch();
    match kind {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor) | BackendTensor::Int(tensor))
            if !tensor.is_unique() =>
        {
            ControlFlow::Break(tensor)
        }
        kind => ControlFlow::Continue(Tensor::from_dispatch(DispatchTensor { kind, autodiff })),
    }
}
