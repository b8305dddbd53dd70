//! The list of a model's tensors, in the order of Burn's module traversal: the same on every rank
//! that built the same model, and the order in which everything that needs one is done.
//!
//! Callers: `attach` (to compare and broadcast), `settle` (to find a parameter by its id),
//! `layout`.

use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, DType, Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// All tensors of a model. Parameters that share an id (one tensor in two places) are one entry.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) entries: Vec<Entry>,
    by_id: HashMap<ParamId, usize>,
}

/// One tensor of a model.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) description: Description,
    pub(super) dtype: DType,
    pub(super) device: Device,
    /// Whether it is a buffer that the forward pass updates (running statistics), not a parameter.
    pub(super) buffer: bool,
}

impl Entry {
    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.description.shape.iter().product()
    }
}

/// What must be equal on all ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) path: String,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: String,
    /// Whether it was to be trained when the model was attached. Frozen parameters and buffers are
    /// not.
    pub(super) trained: bool,
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let frozen = if self.trained { "" } else { ", frozen" };
        write!(f, "`{}` {}{:?}{frozen}", self.path, self.dtype, self.shape)
    }
}

impl Parameters {
    /// Lists a model's tensors. Initialises those that Burn has not made yet.
    pub(super) fn of<M: Module>(model: &M) -> Self {
        let mut lister = Lister::default();
        model.visit(&mut lister);
        Self {
            entries: lister.entries,
            by_id: lister.by_id,
        }
    }

    /// The place of a parameter in the list.
    pub(super) fn index(&self, id: ParamId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Finds the buffers of a hooked model: Burn traverses them as if they were frozen parameters, but
    /// drops the reparameterization (named `hook`) that was put on them.
    pub(super) fn mark_buffers<M: Module>(&mut self, model: &M, hook: &str) {
        let mut finder = HookFinder {
            hook,
            last: None,
            hooked: HashSet::new(),
            floats: HashSet::new(),
        };
        model.visit(&mut finder);
        for id in finder.floats.difference(&finder.hooked) {
            if let Some(&index) = self.by_id.get(id) {
                let entry = &mut self.entries[index];
                entry.buffer = !entry.description.trained;
            }
        }
    }

    /// Compares the lists of all ranks with that of rank 0.
    pub(super) fn check_equal(&self, group: &ProcessGroup) -> Result<()> {
        let rank = group.global_rank();
        let ours: Vec<&Description> = self
            .entries
            .iter()
            .map(|entry| &entry.description)
            .collect();
        let control = |peer: usize, message| Error::Control {
            rank,
            peer,
            message,
        };
        let bytes = crate::control::encode(&ours).map_err(|message| control(rank, message))?;
        let lists = group.all_gather_bytes(&bytes)?;
        let lists = lists
            .iter()
            .zip(group.ranks())
            .map(|(bytes, &peer)| {
                crate::control::decode(bytes).map_err(|message| control(peer, message))
            })
            .collect::<Result<Vec<Vec<Description>>>>()?;
        // Every rank makes the same comparison, and so gives the same error.
        for (list, &differing) in lists.iter().zip(group.ranks()).skip(1) {
            if let Some(difference) = first_difference(list, &lists[0]) {
                return Err(Error::ModelMismatch {
                    rank: differing,
                    peer: group.ranks()[0],
                    difference,
                });
            }
        }
        Ok(())
    }
}

/// Says where two lists differ first.
fn first_difference(theirs: &[Description], reference: &[Description]) -> Option<String> {
    for (their, expected) in theirs.iter().zip(reference) {
        if their != expected {
            return Some(format!("it has {their} where {expected} is expected"));
        }
    }
    match theirs.len().cmp(&reference.len()) {
        std::cmp::Ordering::Less => Some(format!("it lacks {}", reference[theirs.len()])),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(format!("it has {} besides", theirs[reference.len()])),
    }
}

#[derive(Default)]
struct Lister {
    path: Vec<String>,
    entries: Vec<Entry>,
    by_id: HashMap<ParamId, usize>,
}

impl Lister {
    fn add(&mut self, id: ParamId, shape: Vec<usize>, dtype: DType, device: Device, trained: bool) {
        if self.by_id.contains_key(&id) {
            return;
        }
        self.by_id.insert(id, self.entries.len());
        self.entries.push(Entry {
            description: Description {
                path: self.path.join("."),
                shape,
                dtype: dtype.name().to_owned(),
                trained,
            },
            dtype,
            device,
            buffer: false,
        });
    }
}

impl ModuleVisitor for Lister {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.base();
        let (shape, dtype, device) = (tensor.dims().to_vec(), tensor.dtype(), tensor.device());
        self.add(param.id, shape, dtype, device, tensor.is_require_grad());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let tensor = param.base();
        let (shape, dtype, device) = (tensor.dims().to_vec(), tensor.dtype(), tensor.device());
        self.add(param.id, shape, dtype, device, false);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let tensor = param.base();
        let (shape, dtype, device) = (tensor.dims().to_vec(), tensor.dtype(), tensor.device());
        self.add(param.id, shape, dtype, device, false);
    }
}

/// Finds the float tensors that carry a hook: Burn enters it right after it visits the tensor.
struct HookFinder<'a> {
    hook: &'a str,
    last: Option<ParamId>,
    hooked: HashSet<ParamId>,
    floats: HashSet<ParamId>,
}

impl ModuleVisitor for HookFinder<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        if name == self.hook && container_type == "Reparameterization" {
            self.hooked.extend(self.last.take());
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.floats.insert(param.id);
        self.last = Some(param.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(path: &str, shape: &[usize]) -> Description {
        Description {
            path: path.into(),
            shape: shape.to_vec(),
            dtype: "f32".into(),
            trained: true,
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let reference = [description("a", &[2, 3]), description("b", &[3])];
        assert_eq!(first_difference(&reference, &reference), None);
        assert_eq!(
            first_difference(&[description("a", &[2, 4])], &reference).unwrap(),
            "it has `a` f32[2, 4] where `a` f32[2, 3] is expected"
        );
        assert_eq!(
            first_difference(&reference[..1], &reference).unwrap(),
            "it lacks `b` f32[3]"
        );
        assert_eq!(
            first_difference(&reference, &reference[..1]).unwrap(),
            "it has `b` f32[3] besides"
        );
    }
}
