//! Normalisation over the batches of all ranks.
//!
//! - [`SyncBatchNorm`]: the module;
//! - `rank_sum`: a sum over ranks that has a gradient;
//! - `here`: the group that a thread's forward passes belong to.
//!
//! Callers: models; `launch` and `train` say which group it is.

mod here;
mod rank_sum;

#[cfg(feature = "train")]
pub(crate) use here::counting;
pub(crate) use here::{enter, waited};

use crate::element::ReduceOp;
use crate::error::Error;
use crate::group::ProcessGroup;
use burn::module::{Flag, Module, Param, RunningState};
use burn::nn::BatchNorm;
use burn::tensor::Tensor;
use here::Here;
use rank_sum::rank_sum;

/// Batch normalisation (Ioffe and Szegedy, 2015) whose statistics are those of the batches of all ranks, in
/// forward and in backward, as `torch.nn.SyncBatchNorm`: N ranks with batch B normalise as one with N·B,
/// to rounding. Otherwise it is Burn's [`BatchNorm`], of which it is made, with its records.
///
/// The ranks are all those of the [`launch`](crate::launch) that the thread belongs to, and no part of them:
/// where groups of ranks train models of their own, use [`BatchNorm`]. Elsewhere it is that thread alone. Every rank must run the same layers in the same order, forward and backward. In a
/// loop of your own, ranks may have batches of different sizes, with losses that are weighed so that the
/// mean over ranks of their gradients is right; the strategy of the module `train` does that itself.
///
/// A failure of the group can't be returned from a forward pass: what the layer gives then means nothing, and
/// the next call of this rank on the group or one made of it, such as
/// [`Ddp::synchronize`](crate::ddp::Ddp::synchronize), returns the failure.
///
/// ```
/// use burn::{nn::BatchNormConfig, tensor::{Device, Tensor}};
/// use burn_dist::{launch::launch, norm::SyncBatchNorm};
///
/// let outputs = launch(vec![Device::flex().autodiff(); 2], |worker| {
///     let norm = SyncBatchNorm::new(BatchNormConfig::new(1).init(worker.device()));
///     let rank = worker.rank() as f32;
///     let input = Tensor::<2>::from_data([[rank], [rank]], worker.device());
///     Ok::<_, burn_dist::Error>(norm.forward(input).mean().into_scalar::<f32>().round())
/// })?;
/// assert_eq!(outputs, [-1.0, 1.0]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct SyncBatchNorm {
    /// The learnable scale.
    pub gamma: Param<Tensor<1>>,
    /// The learnable offset.
    pub beta: Param<Tensor<1>>,
    /// Whether the layer trains; see [`BatchNorm::training`].
    pub training: Param<Flag>,
    /// The running mean.
    pub running_mean: RunningState<Tensor<1>>,
    /// The running variance.
    pub running_var: RunningState<Tensor<1>>,
    /// How much of each new statistic the running ones take over.
    pub momentum: f64,
    /// What is added to variances.
    pub epsilon: f64,
}

impl SyncBatchNorm {
    /// Of a layer that normalises with its own rank's statistics, with its parameters and state.
    pub fn new(norm: BatchNorm) -> Self {
        Self {
            gamma: norm.gamma,
            beta: norm.beta,
            training: norm.training,
            running_mean: norm.running_mean,
            running_var: norm.running_var,
            momentum: norm.momentum,
            epsilon: norm.epsilon,
        }
    }

    /// Normalises `[batch, features, ...]`: in training with the statistics of all ranks' batches, else with
    /// the running ones.
    ///
    /// # Panics
    /// If the input has fewer than two dimensions, or another number of features.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let device = input.device();
        if device.is_autodiff() && self.training.is_enabled() {
            return self.normalise(input);
        }
        let state = |state: &RunningState<Tensor<1>>| state.value().to_device(&device);
        burn::tensor::module::batch_norm(
            input,
            self.gamma.val(),
            self.beta.val(),
            state(&self.running_mean),
            state(&self.running_var),
            self.epsilon,
        )
    }

    fn normalise<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let here = Here::now();
        let dims = input.dims();
        let features = dims[1];
        let share = share(&here, dims.iter().product::<usize>() / features);
        let mut broad = [1; D];
        broad[1] = features;
        // The mean over all ranks of what each has for each feature.
        let mean_of_all = |tensor: Tensor<D>| -> Tensor<1> {
            let rows = tensor.swap_dims(0, 1).reshape([features as i64, -1]);
            let mean = rows.mean_dim(1).reshape([features]);
            rank_sum(mean.mul_scalar(share), &here)
        };
        let mean = mean_of_all(input.clone());
        let centred = input - mean.clone().reshape(broad);
        // Of the centred numbers, because the difference of two large squares would be all rounding.
        let variance = mean_of_all(centred.clone().square());
        let deviation = variance.clone().add_scalar(self.epsilon).sqrt();
        self.take_over(&self.running_mean, mean);
        self.take_over(&self.running_var, variance);
        let scale = self.gamma.val() / deviation;
        centred * scale.reshape(broad) + self.beta.val().reshape(broad)
    }

    /// Moves a running statistic towards this step's.
    fn take_over(&self, state: &RunningState<Tensor<1>>, new: Tensor<1>) {
        let new = new.detach();
        let old = state.value_sync().to_device(&new.device());
        let moved = old.mul_scalar(1.0 - self.momentum) + new.mul_scalar(self.momentum);
        state.update(moved.detach());
    }
}

/// Ends this rank's groups with a failure that a pass can't return: whatever it calls next returns it, and the
/// others, which are one operation ahead or wait for this rank, hear of it.
fn fail(group: &ProcessGroup, error: &Error) {
    tracing::warn!("statistics over all ranks failed: {error}");
    group.fail(error);
}

/// This rank's part of all the numbers that a statistic is of.
fn share(here: &Here, own: usize) -> f64 {
    let own = if here.counts() { own as f64 } else { 0.0 };
    let mut total = [own];
    let Some(group) = &here.group else {
        return 1.0;
    };
    match here::waiting(|| group.all_reduce(&mut total, ReduceOp::Sum)) {
        Ok(()) => own / total[0].max(1.0),
        Err(error) => {
            fail(group, &error);
            1.0
        }
    }
}
