//! Distributed data-parallel training: every rank holds a replica of the model and trains it on its
//! own share of the data; gradients are averaged over the ranks while backward still runs
//! (Li et al., "PyTorch Distributed", VLDB 2020).
//!
//! The life of a gradient, one file a step:
//!
//! 1. `hook`: an identity on each parameter sees its gradient as soon as backward has it;
//! 2. `usage` keeps the accounts of backward passes, and says whether the gradient is handed over at once;
//! 3. `gradient`: what goes over, which on a GPU is a copy on a stream that the reducer reads;
//! 4. `layout` says which bucket the parameter lies in;
//! 5. `reducer`, a thread of its own, fills the buckets, and has each averaged over the ranks as soon as it is
//!    full, in the same order on every rank. `route` has said how, when the model was attached:
//!    - on the CPU, gradients are copied to their bucket (a large one lies there already);
//!    - on a GPU, `staging` joins them there, and the bucket is read, averaged in host memory while the next
//!      is read, and written back;
//!    - CUDA GPUs of one process average what is joined among themselves (`fabric`);
//! 6. `synchronize` settles the pass: `collect` finds what backward left in the model's container of gradients,
//!    which goes to the reducer too, or is averaged after the step where it came late (`late`); `settle` gives
//!    the averages to the optimizer;
//! 7. `pool` gets the memory of a shared bucket back when the last of its gradients is dropped.
//!
//! Threads: the replica's own thread runs forward, backward and every method of [`Ddp`]; the reducer
//! thread owns the buckets and the process group's operations, which for a GPU run on the group's
//! communication thread. They talk over one channel, and a hook never blocks.

mod attach;
#[cfg(feature = "bench")]
mod benched;
mod broadcast;
mod buffer;
mod buffers;
mod clip;
mod collect;
mod config;
#[cfg(feature = "train")]
mod copies;
mod fabric;
mod gradient;
mod hook;
mod late;
mod layout;
mod local;
mod parameters;
mod pool;
#[cfg(test)]
mod programs;
mod reducer;
mod replicas;
mod route;
mod settle;
mod staging;
mod synchronize;
mod usage;
mod values;
mod weight;

#[cfg(feature = "bench")]
pub(crate) use benched::{BenchedAverage, BenchedBucket};
pub use clip::{GradientScope, clip_grad_norm};
pub use config::{DdpConfig, ReduceOn};
#[cfg(any(test, fuzzing))]
pub(crate) use parameters::check_parameters;
#[cfg(test)]
pub(crate) use parameters::parameters_seed;
pub use replicas::parameters_sha256;
#[cfg(feature = "train")]
pub(crate) use values::{copy_into, with_own_states};

use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::Module;
use hook::GradientSink;
use parameters::Parameters;
use parking_lot::Mutex;
use reducer::Reducer;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use usage::Usage;

/// One rank's end of a data-parallel model: attaches to a model, averages its gradients.
///
/// Made by [`DdpConfig::init`], which every rank of the group calls. The wrapped model keeps its
/// type, and works in a hand-written loop as before, with one call between backward and the
/// optimizer:
///
/// ```no_run
/// # use burn::{nn::{Linear, LinearConfig}, optim::SgdConfig, tensor::{Device, Tensor}};
/// # use burn_dist::{data::ShardedLoader, ddp::DdpConfig, ProcessGroup, Result};
/// # fn example(group: &ProcessGroup, device: &Device, loader: &ShardedLoader<Tensor<2>>) -> Result<()> {
/// let ddp = DdpConfig::new().init(group)?;
/// let mut model = ddp.attach(LinearConfig::new(8, 1).init(device))?;
/// let mut optimizer = SgdConfig::new().init();
/// for batch in loader.batches() {
///     let batch = batch?;
///     let weight = ddp.weight(batch.real as f64)?; // 1 where all ranks have as many samples
///     let loss = model.forward(batch.batch).mean() * weight;
///     let gradients = ddp.synchronize(loss.backward(), &model)?;
///     model = optimizer.step(0.01, model, gradients);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ddp {
    config: DdpConfig,
    group: ProcessGroup,
    /// For calls of the replica's thread that may come while the reducer's operations run.
    control: ProcessGroup,
    attached: OnceLock<Attached>,
    stats: Mutex<SyncStats>,
    /// The first error of `synchronize`: the end of it.
    failed: OnceLock<Error>,
}

/// What exists once a model is attached.
#[derive(Debug)]
struct Attached {
    parameters: Arc<Parameters>,
    usage: Arc<Usage>,
    reducer: Reducer,
    reduce_on: ReduceOn,
}

