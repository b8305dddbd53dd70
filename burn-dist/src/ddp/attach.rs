//! Attaching: all ranks prove that they have the same model, take rank 0's values and ids, and hook their
//! gradients.

use super::broadcast::broadcast;
use super::collect::{self, HookFound};
use super::config::DdpConfig;
use super::handle::{Attached, Ddp};
use super::hook::{GradientSink, HookTarget, Hooks, retarget};
use super::parameters::Parameters;
use super::reducer::Reducer;
use super::strategy;
use super::use_tracker::{self, UseTracker};
use super::values::with_own_states;
use crate::autodiff::supports;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::Module;
use std::sync::Arc;

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
        let (model, attached) = prepare(&self.config, &self.group.within("Ddp::attach"), &model)?;
        // Nothing else sets it but a second `attach` that runs at the same time.
        self.attached
            .set(attached)
            .map_err(|_| self.order("two threads attached a model at once".into()))?;
        Ok(model)
    }
}

/// Compares the models of all ranks, takes rank 0's tensors, and puts hooks on a model.
fn prepare<M: Module>(
    config: &DdpConfig,
    group: &ProcessGroup,
    model: &M,
) -> Result<(M, Attached)> {
    let known = collect::hooks(model);
    check_detached(group, &known)?;
    let mut parameters = Parameters::of(model);
    parameters.check_equal(group)?;
    check_devices(group, &parameters)?;
    // With states of its own: a state that ranks share would be locked by the first of them that waits for the
    // others to broadcast it, and mix their statistics. (Statistics that wait to be taken over are taken over
    // on the way, or they would come after rank 0's.)
    let model = broadcast(group, with_own_states(model))?;

    let strategy = strategy::choose(config, group, &parameters)?;
    let reduce_on = strategy.reduce_on();
    let channel = Reducer::channel();
    let entries = parameters.entries.iter();
    let trained: Vec<bool> = entries.map(|entry| entry.description.trained).collect();
    let tracker = UseTracker::new(group.global_rank(), &trained, channel.0.clone());
    let sink: Arc<dyn GradientSink> = tracker.clone();
    // Every hook is on a parameter of the list.
    let targets = known.iter().filter_map(|hook| {
        let parameter = parameters.index(&hook.path)?;
        let sink = Arc::clone(&sink);
        Some(HookTarget { sink, parameter })
    });
    let model = retarget(model, targets.collect());
    let model = model.apply_reparameterization(Hooks {
        sink: &sink,
        index: |path: &str| parameters.index(path),
    });
    parameters.mark_buffers(&model);
    collect::mark_hooked(&mut parameters, tracker.key(), &model);
    let parameters = Arc::new(parameters);
    let reducer = Reducer::start(
        config.clone(),
        group.within("Ddp::synchronize"),
        Arc::clone(&parameters),
        strategy,
        tracker.lane(),
        channel,
    )?;
    let attached = Attached {
        parameters,
        tracker,
        reducer,
        reduce_on,
    };
    Ok((model, attached))
}

/// Refuses a model that belongs to a `Ddp` which is still there: both would take its gradients.
fn check_detached(group: &ProcessGroup, hooks: &[HookFound]) -> Result<()> {
    let Some(hook) = hooks.iter().find(|hook| use_tracker::is_open(hook.key)) else {
        return Ok(());
    };
    let error = Error::Order {
        rank: group.global_rank(),
        message: format!(
            "`{}` is attached to another Ddp, which is still there; drop that one first, then attach",
            hook.path
        ),
    };
    group.abort(&error.to_string());
    Err(error)
}

/// Refuses devices whose backend this build has no hook for (the operation would panic there), and
/// those that can't train.
fn check_devices(group: &ProcessGroup, parameters: &Parameters) -> Result<()> {
    let entries = &parameters.entries;
    let unsupported = entries.iter().find(|entry| !supports(&entry.device));
    let floats = entries.iter().filter(|entry| entry.dtype.is_float());
    let untracked = floats.clone().all(|entry| !entry.device.is_autodiff());
    let message = match (unsupported, floats.clone().next()) {
        (Some(entry), _) => format!(
            "parameter `{}` is on {:?}, and burn-dist was built without that backend; enable its \
             feature of burn-dist (flex, wgpu, cuda)",
            entry.description.path, entry.device
        ),
        (None, Some(_)) if untracked => {
            "the model is on a device without autodiff, and so can't be \
             trained; build it on `device.autodiff()`, or call `train()` on it first"
                .into()
        }
        _ => return Ok(()),
    };
    let error = Error::InvalidArgument {
        rank: group.global_rank(),
        call: "Ddp::attach",
        message,
    };
    group.abort(&error.to_string());
    Err(error)
}
