//! Training with burn-train on all ranks: `Learner` and `SupervisedTraining` as they are, with a strategy that
//! runs one replica a device.
//!
//! ```no_run
//! # use burn::{data::{dataloader::batcher::Batcher, dataset::InMemDataset}, tensor::{Device, Tensor}};
//! # use burn::train::{InferenceStep, Learner, LearnerModel, RegressionOutput, SupervisedTraining, TrainStep};
//! use burn_dist::train::{DataLoaderBuilder, Distributed};
//!
//! # fn example<M, B>(learner: Learner<M>, batcher: B, items: InMemDataset<f32>)
//! # where
//! #     M: LearnerModel + TrainStep<Input = Tensor<2>, Output = RegressionOutput>
//! #         + InferenceStep<Input = Tensor<2>, Output = RegressionOutput>,
//! #     B: Batcher<f32, Tensor<2>> + Clone + 'static,
//! # {
//! let loader = DataLoaderBuilder::new(batcher).global_batch_size(64).shuffle(42).build(items);
//! let result = SupervisedTraining::new("runs/a", loader.clone(), loader)
//!     .num_epochs(3)
//!     .with_training_strategy(Distributed::new(vec![Device::flex().autodiff(); 2]).into())
//!     .launch(learner);
//! # }
//! ```
//!
//! # What equals what
//!
//! | on one device | on all ranks |
//! |---|---|
//! | a batch of [`DataLoaderBuilder`] | with `global_batch_size`, its samples shared among the ranks; with `batch_size`, one of that size on each rank (see [batch sizes](crate::data#batch-sizes)) |
//! | a batch of another loader | one on each rank, from the rank's own slice of the data set, as in Burn's own strategies |
//! | gradients of a batch's mean loss | the mean over all samples of the step: ranks weigh by their samples. For a loss that is a mean over anything else (tokens that are not padding, weights of classes), say by what: [`Distributed::with_loss_count`], or [`GatherOutput::LOSS_OVER`]. (A loss that is a sum is averaged as well: divide it by what it sums.) burn-train's `SequenceOutput` is refused without. A rank whose loss counted nothing contributes nothing, even if its loss is NaN |
//! | metrics | what rank 0 computes from the outputs of all ranks, put together by [`GatherOutput`] before any metric sees them: every metric, with a state or without, has one device's value, to rounding |
//! | gradient accumulation | sums on each rank, averaged over the ranks once, with the last pass |
//! | schedulers | every rank has its own, stepped at the same steps |
//! | running statistics of `BatchNorm` | the mean over ranks, taken at the end of each epoch's training; a rank's forward pass normalises with its own share of the batch. (Where a rank has no batch left while others do, the pass that it runs with them counts for nothing, but moves its statistics) |
//! | statistics of [`SyncBatchNorm`](crate::norm::SyncBatchNorm) | those of the whole batch, forward and backward |
//! | early stopping | decided by rank 0, from its metrics |
//! | checkpoints | written by rank 0; `checkpoint(n)` reads on every process, so all must see the folder |
//! | `Interrupter` | whichever process it was pulled in: all ranks stop at the same step, with its reason |
//! | outputs with a length of their own (`SequenceOutput`) | where the ranks' lengths differ, metrics see one output for each run of ranks with one length, all with the loss of the whole batch: several values a pass |
//! | large outputs | rank 0 holds what one device would have; [`Distributed::with_train_metrics_every`] has them gathered less often in training |
//! | random numbers | [`random`](crate::random): each rank has a stream of its own for each epoch |
//! | resuming | `checkpoint(n)` goes on with the order of samples and the random numbers of epoch n + 1, as if nothing had ended (burn-train's own strategies begin with the order of epoch 1 again) |
//! | settings | compared when training begins: epochs, accumulation, and of the loaders the number of samples, batch size and seed must be the same on all ranks |
//! | renderer, loggers | rank 0 alone. (With the feature `tui`, `SupervisedTraining` opens the dashboard before it asks the strategy: on a terminal of its own, give other processes `renderer(Box::new(CliMetricsRenderer::new()))`) |
//! | stragglers, times of steps | rank 0's [`StepMonitor`](crate::observe::StepMonitor): warnings, and with the feature `observe` the outputs given to the strategy |
//!
//! A rank that fails (its data, its device, a panic in a step) ends all ranks;
//! `LearningResult::error` says what happened, and the model is the one that training began with.
//!
//! # How it runs
//!
//! Each process of a job runs the same program; the strategy starts the replicas of its process, each on a
//! thread (see [`launch`](crate::launch)). One file one concern:
//!
//! - `strategy`: what burn-train calls; `replica`: the loop of one rank; `pass`: a pass of it; `root`: what rank 0 has besides;
//! - `agree`: what the ranks tell one another before each pass; `pace`: how fast each goes;
//! - `loader`: the builder of loaders that know their rank, by `place`; `shares`: any loader as one rank sees
//!   it;
//! - `output`: what goes from the ranks' outputs to the metrics, brought together by `gather`; `weights`: what each rank's loss counts for;
//! - with the feature `observe`, `tensorboard`: metrics in TensorBoard's files.

mod agree;
mod gather;
mod loader;
mod output;
mod pace;
mod pass;
mod place;
mod replica;
mod root;
mod shares;
mod strategy;
#[cfg(feature = "observe")]
mod tensorboard;
mod weights;

pub use gather::Gather;
pub use loader::DataLoaderBuilder;
pub use output::{GatherOutput, LossOver};
pub use strategy::{Distributed, Report};
#[cfg(feature = "observe")]
pub use tensorboard::TensorBoardLogger;
