//! The sum over ranks of statistics, and the gradients of losses that are means over samples.
//!
//! Where losses are means over each rank's samples, to be weighed by their numbers `n` when gradients are
//! averaged, rank `r`'s gradient must come out as `Σ n_q g_q / n_r`: weighing it by `n_r` then gives what the
//! loss over all samples says. So gradients are multiplied by `n` before they are added up over the ranks, and divided
//! by it afterwards.

use super::counted::counted_on;
use super::fail;
use super::here::Here;
use crate::element::ReduceOp;
use crate::functional;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, Dispatch, DispatchKindConversion, DispatchTensor, TensorMetadata, backend_extension,
};
use burn::tensor::{DType, Tensor};

/// Returns the sum over ranks of a vector that each has.
pub(super) fn rank_sum(own: Tensor<1>, here: &Here) -> Tensor<1> {
    let Some(group) = &here.group else {
        return own;
    };
    let samples = here.samples.map(|samples| samples as f64);
    let inverse = samples.map(|samples| if samples > 0.0 { 1.0 / samples } else { 0.0 });
    // Numbers of samples times gradients leave the range of 16 bits.
    let dtype = own.dtype();
    let is_half = matches!(dtype, DType::F16 | DType::BF16);
    let widen = |tensor: Tensor<1>| {
        if is_half {
            tensor.cast(DType::F32)
        } else {
            tensor
        }
    };
    let part = weighed(widen(own.clone()), inverse);
    match functional::all_reduce(group, part, ReduceOp::Sum) {
        Ok(sum) if is_half => weighed(sum, samples).cast(dtype),
        Ok(sum) => weighed(sum, samples),
        Err(error) => {
            fail(group, &error);
            own
        }
    }
}

/// Returns the tensor; its gradient is multiplied by the weight, if there is one.
fn weighed(tensor: Tensor<1>, weight: Option<f64>) -> Tensor<1> {
    let Some(weight) = weight else {
        return tensor;
    };
    Tensor::from_dispatch(Dispatch::gradient_times(tensor.into_dispatch(), weight))
}

/// Returns the tensor. What is no number in its gradient becomes zero where this rank's loss counts for nothing,
/// so that it does not reach statistics, and with them other ranks.
pub(super) fn counted_gradient<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::counted_gradient(tensor.into_dispatch()))
}

#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    Autodiff
)]
trait GradientOps: Backend {
    /// Returns `tensor`. Under autodiff, its gradient is multiplied by `weight`; it is zero if that is 0.
    fn gradient_times(tensor: FloatTensor<Self>, weight: f64) -> FloatTensor<Self> {
        let _ = weight;
        tensor
    }

    /// Returns `tensor`. Under autodiff, its gradient is that of a loss that may count for nothing.
    fn counted_gradient(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        tensor
    }
}

#[cfg(feature = "flex")]
impl GradientOps for burn::backend::Flex {}

#[cfg(feature = "cube")]
impl GradientOps for burn::backend::Cube {}

impl<B: Backend, C: CheckpointStrategy> GradientOps for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn gradient_times(tensor: FloatTensor<Self>, weight: f64) -> FloatTensor<Self> {
        let (tensor, node) = tensor.into_parts();
        match Times.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(weight, tensor),
            OpsKind::UnTracked(prepared) => prepared.finish(tensor),
        }
    }

    fn counted_gradient(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let (tensor, node) = tensor.into_parts();
        let prepared = Counted.prepare::<C>([node]).compute_bound();
        prepared.stateless(tensor)
    }
}

/// The backward step of [`counted_gradient`].
#[derive(Debug)]
struct Counted;

impl<B: Backend> Backward<B, 1> for Counted
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = ();

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = counted_on::<B>(gradients.consume::<B>(&ops.node));
        if let [Some(parent)] = &ops.parents {
            gradients.register::<B>(parent.id, gradient);
        }
    }
}

/// The backward step of a gradient that is multiplied by a number.
#[derive(Debug)]
struct Times;

impl<B: Backend> Backward<B, 1> for Times {
    type State = f64;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [Some(parent)] = &ops.parents else {
            return;
        };
        let gradient = if ops.state > 0.0 {
            B::float_mul_scalar(gradient, ops.state.into())
        } else {
            // A rank that does not count has no gradient, even if it computed one that is no number.
            let (shape, device, dtype) = (gradient.shape(), gradient.device(), gradient.dtype());
            B::float_zeros(shape, &device, dtype.into())
        };
        gradients.register::<B>(parent.id, gradient);
    }
}
