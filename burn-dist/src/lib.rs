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
//! | `cli` (feature `cli`) | the flags of a job, for programs with clap |
//! | [`checkpoint`] | the state of a run on disk, and how to go on from there |
//! | [`data`] | loaders and samplers that give each rank its share |
//! | [`random`] | parameters and dropout that depend on the seed, not on timing |
//! | [`norm`] | batch normalisation over the batches of all ranks |
//! | `train` (feature `train`) | burn-train's `SupervisedTraining` on all ranks |
//! | [`ProcessGroup`] | ranks, sub-groups, and collectives on slices and tensors |
//!
//! # From one device to several machines
//!
//! A loop on one device, as any program with Burn has it:
//!
//! ```
//! # use burn::{nn::LinearConfig, optim::SgdConfig, tensor::{Device, Tensor}};
//! let device = Device::flex().autodiff();
//! let mut model = LinearConfig::new(4, 1).init(&device);
//! let mut optimizer = SgdConfig::new().init();
//! for step in 0..3 {
//!     let batch = Tensor::<2>::full([8, 4], step as f32, &device);
//!     let loss = model.forward(batch).mean();
//!     let gradients = burn::optim::GradientsParams::from_grads(loss.backward(), &model);
//!     model = optimizer.step(0.01, model, gradients);
//! }
//! ```
//!
//! **1. Over the devices of one machine.** [`launch`](launch::launch()) runs the loop as a closure, once for
//! each device, on a thread of its own. [`Ddp::attach`](ddp::Ddp::attach) gives all replicas the parameters of rank 0 and hooks
//! their gradients; [`Ddp::synchronize`](ddp::Ddp::synchronize) stands where the gradients were taken before.
//! The rest of the loop stays:
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
//! [`Devices::select`](launch::Devices::select) finds the GPUs of a machine; nothing else changes with them.
//! CUDA GPUs of one process can add gradients up among themselves, where
//! [`ReduceOn::Device`](ddp::ReduceOn::Device) is asked for.
//!
//! **2. With each rank's own share of the data.** [`ShardedLoaderConfig`](data::ShardedLoaderConfig) makes
//! each rank's loader. All ranks see equally many batches. Where the
//! last ones don't come out even, ranks have different numbers of samples, or one that does not count:
//! [`Ddp::weight`](ddp::Ddp::weight) makes the mean over ranks the mean over samples.
//!
//! ```
//! # use burn::data::{dataloader::batcher::Batcher, dataset::InMemDataset};
//! # use burn::tensor::{Device, Tensor};
//! # use burn::{nn::{Linear, LinearConfig}, optim::SgdConfig};
//! # use burn_dist::{data::ShardedLoaderConfig, ddp::DdpConfig, launch::launch};
//! struct Column;
//!
//! impl Batcher<f32, Tensor<2>> for Column {
//!     fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<2> {
//!         Tensor::<1>::from_floats(items.as_slice(), device).unsqueeze_dim(1)
//!     }
//! }
//!
//! launch(vec![Device::flex().autodiff(); 2], |worker| {
//!     let points = InMemDataset::new((0..29).map(|i| i as f32).collect());
//!     let loader = ShardedLoaderConfig::new()
//!         .with_batch_size(Some(4)) // of each rank
//!         .with_seed(Some(42))
//!         .init(worker.group(), worker.device(), Column, points)?;
//!     let ddp = DdpConfig::new().init(worker.group())?;
//!     let mut model: Linear = ddp.attach(LinearConfig::new(1, 1).init(worker.device()))?;
//!     let mut optimizer = SgdConfig::new().init();
//!     for batch in loader.batches() {
//!         let batch = batch?;
//!         let weight = ddp.weight(batch.real as f64)?;
//!         let loss = model.forward(batch.batch).mean() * weight;
//!         let gradients = ddp.synchronize(loss.backward(), &model)?;
//!         model = optimizer.step(0.01, model, gradients);
//!     }
//!     ddp.verify_replicas(&model)
//! })?;
//! # Ok::<(), burn_dist::Error>(())
//! ```
//!
//! **3. Over several machines.** The same closure, and a [`Launcher`](launch::Launcher) that is told this process's place in the
//! job: by the variables of torchrun, Slurm, Open MPI or Kubernetes, or, without any, that there is no other.
//! All processes share a secret, `BURN_DIST_SECRET`.
//!
//! ```
//! # use burn::tensor::Device;
//! use burn_dist::{JobConfig, ReduceOp, launch::Launcher};
//!
//! let launcher = Launcher::new(vec![Device::flex().autodiff(); 2]).with_job(JobConfig::from_env()?);
//! launcher.run(|worker| {
//!     let mut losses = [worker.rank() as f32];
//!     worker.group().all_reduce(&mut losses, ReduceOp::Mean)
//! })?;
//! # Ok::<(), burn_dist::Error>(())
//! ```
//!
//! `burn-dist run --nproc-per-node 2 -- PROGRAM` starts it as two processes of this machine.
//!
//! **4. For long runs.** [`checkpoint`] lets a run go on after a crash, to the same result bit for bit; [`observe`] shows
//! where the time goes and who holds the others up; [`preflight`] says beforehand what is wrong with the
//! machines. Programs that leave the loop to burn-train change five lines: the feature `train`.
//!
//! **5. With calls of your own.** [`ProcessGroup`] has the collectives; those in [`functional`] pass gradients on, for
//! losses over all ranks' outputs and for layers that are split over ranks.
//!
//! # Errors
//!
//! Everything that a user, another rank or a device can cause is an [`Error`] that says what failed,
//! where (rank, peer, operation and its number), and what to do. Every wait for another rank has a deadline. When one
//! rank fails, all others stop at once with its reason.
//!
//! When ranks have waited for another in vain, or a process has fallen silent, the last operations of all
//! ranks are compared, and an event of the crate `tracing` says who is behind, in which operation; what
//! each rank did last is in files ([`Launcher::with_records`](launch::Launcher::with_records)).
#![cfg_attr(docsrs, feature(doc_cfg))]

// Tests inside the crate share what those outside it use, which names the crate.
#[cfg(test)]
extern crate self as burn_dist;

mod autodiff;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
mod codec;
mod collective;
pub mod data;
pub mod ddp;
mod element;
mod engine;
mod error;
pub mod functional;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod kernels;
pub mod launch;
mod net;
pub mod norm;
pub mod observe;
pub mod preflight;
pub mod random;
mod record;
mod rendezvous;
#[cfg(test)]
mod seeds;
mod shared_memory;
#[cfg(feature = "train")]
pub mod train;
mod transport;

pub use element::{Element, ReduceOp};
pub use error::{
    Call, Departure, Detail, DifferentOption, Error, JoinFailure, OptionValue, Result, WorkerError,
};
pub use group::{
    AnyRank, Blocking, Buffer, DEFAULT_TIMEOUT, Message, Mode, Objects, P2p, ProcessGroup, Slot,
    Source, Start, Started, Uneven, Work, form,
};
pub use net::{Secret, Tls};
pub use rendezvous::{Crossovers, JobConfig, Tuned};
