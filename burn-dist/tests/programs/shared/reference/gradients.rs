//! Gradients as lists of numbers, by the paths of parameters.

use super::super::net::Net;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use std::collections::BTreeMap;

/// Gradients of a model's parameters by path.
pub(super) type Sums = BTreeMap<String, Vec<f64>>;

pub(super) fn add(to: &mut Sums, more: Sums) {
    for (path, values) in more {
        let sum = to.entry(path).or_insert_with(|| vec![0.0; values.len()]);
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += value;
        }
    }
}

/// Makes new leaves, as attaching does.
pub(super) struct NewLeaves;

impl ModuleMapper for NewLeaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let trained = tensor.is_require_grad();
            tensor.detach().set_require_grad(trained)
        })
    }
}

/// Takes the gradients of a model's parameters, by path.
pub(super) fn take(net: &Net, gradients: &mut Gradients) -> Sums {
    struct Taker<'a> {
        path: Vec<String>,
        gradients: &'a mut Gradients,
        sums: Sums,
    }
    impl ModuleVisitor for Taker<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.base();
            if let Some(gradient) = tensor.grad_remove(self.gradients) {
                let values = gradient.into_data().iter::<f64>().collect();
                self.sums.insert(self.path.join("."), values);
            }
        }
    }
    let mut taker = Taker {
        path: Vec::new(),
        gradients,
        sums: Sums::new(),
    };
    net.visit(&mut taker);
    taker.sums
}

/// Makes an optimizer's gradients.
pub(super) fn put(net: &Net, sums: Sums, options: (&Device, DType)) -> GradientsParams {
    struct Putter<'a> {
        path: Vec<String>,
        sums: Sums,
        options: (&'a Device, DType),
        gradients: GradientsParams,
    }
    impl ModuleVisitor for Putter<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(values) = self.sums.remove(&self.path.join(".")) {
                let data = TensorData::new(values, param.base().shape());
                let gradient = Tensor::<D>::from_data(data, self.options);
                self.gradients.register(param.id, gradient);
            }
        }
    }
    let device = options.0.clone().without_autodiff();
    let mut putter = Putter {
        path: Vec::new(),
        sums,
        options: (&device, options.1),
        gradients: GradientsParams::new(),
    };
    net.visit(&mut putter);
    putter.gradients
}
