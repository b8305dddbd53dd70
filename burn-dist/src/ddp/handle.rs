//! A rank's handle on data-parallel training: the state that the calls of [`Ddp`] share, and its end.

use super::config::{DdpConfig, ReduceOn};
use super::parameters::Parameters;
use super::reducer::Reducer;
use super::use_tracker::UseTracker;
use super::use_tracker::settle::Refusal;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
#[cfg(feature = "cli")]
use crate::rendezvous::Crossovers;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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
    pub(super) config: DdpConfig,
    pub(super) group: ProcessGroup,
    /// For calls of the replica's thread that may come while the reducer's operations run.
    pub(super) control: ProcessGroup,
    pub(super) attached: OnceLock<Attached>,
    pub(super) stats: Mutex<SyncStats>,
    /// The first error of `synchronize`: the end of it.
    pub(super) failed: OnceLock<Error>,
}

impl DdpConfig {
    /// Makes this rank's end. Every rank of the group calls it, with the same configuration.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a bucket size that is not a positive number, and the group's
    /// own errors.
    pub fn init(&self, group: &ProcessGroup) -> Result<Ddp> {
        for (name, size) in [
            ("bucket_cap_mb", self.bucket_cap_mb),
            ("first_bucket_mb", self.first_bucket_mb),
        ] {
            if !(size.is_finite() && size > 0.0) {
                let error = Error::InvalidArgument {
                    rank: group.global_rank(),
                    call: "DdpConfig::init",
                    message: format!("{name} must be a positive number of megabytes, got {size}"),
                };
                // The others wait for this rank otherwise.
                group.abort(&error.to_string());
                return Err(error);
            }
        }
        // Groups of its own, so that the reducer's operations never mix with the user's, or with calls that
        // the replica's thread makes while the reducer is at work.
        let own = || {
            let own = group.duplicate();
            own.map(|own| own.within("Ddp::synchronize"))
        };
        let (group, control) = (own()?, own()?);
        Ok(Ddp {
            config: self.clone(),
            group,
            control,
            attached: OnceLock::new(),
            stats: Mutex::default(),
            failed: OnceLock::new(),
        })
    }
}

/// The state of an attached model.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) parameters: Arc<Parameters>,
    pub(super) tracker: Arc<UseTracker>,
    pub(super) reducer: Reducer,
    pub(super) reduce_on: ReduceOn,
}

impl Drop for Ddp {
    fn drop(&mut self) {
        if let Some(attached) = self.attached.get_mut() {
            let lost = attached.tracker.unsettled();
            let lost = lost.filter(|_| self.failed.get().is_none() && !std::thread::panicking());
            if let Some(parameter) = lost {
                let message = Refusal::Lost(parameter).message(&attached.parameters);
                self.group.fault(Error::Order {
                    rank: self.group.global_rank(),
                    message,
                });
            }
            if attached.tracker.keeps() {
                tracing::warn!(
                    rank = self.group.global_rank(),
                    "gradients that `no_sync` kept were dropped with their Ddp: no `synchronize` came after them"
                );
            }
            let mid_step = attached.tracker.in_step();
            attached.tracker.close();
            attached.reducer.stop(mid_step);
        }
        // The other ranks may still count on this one: the drop of the group tells them that it left.
    }
}

/// The cost of synchronisation on a rank so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncStats {
    /// The number of calls of [`Ddp::synchronize`].
    pub steps: u64,
    /// The time in which the replica's thread waited for averages in it.
    pub wait: Duration,
    /// The part of `wait` in which a bucket was averaged: other ranks were waited for, and bytes moved. The rest
    /// is time spent waiting for this rank's device. Sums that devices make among themselves are in `wait`, and
    /// not in this.
    pub averaging: Duration,
    /// The number of bytes of gradients that this rank gave to be averaged.
    pub bytes: u64,
    /// The number of gradients that were handed over while backward ran.
    pub during_backward: u64,
    /// The number of parameters that were settled only in `synchronize`: all of the first step, and later unused
    /// ones, those whose uses did not all reach backward, and those used around their module.
    pub at_end: u64,
}

impl Ddp {
    /// Returns the place where gradients are averaged, as [`DdpConfig::reduce_on`] was resolved: the same on all
    /// ranks.
    ///
    /// # Errors
    ///
    /// [`Error::Order`] if no model is attached.
    pub fn reduce_on(&self) -> Result<ReduceOn> {
        Ok(self.attached()?.reduce_on.clone())
    }

    /// Returns the sizes at which the collectives of its group change their algorithm.
    #[cfg(feature = "cli")]
    pub(crate) fn crossovers(&self) -> Option<&Crossovers> {
        self.group.crossovers()
    }

    /// Returns the cost of synchronisation so far.
    pub fn stats(&self) -> SyncStats {
        *self.stats.lock()
    }

    pub(super) fn attached(&self) -> Result<&Attached> {
        self.attached.get().ok_or_else(|| {
            self.order("no model is attached; call `attach` before the first step".into())
        })
    }

    pub(super) fn order(&self, message: String) -> Error {
        Error::Order {
            rank: self.group.global_rank(),
            message,
        }
    }

    pub(super) fn check_failed(&self) -> Result<()> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    pub(super) fn fail(&self, attached: &Attached, error: &Error) {
        let message = error.to_string();
        attached.reducer.abort(&message);
        // Others may wait for this rank in a call of their own thread.
        self.control.abort(&message);
        let _ = self.failed.set(error.clone());
    }
}
