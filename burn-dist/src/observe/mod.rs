//! Seeing what happens: where the time of a step goes, on which rank, and who holds the others up.
//!
//! - `phases`: spans around what only the training loop sees: forward, backward, the optimizer;
//! - [`StepMonitor`]: called once a step; gathers every rank's figures on rank 0, and names stragglers
//!   (`summary`: the figures; `straggler`: who is one);
//! - [`History`]: loss, accuracy and the like over the samples of all ranks, epoch by epoch;
//! - with the feature `observe`, `Outputs`: TensorBoard's event files (`tensorboard`) and an endpoint for
//!   Prometheus (`metrics`); and `ChromeTrace`: the spans as a file for Perfetto (`chrome`).
//!
//! The library itself opens spans of the crate `tracing`, each with its rank or inside one that has it:
//!
//! | span | thread | what |
//! |---|---|---|
//! | `rank` | rank | the closure of a launched rank |
//! | `forward`, `backward`, `optimizer` | rank | see [`forward`] |
//! | `pass`, `validate` | rank | with burn-train: the model's `TrainStep`, forward and backward; a validation |
//! | `next batch` | rank | waiting for the loader |
//! | `make batch` | loader | the dataset and the batcher |
//! | `synchronize` | rank | the call, with `wait` for the averages and `unpack` in it |
//! | `pack` | reducer | a gradient is read and put into its bucket |
//! | `bucket` | reducer | a bucket is averaged: its number and size |
//! | `collective` | the caller's, or `comm` | an operation of a group, with `wait for ranks`, `transfer`, `network` and `wait for network` in it |
//!
//! They are at the levels `debug` and `trace` (`rank`: `info`), and cost next to nothing where nobody
//! listens. What listens must not wait: it is called by threads that other ranks wait for.

#[cfg(feature = "observe")]
mod chrome;
mod history;
#[cfg(feature = "observe")]
mod metrics;
mod monitor;
#[cfg(feature = "observe")]
mod outputs;
mod phases;
mod straggler;
mod summary;
#[cfg(feature = "observe")]
mod tensorboard;

#[cfg(feature = "observe")]
pub use chrome::ChromeTrace;
pub use history::{Epoch, History, HistoryState};
pub use monitor::StepMonitor;
#[cfg(feature = "observe")]
pub use outputs::Outputs;
pub use phases::{backward, forward, optimizer};
pub use summary::{RankFigures, StepSummary};
#[cfg(all(feature = "observe", feature = "train"))]
pub(crate) use tensorboard::{Beginning, EventFile, MARKS};
