//! The tensors of a module by their paths: taken out of one model, and put into another of the same kind.

use super::parameters::Path;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};
use std::any::Any;
use std::collections::HashMap;

/// Tensors of any rank and kind.
pub(super) type NamedTensors = HashMap<String, Box<dyn Any>>;

/// A model with the tensors of another of its kind.
pub(crate) fn copy_into<M: Module>(from: &M, into: M) -> M {
    into.map(&mut Replacer::new(&TensorCollector::of(from, |_| true)))
}

/// A copy of a model with running states of its own: those of a module are shared by all its clones, and so by
/// the ranks of a process that were given clones.
pub(crate) fn with_own_states<M: Module>(model: &M) -> M {
    // The way to validation and back makes new states, and loses settings of tensors (gradient
    // checkpointing), which come back with the tensors.
    copy_into(model, model.valid().train())
}

/// Tensors of a module, by their paths.
pub(super) struct TensorCollector<F> {
    path: Path,
    wanted: F,
    tensors: NamedTensors,
}

impl<F: Fn(&str) -> bool> TensorCollector<F> {
    /// Those whose paths are wanted.
    pub(super) fn of<M: Module>(module: &M, wanted: F) -> NamedTensors {
        let mut values = Self {
            path: Path::default(),
            wanted,
            tensors: HashMap::new(),
        };
        module.visit(&mut values);
        values.tensors
    }

    fn note(&mut self, tensor: impl FnOnce() -> Box<dyn Any>) {
        let path = self.path.joined();
        if (self.wanted)(&path) {
            self.tensors.insert(path, tensor());
        }
    }
}

impl<F: Fn(&str) -> bool> ModuleVisitor for TensorCollector<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.note(|| Box::new(param.base()));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.note(|| Box::new(param.base()));
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.note(|| Box::new(param.base()));
    }
}

/// Puts tensors in the places of a module that have their paths.
pub(super) struct Replacer<'a> {
    path: Path,
    values: &'a NamedTensors,
}

impl<'a> Replacer<'a> {
    pub(super) fn new(values: &'a NamedTensors) -> Self {
        let path = Path::default();
        Self { path, values }
    }

    fn value<T: Clone + 'static>(&self) -> Option<T> {
        let value = self.values.get(&self.path.joined())?;
        value.downcast_ref().cloned()
    }
}

impl ModuleMapper for Replacer<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.value() {
            Some(value) => param.map(|_| value),
            None => param,
        }
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        match self.value() {
            Some(value) => param.map(|_| value),
            None => param,
        }
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        match self.value() {
            Some(value) => param.map(|_| value),
            None => param,
        }
    }
}
