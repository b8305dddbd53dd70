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
//!
//! Callers: [`SyncBatchNorm`](super::SyncBatchNorm).

use super::here::Here;
use crate::element::ReduceOp;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};
use futures_lite::future::block_on;

/// The sum over ranks of a vector that each has.
pub(super) fn rank_sum(own: Tensor<1>, here: &Here) -> Tensor<1> {
    let Some(group) = &here.group else {
        return own;
    };
    match group.all_reduce_tensor(own.clone().detach(), ReduceOp::Sum) {
        Ok(sum) => Tensor::from_dispatch(Dispatch::rank_sum(
            own.into_dispatch(),
            sum.into_dispatch(),
            here.clone(),
        )),
        Err(error) => {
            report(&error);
            own
        }
    }
}

/// The group keeps its first failure, and whoever calls it next gets that.
fn report(error: &dyn std::fmt::Display) {
    tracing::debug!("statistics stay those of this rank: {error}");
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
}

#[cfg(feature = "flex")]
impl RankSum for burn::backend::Flex {}

#[cfg(feature = "cube")]
impl RankSum for burn::backend::Cube {}

impl<B: Backend, C: CheckpointStrategy> RankSum for Autodiff<B, C> {
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
}

/// The backward step.
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
        let exchanged = block_on(B::float_into_data(gradient.clone()))
            .map_err(|error| report(&error))
            .ok()
            .and_then(|data| over_ranks(&data, &ops.state));
        let gradient = match exchanged {
            Some(data) => B::float_from_data(data, &device),
            None => gradient,
        };
        gradients.register::<B>(own.id, gradient);
    }
}

/// What all ranks say of the sum together; `None` if the group has failed.
fn over_ranks(gradient: &TensorData, here: &Here) -> Option<TensorData> {
    let group = here.group.as_ref()?;
    let weight = here.samples.map_or(1.0, |samples| samples as f64);
    let mut sum: Vec<f64> = gradient.iter::<f64>().map(|value| value * weight).collect();
    if let Err(error) = group.all_reduce(&mut sum, ReduceOp::Sum) {
        report(&error);
        return None;
    }
    // A rank that does not count has no gradient.
    let back = if weight > 0.0 { 1.0 / weight } else { 0.0 };
    let sum: Vec<f64> = sum.into_iter().map(|value| value * back).collect();
    let data = TensorData::new(sum, gradient.shape().clone());
    Some(data.convert_dtype(gradient.dtype()))
}
