//! The sum over ranks of statistics, and the gradients of losses that are means over samples.
//!
//! Where losses are means over each rank's samples, to be weighed by their numbers `n` when gradients are
//! averaged, rank `r`'s gradient must come out as `Σ n_q g_q / n_r`: weighing it by `n_r` then gives what the
//! loss over all samples says. So gradients are multiplied by `n` before they are added up over the ranks, and divided
//! by it afterwards.

use super::counted::counted_on;
use super::fail;
use super::here::Here;
use crate::autodiff::{BackwardStep, GradientOps};
use crate::element::ReduceOp;
use crate::functional;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchKindConversion, DispatchTensor, TensorMetadata};
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
    Tensor::from_dispatch(Dispatch::with_step(tensor.into_dispatch(), Weight(weight)))
}

/// Returns the tensor. What is no number in its gradient becomes zero where this rank's loss counts for nothing,
/// so that it does not reach statistics, and with them other ranks.
pub(super) fn counted_gradient<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::with_step(tensor.into_dispatch(), Counted))
}

/// The backward step of [`counted_gradient`].
#[derive(Clone, Debug)]
struct Counted;

impl BackwardStep for Counted {
    fn map<B: Backend>(&self, gradient: FloatTensor<B>) -> FloatTensor<B>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        counted_on::<B>(gradient)
    }
}

/// The backward step of [`weighed`]: multiplies the gradient by a number.
#[derive(Clone, Debug)]
struct Weight(f64);

impl BackwardStep for Weight {
    fn map<B: Backend>(&self, gradient: FloatTensor<B>) -> FloatTensor<B>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        if self.0 > 0.0 {
            return B::float_mul_scalar(gradient, self.0.into());
        }
        // A rank that does not count has no gradient, even if it computed one that is no number.
        let (shape, device, dtype) = (gradient.shape(), gradient.device(), gradient.dtype());
        B::float_zeros(shape, &device, dtype.into())
    }
}
