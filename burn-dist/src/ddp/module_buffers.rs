//! The mean over ranks of a model's buffers, such as the running statistics of batch normalisation: passes
//! change them on each rank with its own batches.

use super::handle::{Attached, Ddp};
use super::parameters::Path;
use super::values::TensorCollector;
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use std::collections::HashSet;

impl Ddp {
    /// Gives every rank the mean over ranks of each buffer of floats: the running mean and variance of
    /// [`BatchNorm`](burn::nn::BatchNorm), which otherwise differ between ranks, so that what is evaluated or
    /// saved would be one rank's. Every rank calls it, between two steps, before evaluating and saving.
    ///
    /// It changes no parameters, and a model without buffers stays as it is. Those of
    /// [`SyncBatchNorm`](crate::norm::SyncBatchNorm) are equal already. (The mean of variances leaves out that
    /// means differ between ranks, which with shuffled data is next to nothing.)
    ///
    /// ```no_run
    /// # use burn::{module::Module, nn::BatchNorm};
    /// # use burn_dist::{ddp::Ddp, Result};
    /// # fn example(ddp: &Ddp, mut model: BatchNorm) -> Result<BatchNorm> {
    /// model = ddp.average_buffers(model)?;
    /// let evaluated = model.valid();
    /// # Ok(evaluated)
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Order`] if no model is attached, or this is not the one that is: it lacks a buffer; the group's
    /// own errors.
    pub fn average_buffers<M: Module>(&self, model: M) -> Result<M> {
        let known = self.attached()?;
        // Statistics that wait to be taken over are taken over by this.
        let _ = model.valid();
        if let Some(path) = missing(known, &model) {
            let error = self.order(format!(
                "the model given to `average_buffers` lacks the buffer `{path}` of the attached one; give \
                 the attached model itself, not a part of it or a module around it"
            ));
            // The others wait for this rank otherwise.
            self.control.abort(&error.to_string());
            return Err(error);
        }
        let mut averager = Averager {
            known,
            group: &self.control.within("Ddp::average_buffers"),
            path: Path::default(),
            failed: None,
        };
        let model = model.map(&mut averager);
        averager.failed.map_or(Ok(model), Err)
    }
}

pub(super) fn is_buffer(known: &Attached, path: &str) -> bool {
    let index = known.parameters.index(path);
    index.is_some_and(|index| known.parameters.entries[index].buffer)
}

/// A buffer of the attached model that this one lacks.
fn missing<'a, M: Module>(known: &'a Attached, model: &M) -> Option<&'a str> {
    let there = TensorCollector::of(model, |path| is_buffer(known, path));
    let there: HashSet<_> = there
        .keys()
        .filter_map(|path| known.parameters.index(path))
        .collect();
    let mut entries = known.parameters.entries.iter().enumerate();
    let (_, entry) = entries.find(|(index, entry)| entry.buffer && !there.contains(index))?;
    Some(&entry.description.path)
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
                .all_reduce(tensor.clone().detach(), ReduceOp::Mean)
                .unwrap_or_else(|error| {
                    self.failed = Some(error);
                    tensor
                })
        })
    }
}
