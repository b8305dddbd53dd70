//! Attaching: all ranks prove that they have the same model, take rank 0's values, and hook their
//! gradients.
//!
//! Callers: `Ddp::attach`.

use super::Attached;
use super::config::DdpConfig;
use super::hook::{GradientSink, Hooks, supports};
use super::parameters::Parameters;
use super::reducer::Reducer;
use super::route;
use super::usage::Usage;
use super::values::with_own_states;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Bool, Int, Tensor};
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn attach<M: Module>(
    config: &DdpConfig,
    group: &ProcessGroup,
    model: &M,
) -> Result<(M, Attached)> {
    let mut parameters = Parameters::of(model);
    parameters.check_equal(group)?;
    check_devices(group, &parameters)?;
    // With states of its own: a state that ranks share would be locked by the first of them that waits for the
    // others to broadcast it, and mix their statistics. (Statistics that wait to be taken over are taken over
    // on the way, or they would come after rank 0's.)
    let model = broadcast(group, with_own_states(model))?;

    let route = route::choose(config, group, &parameters)?;
    let reduce_on = route.reduce_on();
    let channel = Reducer::channel();
    let usage = Arc::new(Usage::new(parameters.entries.len(), channel.0.clone()));
    let sink: Arc<dyn GradientSink> = usage.clone();
    let model = model.apply_reparameterization(Hooks {
        sink: &sink,
        index: |path: &str| parameters.index(path),
    });
    parameters.mark_buffers(&model);
    let parameters = Arc::new(parameters);
    let reducer = Reducer::start(
        config.clone(),
        group.clone(),
        Arc::clone(&parameters),
        route,
        usage.lane(),
        channel,
    )?;
    let attached = Attached {
        parameters,
        usage,
        reducer,
        reduce_on,
    };
    Ok((model, attached))
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

/// Gives every rank the values of rank 0.
fn broadcast<M: Module>(group: &ProcessGroup, model: M) -> Result<M> {
    let mut broadcaster = Broadcaster {
        group,
        seen: HashMap::new(),
        failed: None,
    };
    let model = model.map(&mut broadcaster);
    match broadcaster.failed {
        Some(error) => Err(error),
        None => Ok(model),
    }
}

/// Replaces each tensor by rank 0's. After the first error it leaves the others as they are.
struct Broadcaster<'a> {
    group: &'a ProcessGroup,
    /// What came for each float parameter: one that is in two places stays one.
    seen: HashMap<ParamId, Box<dyn Any>>,
    failed: Option<Error>,
}

impl Broadcaster<'_> {
    /// What `receive` gives, or the tensor as it was if that or an earlier one failed.
    fn or_as_it_was<T: Clone>(&mut self, tensor: T, receive: impl FnOnce(T) -> Result<T>) -> T {
        if self.failed.is_some() {
            return tensor;
        }
        receive(tensor.clone()).unwrap_or_else(|error| {
            self.failed = Some(error);
            tensor
        })
    }
}

impl ModuleMapper for Broadcaster<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (group, id) = (self.group, param.id);
        let seen = self.seen.get(&id).and_then(|seen| seen.downcast_ref());
        let seen: Option<Tensor<D>> = seen.cloned();
        param.map(|tensor| {
            let received = seen.unwrap_or_else(|| {
                let trained = tensor.is_require_grad();
                self.or_as_it_was(tensor, |tensor| {
                    let received = group.broadcast_tensor(tensor.detach(), 0)?;
                    Ok(received.set_require_grad(trained))
                })
            });
            self.seen.insert(id, Box::new(received.clone()));
            received
        })
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let group = self.group;
        param.map(|tensor| self.or_as_it_was(tensor, |tensor| group.broadcast_tensor(tensor, 0)))
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let group = self.group;
        param.map(|tensor| {
            self.or_as_it_was(tensor, |tensor| {
                Ok(group.broadcast_tensor(tensor.int(), 0)?.bool())
            })
        })
    }
}
