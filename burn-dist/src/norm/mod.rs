//! Normalisation over the batches of all ranks.
//!
//! - [`SyncBatchNorm`]: the module;
//! - `rank_sum`: a sum over ranks whose gradient counts the samples of each rank;
//! - `counted`: gradients of a loss over nothing;
//! - `here`: the group that a thread's forward passes belong to; [`uncounted`].

mod counted;
mod here;
mod rank_sum;

pub(crate) use counted::{counted, counted_on};
#[cfg(feature = "train")]
pub(crate) use here::counting;
pub use here::uncounted;
pub(crate) use here::{enter, set_loss_counts};

use crate::element::ReduceOp;
use crate::error::Error;
use crate::functional::waiting;
use crate::group::ProcessGroup;
use burn::module::{Flag, Module, Param, RunningState};
use burn::nn::BatchNorm;
use burn::tensor::Tensor;
use here::Here;
use rank_sum::{counted_gradient, rank_sum};

/// Batch normalisation (Ioffe and Szegedy, 2015) whose statistics are those of the batches of all ranks, in
/// forward and in backward, as `torch.nn.SyncBatchNorm`: N ranks with batch B normalise as one with N·B,
/// to rounding. Otherwise it is Burn's [`BatchNorm`], of which it is made, with its records.
///
/// The ranks are those of the group given by [`with_group`](Self::with_group), else all those of the
/// [`launch`](crate::launch) that the thread belongs to, else that thread alone. Every rank must run the same
/// layers in the same order, forward and backward.
///
/// In a loop of your own, ranks may have batches of different sizes, with losses that are weighed so that the
/// mean over ranks of their gradients is right ([`Ddp::weight`](crate::ddp::Ddp::weight)). A batch of no rows
/// counts for nothing, and so does one in [`uncounted`]; if that is all ranks' case, running statistics stay as
/// they are. Rows that are padding would count: leave them out. The strategy of the module `train` does all
/// that itself.
///
/// # Conversion of a model
/// Burn's modules are structs whose fields have the types of their layers, so no function can replace the
/// layers of a model: give the field the type `SyncBatchNorm`, and convert each [`BatchNorm`] with
/// `SyncBatchNorm::from`, which keeps parameters, their ids, and running statistics. Records of the two are
/// the same: a model with one loads what a model with the other has saved. `BatchNorm::from` goes back.
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
    /// True while the layer trains; see [`BatchNorm::training`].
    pub training: Param<Flag>,
    /// The running mean.
    pub running_mean: RunningState<Tensor<1>>,
    /// The running variance.
    pub running_var: RunningState<Tensor<1>>,
    /// Share of each new statistic in the running ones.
    pub momentum: f64,
    /// Number added to variances.
    pub epsilon: f64,
    #[module(skip)]
    group: Option<ProcessGroup>,
}

impl From<BatchNorm> for SyncBatchNorm {
    fn from(norm: BatchNorm) -> Self {
        Self::new(norm)
    }
}

impl From<SyncBatchNorm> for BatchNorm {
    fn from(norm: SyncBatchNorm) -> Self {
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
}

impl SyncBatchNorm {
    /// Makes the layer of one that normalises with its own rank's statistics, with its parameters and state.
    pub fn new(norm: BatchNorm) -> Self {
        Self {
            gamma: norm.gamma,
            beta: norm.beta,
            training: norm.training,
            running_mean: norm.running_mean,
            running_var: norm.running_var,
            momentum: norm.momentum,
            epsilon: norm.epsilon,
            group: None,
        }
    }

    /// Takes the statistics of the ranks of this group, in place of all those of the launch. Each rank gives
    /// its own handle: set the group inside the worker, on a model of its own.
    #[must_use]
    pub fn with_group(mut self, group: &ProcessGroup) -> Self {
        self.group = Some(group.clone());
        self
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
        let here = Here::now(self.group.as_ref());
        let dims = input.dims();
        let features = dims[1];
        let rows = dims.iter().product::<usize>() / features.max(1);
        let (share, total) = share(&here, rows);
        let mut broad = [1; D];
        broad[1] = features;
        // The mean over all ranks of what each has for each feature.
        let mean_of_all =
            |tensor: Tensor<D>| -> Tensor<1> { rank_sum(own_part(tensor, rows, share), &here) };
        let mean = mean_of_all(input.clone());
        let centred = input - mean.clone().reshape(broad);
        // Of the centred numbers, because the difference of two large squares would be all rounding.
        let variance = mean_of_all(centred.clone().square());
        let deviation = variance.clone().add_scalar(self.epsilon).sqrt();
        if total > 0.0 {
            self.take_over(&self.running_mean, mean);
            self.take_over(&self.running_var, variance);
        }
        let scale = self.gamma.val() / deviation;
        counted_gradient(centred * scale.reshape(broad) + self.beta.val().reshape(broad))
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
    group.fault(error.clone());
}

/// The mean of each feature over this rank's rows, times its share in those of all ranks.
fn own_part<const D: usize>(tensor: Tensor<D>, rows: usize, share: f64) -> Tensor<1> {
    let features = tensor.dims()[1];
    let columns = tensor.swap_dims(0, 1).reshape([features, rows]);
    let part = columns.mean_dim(1).reshape([features]);
    if share > 0.0 {
        part.mul_scalar(share)
    } else {
        // Zero even if it is no number, as the mean of no rows. It has a backward step, as the other ranks'.
        let nothing = part.clone().is_finite().bool_not();
        part.mask_fill(nothing, 0.0).mul_scalar(0.0)
    }
}

/// This rank's part of all the numbers that a statistic is of, and how many these are.
fn share(here: &Here, own: usize) -> (f64, f64) {
    let own = if here.counts() { own as f64 } else { 0.0 };
    let Some(group) = &here.group else {
        return (1.0, own);
    };
    let mut total = [own];
    match waiting(|| group.all_reduce(&mut total, ReduceOp::Sum)) {
        Ok(()) => (own / total[0].max(1.0), total[0]),
        Err(error) => {
            fail(group, &error);
            (1.0, own)
        }
    }
}
