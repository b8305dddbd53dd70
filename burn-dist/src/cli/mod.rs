//! Command-line flags that every training program has, for programs with [clap](https://docs.rs/clap) 4 (feature
//! `cli`).
//!
//! A program flattens [`JobArgs`] into its own flags. [`JobArgs::init`] reads the place in the job from the
//! environment, chooses devices, and starts log, trace and metrics:
//!
//! ```no_run
//! use burn_dist::cli::JobArgs;
//! use burn_dist::observe::StepMonitor;
//! use clap::Parser;
//!
//! #[derive(Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     job: JobArgs,
//!     /// Passes over the data
//!     #[arg(long, default_value_t = 6)]
//!     epochs: u32,
//! }
//!
//! fn main() -> burn_dist::Result<()> {
//!     let args = Args::parse();
//!     // All processes must have the same number of epochs.
//!     let job = args.job.init()?.with_options([("--epochs", args.epochs.to_string())]);
//!     job.launcher().run(|worker| {
//!         let mut monitor = StepMonitor::new(worker.group())?.with_outputs(&job.outputs());
//!         // Train.
//!         monitor.finish()
//!     })?;
//!     job.finish()
//! }
//! ```
//!
//! - [`LaunchArgs`]: replicas and devices, rendezvous, certificates, timeouts;
//! - [`ObserveArgs`]: trace, TensorBoard, Prometheus;
//! - [`CheckpointArgs`]: checkpoints, for programs with [`checkpoint`](crate::checkpoint);
//! - [`BatchArgs`]: the batch size, of a rank or of a step;
//! - [`OutputArgs`] and [`Report`]: files that a run leaves; [`check_output`] and [`write_output`] for others.
//!
//! Nothing here prints. The log goes to standard error through the crate `tracing`; `RUST_LOG` chooses its level
//! (default: `warn`).

mod batch;
mod checkpoint;
mod job;
mod launch;
mod log;
mod observe;
mod output;
mod report;

pub use batch::BatchArgs;
pub use checkpoint::{CheckpointArgs, RunCheckpoints};
pub use job::{Job, JobArgs};
pub use launch::{LaunchArgs, TlsArgs};
pub use observe::ObserveArgs;
pub use output::{OutputArgs, check_output, write_output};
pub use report::Report;