impl Drop for Ddp {
    fn drop(&mut self) {
        if let Some(attached) = self.attached.get_mut() {
            let lost = attached.usage.unsettled();
            let lost = lost.filter(|_| self.failed.get().is_none() && !std::thread::panicking());
            if let Some(parameter) = lost {
                let description = &attached.parameters.entries[parameter].description;
                let message = synchronize::lost(&description.path);
                self.group.fault(Error::Order {
                    rank: self.group.global_rank(),
                    message,
                });
            }
            if attached.usage.keeps() {
                tracing::warn!(
                    rank = self.group.global_rank(),
                    "gradients that `no_sync` kept were dropped with their Ddp: no `synchronize` came after them"
                );
            }
            let mid_step = attached.usage.in_step();
            attached.usage.close();
            attached.reducer.stop(mid_step);
        }
        // The other ranks may still count on this one: the drop of the group tells them that it left.
    }
}

/// What synchronisation has cost a rank so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncStats {
    /// How many times [`Ddp::synchronize`] was called.
    pub steps: u64,
    /// How long the replica's thread stood still in it, waiting for averages.
    pub wait: Duration,
    /// The part of `wait` in which a bucket was averaged: other ranks were waited for, and bytes moved.
    /// The rest of it, this rank's device had not computed its gradients yet. Where devices add up among
    /// themselves, their sums are waited for in `wait`, and are not in this.
    pub averaging: Duration,
    /// How many bytes of gradients this rank gave to be averaged.
    pub bytes: u64,
    /// How many gradients were handed over while backward ran.
    pub during_backward: u64,
    /// How many parameters were settled only in `synchronize`: all of the first step, and later unused
    /// ones, those whose uses did not all reach backward, and those used around their module.
    pub at_end: u64,
}

impl Ddp {
    /// Makes the model data-parallel.
    ///
    /// Checks that the models of all ranks have the same tensors (names, shapes, types, and which are tied),
    /// gives every rank those of rank 0 to the bit (parameters of any type, and buffers such as running
    /// statistics), and hooks the gradients. The model must be on the device it will train on, with autodiff.
    ///
    /// Parameters get the ids of rank 0 too, so that a record that rank 0 has written can be loaded on all
    /// ranks while their optimizers go on. An optimizer finds its state by these ids: make it after `attach`, or
    /// load its record then.
    ///
    /// # Errors
    ///
    /// [`Error::ModelMismatch`] names the first parameter that differs; [`Error::Order`] if a model
    /// is attached already; [`Error::InvalidArgument`] if the device is of a backend that this build
    /// does not support; and the group's own errors. All ranks fail together.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the attached model takes the place of the one that is given"
    )]
    pub fn attach<M: Module>(&self, model: M) -> Result<M> {
        if self.attached.get().is_some() {
            let message = "a model is attached already; make another Ddp for a second model";
            let error = self.order(message.into());
            self.group.abort(&error.to_string());
            return Err(error);
        }
        let (model, attached) =
            attach::attach(&self.config, &self.group.within("Ddp::attach"), &model)?;
        // Nothing else sets it but a second `attach` that runs at the same time.
        self.attached
            .set(attached)
            .map_err(|_| self.order("two threads attached a model at once".into()))?;
        Ok(model)
    }

    /// Checks that every rank holds the same parameters, bit for bit, and returns their SHA-256 (see
    /// [`parameters_sha256`]). Every rank calls it.
    ///
    /// # Errors
    ///
    /// [`Error::ReplicasDiffer`] names the ranks that differ, on every rank.
    pub fn verify_replicas<M: Module>(&self, model: &M) -> Result<String> {
        let Attached {
            parameters, usage, ..
        } = self.attached()?;
        let control = self.control.within("Ddp::verify_replicas");
        let verified = replicas::verify(&control, parameters, usage.key(), model);
        // The others wait for a rank that could not read its model.
        verified.inspect_err(|error| control.abort(&error.to_string()))
    }

    /// Where gradients are averaged: what [`DdpConfig::reduce_on`] came to, which is the same on all ranks.
    ///
    /// # Errors
    ///
    /// [`Error::Order`] if no model is attached.
    pub fn reduce_on(&self) -> Result<ReduceOn> {
        Ok(self.attached()?.reduce_on.clone())
    }

    /// What synchronisation has cost so far.
    pub fn stats(&self) -> SyncStats {
        *self.stats.lock()
    }

    fn attached(&self) -> Result<&Attached> {
        self.attached.get().ok_or_else(|| {
            self.order("no model is attached; call `attach` before the first step".into())
        })
    }

    fn order(&self, message: String) -> Error {
        Error::Order {
            rank: self.group.global_rank(),
            message,
        }
    }
}
