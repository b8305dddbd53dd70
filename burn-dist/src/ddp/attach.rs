//! Attaching: all ranks prove that they have the same model, take rank 0's values, and hook their
//! gradients.
//!
//! Callers: `Ddp::attach`.

use super::Attached;
use super::config::DdpConfig;
use super::hook::{GradientSink, Hook, Hooks, supports};
use super::parameters::Parameters;
use super::reducer::Reducer;
use super::usage::Usage;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleMapper, Param, ParamId, Reparameterization};
use burn::tensor::{Bool, Int, Tensor};
use std::sync::Arc;

pub(super) fn attach<M: Module>(
    config: &DdpConfig,
    group: &ProcessGroup,
    model: M,
) -> Result<(M, Attached)> {
    let mut parameters = Parameters::of(&model);
    parameters.check_equal(group)?;
    check_devices(group, &parameters)?;
    let model = broadcast(group, model)?;

    let channel = Reducer::channel();
    let usage = Arc::new(Usage::new(parameters.entries.len(), channel.0.clone()));
    let sink: Arc<dyn GradientSink> = usage.clone();
    let model = model.apply_reparameterization(Hooks {
        sink: &sink,
        index: |id: ParamId| parameters.index(id),
    });
    parameters.mark_buffers(&model, Hook::NAME);
    let parameters = Arc::new(parameters);
    let reducer = Reducer::start(
        config.clone(),
        group.clone(),
        Arc::clone(&parameters),
        channel,
    )?;
    let attached = Attached {
        parameters,
        usage,
        reducer,
    };
    Ok((model, attached))
}

/// Refuses devices whose backend this build has no hook for; the operation would panic there.
fn check_devices(group: &ProcessGroup, parameters: &Parameters) -> Result<()> {
    let unsupported = parameters
        .entries
        .iter()
        .find(|entry| !supports(&entry.device));
    let Some(entry) = unsupported else {
        return Ok(());
    };
    let error = Error::InvalidArgument {
        rank: group.global_rank(),
        call: "Ddp::attach",
        message: format!(
            "parameter `{}` is on {:?}, and burn-dist was built without that backend; enable its \
             feature of burn-dist (flex, wgpu, cuda)",
            entry.description.path, entry.device
        ),
    };
    group.abort(&error.to_string());
    Err(error)
}

/// Gives every rank the values of rank 0.
fn broadcast<M: Module>(group: &ProcessGroup, model: M) -> Result<M> {
    let mut broadcaster = Broadcaster {
        group,
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
        let group = self.group;
        param.map(|tensor| {
            let trained = tensor.is_require_grad();
            self.or_as_it_was(tensor, |tensor| {
                let received = group.broadcast_tensor(tensor.detach(), 0)?;
                Ok(received.set_require_grad(trained))
            })
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
