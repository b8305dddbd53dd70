//! A sum over ranks that has a gradient: forward adds up what all ranks have, backward adds up what all ranks'
//! losses say of the sum.
//!
//! It is a backend extension, as the hooks of `ddp` are: a plain identity on the sum, whose backward step under
//! autodiff asks the other ranks. That step waits for them while Burn holds the lock of its graph; each rank
//! has a graph of its own, so no rank waits for a lock that another holds.
//!
//! Where losses are means over each rank's samples, to be weighed by their numbers `n` when gradients are
//! averaged, rank `r`'s gradient must come out as `Σ n_q g_q / n_r`: weighing it by `n_r` then gives what the
//! loss over all samples says.

use super::counted::counted_on;
use super::fail;
use super::here::{Here, waiting};
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, Dispatch, DispatchKindConversion, DispatchTensor, TensorMetadata, backend_extension,
};
use burn::tensor::{Tensor, TensorData};
use futures_lite::future::block_on;

/// The sum over ranks of a vector that each has.
pub(super) fn rank_sum(own: Tensor<1>, here: &Here) -> Tensor<1> {
    let Some(group) = &here.group else {
        return own;
    };
    let mine = own.clone().detach();
    match waiting(|| group.all_reduce(mine, ReduceOp::Sum)) {
        Ok(sum) => Tensor::from_dispatch(Dispatch::rank_sum(
            own.into_dispatch(),
            sum.into_dispatch(),
            here.clone(),
        )),
        Err(error) => {
            fail(group, &error);
            own
        }
    }
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
trait RankSum: Backend {
    /// Returns `sum`. Under autodiff, its gradient over all ranks becomes that of `own`.
    fn rank_sum(own: FloatTensor<Self>, sum: FloatTensor<Self>, here: Here) -> FloatTensor<Self> {
        let _ = (own, here);
        sum
    }

    /// Returns `tensor`. Under autodiff, its gradient is that of a loss that may count for nothing.
    fn counted_gradient(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        tensor
    }
}

#[cfg(feature = "flex")]
impl RankSum for burn::backend::Flex {}

#[cfg(feature = "cube")]
impl RankSum for burn::backend::Cube {}

impl<B: Backend, C: CheckpointStrategy> RankSum for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn rank_sum(own: FloatTensor<Self>, sum: FloatTensor<Self>, here: Here) -> FloatTensor<Self> {
        let (_, own) = own.into_parts();
        let (sum, untracked) = sum.into_parts();
        match Exchange
            .prepare::<C>([own, untracked])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => prepared.finish(here, sum),
            OpsKind::UnTracked(prepared) => prepared.finish(sum),
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

/// The backward step of [`rank_sum`].
#[derive(Debug)]
struct Exchange;

impl<B: Backend> Backward<B, 2> for Exchange {
    type State = Here;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [Some(own), _] = &ops.parents else {
            return;
        };
        let device = gradient.device();
        let Some(group) = &ops.state.group else {
            return gradients.register::<B>(own.id, gradient);
        };
        let exchanged = block_on(B::float_into_data(gradient.clone()))
            .map_err(|error| Error::Tensor {
                rank: group.global_rank(),
                operation: "reading the gradient of statistics",
                message: format!("{error:?}"),
            })
            .and_then(|data| over_ranks(group, &data, ops.state.samples));
        let gradient = match exchanged {
            Ok(data) => B::float_from_data(data, &device),
            Err(error) => {
                fail(group, &error);
                gradient
            }
        };
        gradients.register::<B>(own.id, gradient);
    }
}

/// What all ranks say of the sum together.
fn over_ranks(
    group: &ProcessGroup,
    gradient: &TensorData,
    samples: Option<usize>,
) -> Result<TensorData> {
    let weight = samples.map_or(1.0, |samples| samples as f64);
    // A rank that does not count has no gradient, even if it computed one that is no number.
    let weighed = |value: f64| if weight > 0.0 { value * weight } else { 0.0 };
    let mut sum: Vec<f64> = gradient.iter::<f64>().map(weighed).collect();
    waiting(|| group.all_reduce(&mut sum, ReduceOp::Sum))?;
    let back = if weight > 0.0 { 1.0 / weight } else { 0.0 };
    let sum: Vec<f64> = sum.into_iter().map(|value| value * back).collect();
    let data = TensorData::new(sum, gradient.shape().clone());
    Ok(data.convert_dtype(gradient.dtype()))
}
