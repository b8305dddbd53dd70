//! Broadcast of a model from rank 0 when it is attached: the value of each tensor, to the bit, and the ids of
//! parameters.
//!
//! Optimizers keep their state by [`ParamId`], and records carry ids. With ids of its own, a rank would lose its
//! optimizer's state as soon as it loads a record that rank 0 has written.

use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId, Parameter};
use burn::tensor::kind::Basic;
use burn::tensor::{Bool, Int, Tensor};
use std::any::Any;
use std::collections::{HashMap, HashSet};

/// Gives every rank the model of rank 0. The models have the same tensors, tied alike, which
/// [`Parameters::check_equal`](super::parameters::Parameters::check_equal) has found.
pub(super) fn broadcast<M: Module>(group: &ProcessGroup, model: M) -> Result<M> {
    let mut broadcaster = Broadcaster {
        group,
        ids: ids_of_rank_0(group, &model)?,
        seen: HashMap::new(),
        failed: None,
    };
    let model = model.map(&mut broadcaster);
    match broadcaster.failed {
        Some(error) => Err(error),
        None => Ok(model),
    }
}

/// The id that rank 0 has for each of this rank's.
fn ids_of_rank_0<M: Module>(group: &ProcessGroup, model: &M) -> Result<HashMap<ParamId, ParamId>> {
    let mut own = Ids::default();
    model.visit(&mut own);
    let mut ids: Vec<i64> = own.ids.iter().map(|id| id.val().cast_signed()).collect();
    group.broadcast(&mut ids, 0)?;
    let ids = ids.iter().map(|id| ParamId::from(id.cast_unsigned()));
    Ok(own.ids.into_iter().zip(ids).collect())
}

/// The ids of all tensors of a model, each once, in the order of Burn's traversal.
#[derive(Default)]
struct Ids {
    ids: Vec<ParamId>,
    known: HashSet<ParamId>,
}

impl Ids {
    fn add(&mut self, id: ParamId) {
        if self.known.insert(id) {
            self.ids.push(id);
        }
    }
}

impl ModuleVisitor for Ids {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.id);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.id);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.id);
    }
}

/// Replaces each tensor by rank 0's. After the first error it leaves the others as they are.
struct Broadcaster<'a> {
    group: &'a ProcessGroup,
    ids: HashMap<ParamId, ParamId>,
    /// The tensor received for each id: a tensor that is in two places stays one.
    seen: HashMap<ParamId, Box<dyn Any>>,
    failed: Option<Error>,
}

impl Broadcaster<'_> {
    /// Returns the parameter under rank 0's id, with the tensor received before or rank 0's tensor finished by `finish`.
    fn replace<const D: usize, K: Basic + 'static>(
        &mut self,
        param: Param<Tensor<D, K>>,
        finish: impl FnOnce(Tensor<D, K>) -> Tensor<D, K>,
    ) -> Param<Tensor<D, K>>
    where
        Tensor<D, K>: Parameter + 'static,
    {
        let (own, tensor, mapper) = param.consume();
        let id = self.ids.get(&own).copied().unwrap_or(own);
        let seen = self.seen.get(&id).and_then(|seen| seen.downcast_ref());
        let value = match seen.cloned() {
            Some(seen) => seen,
            None => self.receive(tensor, finish),
        };
        self.seen.insert(id, Box::new(value.clone()));
        Param::from_mapped_value(id, value, mapper)
    }

    /// The tensor of rank 0; this rank's if that or an earlier one failed.
    fn receive<const D: usize, K: Basic>(
        &mut self,
        tensor: Tensor<D, K>,
        finish: impl FnOnce(Tensor<D, K>) -> Tensor<D, K>,
    ) -> Tensor<D, K> {
        if self.failed.is_some() {
            return tensor;
        }
        match self.group.broadcast_any(tensor.clone(), 0) {
            Ok(received) => finish(received),
            Err(error) => {
                self.failed = Some(error);
                tensor
            }
        }
    }
}

impl ModuleMapper for Broadcaster<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = param.is_require_grad();
        self.replace(param, |received| received.set_require_grad(trained))
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.replace(param, |received| received)
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.replace(param, |received| received)
    }
}
