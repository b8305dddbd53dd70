//! A gradient on its way from autodiff to its bucket.
//!
//! A GPU works on what a thread asks of it in one queue a thread, Burn's *stream*, and a thread that uses what
//! another has asked for waits for all that the other has asked for by then. A reducer on a stream of its own
//! would so wait for the rest of backward, which the replica's thread may have asked for long before it is
//! computed. Therefore the reducer runs on a stream that belongs to the two of them, the *lane*, and the
//! replica's thread itself lets the lane wait for each gradient as soon as backward has asked for it: for what
//! was asked for until then and no more.
//!
//! Invariants: what the lane is given is a copy, made on the replica's stream, which nothing writes to any
//! more: the gradient's own memory may also be another's, which backward goes on to write to in place. The
//! lane writes to memory of its own alone. (Burn knows when memory was allocated, and on which stream, not
//! when it was written to: what one stream writes in place, another may miss.)

use super::transfer;
use crate::norm::counted;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Dispatch, DispatchDevice, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::{Slice, StreamId, TensorData};

/// The gradient of one parameter, or a part of its sum, of any shape.
#[derive(Clone, Debug)]
pub(super) struct Gradient(FloatTensor<Dispatch>);

impl Gradient {
    /// Weighs a gradient. On a GPU it is copied on this thread's stream, and the lane waits for the copy.
    pub(super) fn new(tensor: FloatTensor<Dispatch>, weight: f64, lane: StreamId) -> Self {
        if !is_queued(&tensor.device()) {
            return Self(weighed(tensor, weight));
        }
        let copy = if is_nothing(weight) {
            zeros_like(&tensor)
        } else {
            // The second handle keeps the backend from writing to the gradient's own memory.
            Dispatch::float_mul_scalar(counted(tensor.clone()), weight.into())
        };
        Self(awaited(copy, lane))
    }

    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.0.shape().num_elements()
    }

    /// Waits for the device and reads it. The error says what went wrong.
    pub(super) fn read(self) -> Result<TensorData, String> {
        transfer::read(self.0)
    }

    /// As a tensor of its device, for the lane.
    pub(super) fn into_tensor(self) -> FloatTensor<Dispatch> {
        self.0
    }
}

/// A tensor that was allocated on this thread's stream just now, once the lane waits for it: the lane is asked
/// for one element of it.
fn awaited(tensor: FloatTensor<Dispatch>, lane: StreamId) -> FloatTensor<Dispatch> {
    if tensor.shape().num_elements() > 0 {
        // Backwards, which is no mere view of the memory.
        let first = vec![Slice::new(0, Some(1), -1); tensor.shape().num_dims()];
        lane.executes(|| drop(Dispatch::float_slice(tensor.clone(), &first)));
    }
    tensor
}

/// Returns true if a device runs operations later, in the order of streams.
pub(super) fn is_queued(device: &DispatchDevice) -> bool {
    match device {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => false,
        #[allow(
            unreachable_patterns,
            reason = "which patterns exist depends on Burn's features"
        )]
        _ => true,
    }
}

/// Multiplies a gradient by a weight. With weight 0 the result is zero, even for NaN.
pub(super) fn weighed(gradient: FloatTensor<Dispatch>, weight: f64) -> FloatTensor<Dispatch> {
    if is_nothing(weight) {
        return zeros_like(&gradient);
    }
    let gradient = counted(gradient);
    if weight.to_bits() == 1.0_f64.to_bits() {
        gradient
    } else {
        Dispatch::float_mul_scalar(gradient, weight.into())
    }
}

fn is_nothing(weight: f64) -> bool {
    weight.abs().to_bits() == 0
}

fn zeros_like(tensor: &FloatTensor<Dispatch>) -> FloatTensor<Dispatch> {
    Dispatch::float_zeros(tensor.shape(), &tensor.device(), tensor.dtype().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::norm;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn what_counts_for_nothing_is_zero_even_if_it_is_no_number() {
        let of = |weight| {
            let values = [f32::NAN, f32::INFINITY, 2.0];
            let gradient = Tensor::<1>::from_floats(values, &Device::flex());
            let lane = StreamId::allocate();
            let read = Gradient::new(gradient.into_dispatch(), weight, lane).read();
            read.unwrap().try_to_vec::<f32>().unwrap()
        };
        assert_eq!(of(0.0), [0.0; 3]);
        assert_eq!(of(0.5)[1..], [f32::INFINITY, 1.0]);
        assert_eq!(of(1.0)[1..], [f32::INFINITY, 2.0]);
    }

    #[test]
    fn of_a_loss_that_counts_for_nothing_only_numbers_count() {
        let of = |weight| {
            let values = [[f32::NAN, f32::INFINITY], [-f32::INFINITY, 2.0]];
            let gradient = Tensor::<2>::from_floats(values, &Device::flex());
            let lane = StreamId::allocate();
            let read = Gradient::new(gradient.into_dispatch(), weight, lane).read();
            read.unwrap().try_to_vec::<f32>().unwrap()
        };
        norm::set_loss_counts(false);
        assert_eq!(of(1.0), [0.0, 0.0, 0.0, 2.0]);
        assert_eq!(of(0.5), [0.0, 0.0, 0.0, 1.0]);
        norm::set_loss_counts(true);
        assert_eq!(of(1.0)[1..], [f32::INFINITY, -f32::INFINITY, 2.0]);
    }
}
