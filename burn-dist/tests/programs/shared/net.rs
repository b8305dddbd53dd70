//! The models that programs train: a few layers of 2 by 2 weights, and losses over them.

use super::Random;
use super::program::{Op, Program, Ref, Segment, Spec, Term};
use burn::module::{Lora, Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Module, Debug)]
pub(crate) struct Net {
    pub(crate) layers: Vec<Linear>,
    pub(crate) scale: Option<Param<Tensor<1>>>,
}

/// A module that contains another.
#[derive(Module, Debug)]
pub(crate) struct Wrapper {
    head: Linear,
    pub(crate) inner: Net,
}

impl Wrapper {
    pub(crate) fn of(inner: Net, device: &Device) -> Self {
        Self {
            head: LinearConfig::new(2, 1).init(device).no_grad(),
            inner,
        }
    }
}

pub(crate) fn dtype(double: bool) -> DType {
    if double { DType::F64 } else { DType::F32 }
}

fn drawn<const D: usize>(
    random: &mut Random,
    shape: [usize; D],
    options: (&Device, DType),
) -> Tensor<D> {
    let elements = shape.iter().product();
    let values: Vec<f64> = (0..elements).map(|_| random.unit()).collect();
    Tensor::from_data(TensorData::new(values, shape), options)
}

fn layer(random: &mut Random, options: (&Device, DType)) -> Linear {
    let mut layer = LinearConfig::new(2, 2).init(options.0);
    layer.weight = Param::from_tensor(drawn(random, [2, 2], options));
    layer.bias = Some(Param::from_tensor(drawn(random, [2], options)));
    layer
}

impl Net {
    /// A model with values that depend on a seed.
    pub(crate) fn new(spec: &Spec, double: bool, seed: u64, device: &Device) -> Self {
        let random = &mut Random(seed);
        let options = (device, dtype(double));
        let mut net = Self {
            layers: (0..spec.layers).map(|_| layer(random, options)).collect(),
            scale: None,
        };
        if spec.lora {
            let dtype = dtype(double).into();
            net = net.apply_lora(Lora::new(1, 2.0).set_dtype(dtype));
            net = net.map(&mut Redraw(random));
        }
        net.scale = spec
            .scale
            .then(|| Param::from_tensor(drawn(random, [2], options)));
        match spec.frozen {
            Some(layer) => net.freeze(layer),
            None => net,
        }
    }

    pub(crate) fn grow(&mut self, seed: u64, options: (&Device, DType)) {
        self.layers.push(layer(&mut Random(seed), options));
    }

    pub(crate) fn freeze(mut self, layer: usize) -> Self {
        if layer < self.layers.len() {
            self.layers[layer] = self.layers[layer].clone().no_grad();
        }
        self
    }

    pub(crate) fn unfreeze_layer(mut self, layer: usize) -> Self {
        if layer < self.layers.len() {
            self.layers[layer] = self.layers[layer].clone().unfreeze();
        }
        self
    }

    /// The way through some layers. Activations stay between -1 and 1.
    pub(crate) fn forward(&self, ops: &[Op], mut x: Tensor<2>) -> Tensor<2> {
        for op in ops {
            x = match (op, &self.scale) {
                (Op::Layer(layer), _) if *layer < self.layers.len() => {
                    self.layers[*layer].forward(x).tanh()
                }
                (Op::Scale, Some(scale)) => (x * scale.val().unsqueeze()).tanh(),
                _ => x,
            };
        }
        x
    }

    /// The paths of the trained parameters that some operations use through their hooks.
    fn used(&self, ops: &[Op]) -> BTreeSet<String> {
        let of_op = |op: &Op| match op {
            Op::Layer(layer) => format!("layers.{layer}."),
            Op::Scale => "scale".to_owned(),
        };
        let prefixes: Vec<String> = ops.iter().map(of_op).collect();
        let used = |path: &String| prefixes.iter().any(|prefix| path.starts_with(prefix));
        trained(self).into_iter().filter(used).collect()
    }

    /// A blend of a copy and a model.
    pub(crate) fn average(copy: Self, model: &Self) -> Self {
        struct Blend(Vec<Vec<f64>>);
        impl ModuleMapper for Blend {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let values = self.0.remove(0);
                param.map(|tensor| {
                    let (device, dtype) = (tensor.device(), tensor.dtype());
                    let data = TensorData::new(values, tensor.shape());
                    let other = Tensor::from_data(data, (&device, dtype));
                    ((tensor.detach() + other) * 0.5).detach()
                })
            }
        }
        copy.map(&mut Blend(values(model).into_values().collect()))
    }
}

