//! The list of a model's tensors, in the order of Burn's module traversal: the same on every rank
//! that built the same model, and the order in which everything that needs one is done.

use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, DType, Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// All tensors of a model. Parameters that share an id (one tensor in two places) are one entry.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) entries: Vec<TensorInfo>,
    by_path: HashMap<String, usize>,
}

/// One tensor of a model.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub(super) description: Description,
    pub(super) dtype: DType,
    pub(super) device: Device,
    /// True for a buffer that the forward pass updates (running statistics), not a parameter.
    pub(super) buffer: bool,
    /// True if it has a hook; a parameter with another reparameterization has none.
    pub(super) hooked: bool,
}

impl TensorInfo {
    /// The number of elements.
    pub(super) fn len(&self) -> usize {
        self.description.shape.iter().product()
    }
}

/// The properties of a tensor that must be equal on all ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) path: String,
    /// The other places of the same tensor.
    pub(super) also: Vec<String>,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: String,
    /// True if it was to be trained when the model was attached; false for frozen parameters and buffers.
    pub(super) trained: bool,
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` {}{:?}", self.path, self.dtype, self.shape)?;
        if !self.trained {
            write!(f, ", frozen")?;
        }
        if !self.also.is_empty() {
            write!(f, " (also `{}`)", self.also.join("`, `"))?;
        }
        Ok(())
    }
}

impl Parameters {
    /// Lists a model's tensors. Initialises those that Burn has not made yet.
    pub(super) fn of<M: Module>(model: &M) -> Self {
        let mut lister = Lister::default();
        model.visit(&mut lister);
        Self {
            entries: lister.entries,
            by_path: lister.by_path,
        }
    }

    /// Returns the index in the list of the parameter at a path.
    pub(super) fn index(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// Finds the buffers of a hooked model: Burn traverses them as if they were frozen parameters, but
    /// drops the reparameterization that was put on them.
    pub(super) fn mark_buffers<M: Module>(&mut self, model: &M) {
        let mut finder = BufferFinder::default();
        model.visit(&mut finder);
        finder.settle_last();
        for path in finder.bare {
            if let Some(index) = self.index(&path) {
                let entry = &mut self.entries[index];
                entry.buffer = !entry.description.trained;
            }
        }
    }

    /// Compares the lists of all ranks with that of rank 0.
    pub(super) fn check_equal(&self, group: &ProcessGroup) -> Result<()> {
        let ours = self.entries.iter().map(|entry| entry.description.clone());
        let lists = group.objects().all_gather(&ours.collect::<Vec<_>>())?;
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

/// A visitor's position in a model.
#[derive(Debug, Default)]
pub(super) struct Path(Vec<String>);

impl Path {
    pub(super) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(super) fn exit(&mut self) {
        self.0.pop();
    }

    /// The names on the way, as Burn writes them for reparameterizers too.
    pub(super) fn joined(&self) -> String {
        self.0.join(".")
    }
}

#[derive(Default)]
struct Lister {
    path: Path,
    entries: Vec<TensorInfo>,
    by_id: HashMap<ParamId, usize>,
    by_path: HashMap<String, usize>,
}

impl Lister {
    fn add(&mut self, id: ParamId, shape: Vec<usize>, dtype: DType, device: Device, trained: bool) {
        let path = self.path.joined();
        let next = self.entries.len();
        let index = *self.by_id.entry(id).or_insert(next);
        self.by_path.insert(path.clone(), index);
        if index < next {
            self.entries[index].description.also.push(path);
            return;
        }
        self.entries.push(TensorInfo {
            description: Description {
                path,
                also: Vec::new(),
                shape,
                dtype: name(dtype),
                trained,
            },
            dtype,
            device,
            buffer: false,
            hooked: false,
        });
    }
}

/// A type by name; a quantised one with all that says how its bytes are to be read.
fn name(dtype: DType) -> String {
    match dtype {
        DType::QFloat(_) => format!("{dtype:?}"),
        _ => dtype.name().to_owned(),
    }
}

impl ModuleVisitor for Lister {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
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

/// Finds the float tensors that carry no reparameterization: Burn enters one right after it visits the
/// tensor.
#[derive(Default)]
struct BufferFinder {
    path: Path,
    last: Option<String>,
    bare: Vec<String>,
}

impl BufferFinder {
    fn settle_last(&mut self) {
        self.bare.extend(self.last.take());
    }
}

impl ModuleVisitor for BufferFinder {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        if container_type == "Reparameterization" {
            self.last = None;
        }
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        self.settle_last();
        self.last = Some(self.path.joined());
    }
}

/// Checks the properties that hold for any bytes received as the list of a peer's parameters.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_parameters(bytes: &[u8]) {
    crate::fuzzing::check_message::<Vec<Description>>(bytes);
    if let Ok(list) = crate::codec::decode::<Vec<Description>>(bytes) {
        assert_eq!(first_difference(&list, &list), None);
        assert_eq!(first_difference(&[], &list).is_some(), !list.is_empty());
    }
}

/// A list of parameters.
#[cfg(test)]
pub(crate) fn parameters_seed() -> Vec<u8> {
    let description = |path: &str, trained| Description {
        path: path.to_owned(),
        also: vec!["tied.weight".to_owned()],
        shape: vec![32, 3, 70_000],
        dtype: "f32".to_owned(),
        trained,
    };
    let list = [
        description("conv1.weight", true),
        description("norm.mean", false),
    ];
    crate::codec::encode(&list.to_vec()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(path: &str, shape: &[usize]) -> Description {
        Description {
            path: path.into(),
            also: Vec::new(),
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
