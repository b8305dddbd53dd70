//! What a loop needs that it does not own: `burn-train`'s learner holds the model that the optimizer steps,
//! and gives gradients already gathered for it.
//!
//! The model that was attached runs forward and backward; the learner's copy is what optimizer and
//! checkpoints see. After a step the attached one takes over the parameters of the other. Buffers (running
//! statistics) go the other way: forward passes of the attached model change them.
//!
//! Callers: `train`.

use super::parameters::Path;
use super::settle;
use super::values::{Replacer, Values};
use super::{Attached, Ddp};
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

impl Ddp {
    /// Lets the gradients of the pass that follows count `weight` times in the average over ranks.
    pub(crate) fn weigh(&self, weight: f64) -> Result<()> {
        self.attached()?.usage.weigh(weight);
        Ok(())
    }

    /// [`Ddp::synchronize`] for gradients that are gathered already.
    pub(crate) fn synchronize_gathered<M: Module>(
        &self,
        grads: GradientsParams,
        model: &M,
    ) -> Result<GradientsParams> {
        self.settle(grads, model)
    }

    /// [`Ddp::no_sync`] for gradients that are gathered already, with what else the pass gives.
    pub(crate) fn keep_gathered<M: Module, R>(
        &self,
        model: &M,
        pass: impl FnOnce() -> (GradientsParams, R),
    ) -> Result<R> {
        let attached = self.attached()?;
        let (grads, result) = {
            let _local = attached.usage.local();
            pass()
        };
        settle::keep(&attached.parameters, &attached.usage, grads, model);
        Ok(result)
    }

    /// Drops what [`keep_gathered`](Self::keep_gathered) kept and no step has taken.
    pub(crate) fn forget_kept(&self) -> Result<()> {
        self.attached()?.usage.forget_kept();
        Ok(())
    }

    /// Gives the attached model the parameters of a copy of it, and leaves its buffers.
    pub(crate) fn take_parameters<M: Module>(&self, attached: M, from: &M) -> Result<M> {
        let known = self.attached()?;
        let values = Values::of(from, |path| !is_buffer(known, path));
        Ok(attached.map(&mut Replacer::new(&values)))
    }

    /// Gives every rank the mean over ranks of each buffer of floats, in the attached model and in its copy.
    ///
    /// Burn's running states are shared by clones of a module: the copy's are written in place.
    pub(crate) fn average_buffers<M: Module>(&self, attached: M, copy: M) -> Result<M> {
        let known = self.attached()?;
        // Statistics that wait to be taken over are taken over by this.
        let _ = attached.valid();
        let mut averager = Averager {
            known,
            group: &self.group,
            path: Path::default(),
            failed: None,
        };
        let attached = attached.map(&mut averager);
        if let Some(error) = averager.failed {
            return Err(error);
        }
        let values = Values::of(&attached, |path| is_buffer(known, path));
        let _ = copy.map(&mut Replacer::new(&values));
        Ok(attached)
    }
}

fn is_buffer(known: &Attached, path: &str) -> bool {
    let index = known.parameters.index(path);
    index.is_some_and(|index| known.parameters.entries[index].buffer)
}

/// Replaces each buffer by its mean over ranks. After the first error it leaves the others as they are.
struct Averager<'a> {
    known: &'a Attached,
    group: &'a ProcessGroup,
    path: Path,
    failed: Option<Error>,
}

impl ModuleMapper for Averager<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() || !is_buffer(self.known, &self.path.joined()) {
            return param;
        }
        let group = self.group;
        param.map(|tensor| {
            group
                .all_reduce_tensor(tensor.clone().detach(), ReduceOp::Mean)
                .unwrap_or_else(|error| {
                    self.failed = Some(error);
                    tensor
                })
        })
    }
}