/// Draws the values of all parameters again: Burn draws those of adapters from its own generator.
struct Redraw<'a>(&'a mut Random);

impl ModuleMapper for Redraw<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let (device, dtype) = (tensor.device(), tensor.dtype());
            let trained = tensor.is_require_grad();
            drawn(self.0, tensor.dims(), (&device, dtype)).set_require_grad(trained)
        })
    }
}

/// The trained parameters of a module.
pub(crate) fn trained<M: Module>(module: &M) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    visit(module, |path, trained, _| {
        if trained {
            paths.insert(path.to_owned());
        }
    });
    paths
}

/// The values of all float parameters, in the order of traversal.
pub(crate) fn values<M: Module>(module: &M) -> BTreeMap<(usize, String), Vec<f64>> {
    let mut all = BTreeMap::new();
    visit(module, |path, _, values| {
        let place = (all.len(), path.to_owned());
        all.insert(place, values());
    });
    all
}

/// Shows each float parameter: its path, whether it is trained, and its values.
fn visit<M: Module>(module: &M, see: impl FnMut(&str, bool, &dyn Fn() -> Vec<f64>)) {
    struct Visitor<F> {
        path: Vec<String>,
        see: F,
    }
    impl<F: FnMut(&str, bool, &dyn Fn() -> Vec<f64>)> ModuleVisitor for Visitor<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.base();
            let values = || tensor.clone().into_data().iter::<f64>().collect();
            (self.see)(&self.path.join("."), tensor.is_require_grad(), &values);
        }
    }
    module.visit(&mut Visitor {
        path: Vec::new(),
        see,
    });
}

/// Half the squares of all parameters, read around their hooks.
fn penalty(net: &Net) -> Option<Tensor<1>> {
    struct Squares(Option<Tensor<1>>);
    impl ModuleVisitor for Squares {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let squares = param.val().powi_scalar(2).sum().mul_scalar(0.5);
            self.0 = Some(match self.0.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
        }
    }
    let mut squares = Squares(None);
    net.visit(&mut squares);
    squares.0
}

/// A loss that a rank computes: a sum of terms over the models that are there. `None` if none of them is.
pub(crate) fn loss<'a>(
    program: &Program,
    terms: &[Term],
    device: &Device,
    net: impl Fn(Ref) -> Option<&'a Net>,
) -> Option<Tensor<1>> {
    let options = (device, dtype(program.double));
    let terms: Vec<Tensor<1>> = terms
        .iter()
        .filter_map(|term| match term {
            Term::Penalty { of, weight } => {
                Some(penalty(net(*of)?)?.mul_scalar(f64::from(*weight) / 100.0))
            }
            Term::Chain { segments, input } => {
                let random = &mut Random(u64::from(*input));
                let mut x = drawn(random, [2, 2], options);
                for Segment { of, ops, detach } in segments {
                    x = net(*of)?.forward(ops, x);
                    if *detach {
                        x = x.detach();
                    }
                }
                let target = drawn(random, [2, 2], options);
                Some((x - target).powi_scalar(2).sum())
            }
        })
        .collect();
    // Backward needs something that is trained.
    let nothing = Tensor::<1>::zeros([1], options).require_grad().sum();
    terms
        .into_iter()
        .reduce(|sum, term| sum + term)
        .map(|sum| sum + nothing)
}

/// The parameters that hooks see in the backward pass of such a loss, for each model or copy in it.
pub(crate) fn hooked<'a>(
    terms: &[Term],
    net: impl Fn(Ref) -> Option<&'a Net>,
) -> BTreeMap<Ref, BTreeSet<String>> {
    let mut hooked: BTreeMap<Ref, BTreeSet<String>> = BTreeMap::new();
    for term in terms {
        let Term::Chain { segments, .. } = term else {
            continue;
        };
        if segments.iter().any(|segment| net(segment.of).is_none()) {
            continue;
        }
        for segment in segments.iter().rev() {
            if segment.detach {
                break;
            }
            if let Some(net) = net(segment.of) {
                let used = net.used(&segment.ops);
                hooked.entry(segment.of).or_default().extend(used);
            }
        }
    }
    hooked.retain(|_, paths| !paths.is_empty());
    hooked
}
