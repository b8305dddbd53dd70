//! Distributed data-parallel training for [Burn](https://burn.dev), on every Burn backend.
//!
//! Every rank holds a replica of a model and trains it on its own share of the data; gradients are
//! averaged over the ranks while backward is still running. N ranks with batch B train as one with
//! batch N·B, to rounding, and the replicas stay equal bit for bit.
//!
//! | module | what a program takes from it |
//! |---|---|
//! | [`launch`] | which devices to train on, and one thread for each |
//! | [`ddp`] | [`Ddp`](ddp::Ddp): attaches to a model, averages its gradients |
//! | [`preflight`] | what a job will meet, measured before it starts |
//! | [`observe`] | spans, stragglers; traces, TensorBoard and Prometheus (feature `observe`) |
//! | [`checkpoint`] | the state of a run on disk, and how to go on from there |
//! | [`data`] | loaders and samplers that give each rank its share |
//! | [`random`] | parameters and dropout that depend on the seed, not on timing |
//! | [`norm`] | batch normalisation over the batches of all ranks |
//! | `train` (feature `train`) | burn-train's `SupervisedTraining` on all ranks |
//! | [`ProcessGroup`] | ranks, sub-groups, and collectives on slices and tensors |
//!
//! # Example
//!
//! ```
//! use burn::nn::{Linear, LinearConfig};
//! use burn::optim::SgdConfig;
//! use burn::tensor::{Device, Tensor};
//! use burn_dist::{ddp::DdpConfig, launch::launch};
//!
//! let devices = vec![Device::flex().autodiff(); 2];
//! launch(devices, |worker| {
//!     let ddp = DdpConfig::new().init(worker.group())?;
//!     let mut model: Linear = ddp.attach(LinearConfig::new(4, 1).init(worker.device()))?;
//!     let mut optimizer = SgdConfig::new().init();
//!     for step in 0..3 {
//!         let sample = (step * worker.world_size() + worker.rank()) as f32;
//!         let batch = Tensor::<2>::full([8, 4], sample, worker.device());
//!         let loss = model.forward(batch).mean();
//!         let gradients = ddp.synchronize(loss.backward(), &model)?;
//!         model = optimizer.step(0.01, model, gradients);
//!     }
//!     ddp.verify_replicas(&model)
//! })?;
//! # Ok::<(), burn_dist::Error>(())
//! ```
//!
//! # Errors
//!
//! Everything that a user, another rank or a device can cause is an [`Error`] that says what failed,
//! where (rank, peer, operation and its number), and what to do. Every wait for another rank has a deadline. When one
//! rank fails, all others stop at once with its reason.
//!
//! When ranks have waited for another in vain, or a process has fallen silent, the last operations of all
//! ranks are compared, and an event of the crate `tracing` says who is behind, in which operation; what
//! each rank did last is in files ([`Launcher::records`](launch::Launcher::records)).
#![cfg_attr(docsrs, feature(doc_cfg))]

// Tests inside the crate share what those outside it use, which names the crate.
#[cfg(test)]
extern crate self as burn_dist;

pub mod checkpoint;
mod collective;
mod control;
pub mod data;
pub mod ddp;
mod element;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod kernels;
pub mod launch;
pub mod norm;
pub mod observe;
pub mod preflight;
pub mod random;
mod record;
mod rendezvous;
#[cfg(test)]
mod seeds;
#[cfg(feature = "train")]
pub mod train;
mod transport;

pub use element::{Element, ReduceOp};
pub use error::{Call, Departure, Detail, Error, JoinFailure, Result};
pub use group::{DEFAULT_TIMEOUT, ProcessGroup, Work};
pub use rendezvous::{JobConfig, Secret, Tls};
