//! The hook with a recorder in the reducer's place.

use super::*;
use crate::ddp::usage::Usage;
use burn::module::{ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use crossbeam::channel::unbounded;
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A layer's weight was handed over.
    Weight(usize),
    /// Backward passed between a layer and the next.
    Between(usize),
}

/// Writes down what happens in which order; counts and depths are those of a real [`Usage`].
#[derive(Debug)]
struct Recorder {
    usage: Usage,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    fn new(parameters: usize) -> Arc<Self> {
        Arc::new(Self {
            usage: Usage::new(parameters, unbounded().0),
            events: Mutex::default(),
        })
    }
}

impl GradientSink for Recorder {
    fn used(&self, parameter: usize, device: &Device) -> Tensor<1> {
        self.usage.used(parameter, device)
    }

    fn bind(&self, parameter: usize, leaf: Leaf) {
        self.usage.bind(parameter, leaf);
    }

    fn leaf(&self, parameter: usize) -> Option<Leaf> {
        self.usage.leaf(parameter)
    }

    fn arrived(&self, parameter: usize, others_came: bool) -> bool {
        self.usage.arrived(parameter, others_came)
    }

    fn complete(&self, parameter: usize, gradient: FloatTensor<Dispatch>) {
        self.events.lock().unwrap().push(Event::Weight(parameter));
        self.usage.complete(parameter, gradient);
    }
}

/// Stands between two layers: the same operation on an activation, with no depth of its own.
#[derive(Debug)]
struct Probe(Arc<Recorder>);

impl GradientSink for Probe {
    fn used(&self, _parameter: usize, device: &Device) -> Tensor<1> {
        Tensor::zeros([1], device)
    }

    fn bind(&self, _parameter: usize, _leaf: Leaf) {}

    fn leaf(&self, _parameter: usize) -> Option<Leaf> {
        None
    }

    fn arrived(&self, layer: usize, _others_came: bool) -> bool {
        self.0.events.lock().unwrap().push(Event::Between(layer));
        false
    }

    fn complete(&self, _parameter: usize, _gradient: FloatTensor<Dispatch>) {}
}

fn probed(activation: Tensor<2>, recorder: &Arc<Recorder>, layer: usize) -> Tensor<2> {
    let target = Target {
        sink: Arc::new(Probe(Arc::clone(recorder))),
        parameter: layer,
    };
    let anchor = target.sink.used(layer, &activation.device());
    Tensor::from_dispatch(Dispatch::gradient_hook(
        activation.into_dispatch(),
        anchor.into_dispatch(),
        target,
    ))
}

fn hooked(layers: usize, recorder: &Arc<Recorder>) -> Vec<Linear> {
    let device = Device::flex().autodiff();
    let model: Vec<Linear> = (0..layers)
        .map(|_| LinearConfig::new(4, 4).with_bias(false).init(&device))
        .collect();
    let sink: Arc<dyn GradientSink> = recorder.clone();
    model.apply_reparameterization(Hooks {
        sink: &sink,
        // Paths are `0.weight`, `1.weight`, and so on.
        index: |path: &str| path.split('.').next()?.parse().ok(),
    })
}

#[test]
fn gradients_are_handed_over_while_backward_runs() {
    let recorder = Recorder::new(4);
    let model = hooked(4, &recorder);
    for step in 0..3 {
        let mut x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
        for (i, layer) in model.iter().enumerate() {
            x = relu(layer.forward(x));
            // More depth for a parameter than in usual networks.
            for _ in 0..8 {
                x = x.tanh();
            }
            x = probed(x, &recorder, i);
        }
        x.mean().backward();
        // Each weight right after its layer, before backward goes on to the layer below. Hooks
        // that all fired at the end would come after the last `Between`.
        let expected: Vec<_> = (0..4)
            .rev()
            .flat_map(|i| [Event::Between(i), Event::Weight(i)])
            .collect();
        assert_eq!(*recorder.events.lock().unwrap(), expected);
        recorder.events.lock().unwrap().clear();
        let finished = recorder.usage.finish_step();
        assert_eq!(finished.ready_order, [3, 2, 1, 0]);
        // The first step only watches.
        assert_eq!(finished.handed, [step > 0; 4]);
        assert_eq!(finished.held, [step == 0; 4]);
        recorder.usage.hand_over_from_now(&[]);
    }
}

#[test]
fn a_weight_used_twice_is_handed_over_once_with_both_contributions() {
    let recorder = Recorder::new(1);
    let model = hooked(1, &recorder);
    let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
    let loss = model[0].forward(model[0].forward(x.clone())).sum();
    loss.backward();
    assert_eq!(*recorder.events.lock().unwrap(), [Event::Weight(0)]);
    let mut parts = recorder.usage.finish_step().parts.remove(0);
    let hooked = parts.remove(0).read().unwrap();

    // The same without hooks.
    let weight = model[0].weight.base().detach().require_grad();
    let plain = x
        .matmul(weight.clone())
        .matmul(weight.clone())
        .sum()
        .backward();
    let expected = weight.grad(&plain).unwrap().into_data();
    hooked.assert_eq(&expected, true);
}

#[test]
fn a_use_that_does_not_reach_the_loss_is_not_complete() {
    let recorder = Recorder::new(2);
    let model = hooked(2, &recorder);
    let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
    let _unused = model[1].forward(x.clone());
    model[0].forward(x).sum().backward();
    assert_eq!(recorder.usage.finish_step().held, [true, false]);
}

/// Runs so many forward passes and then so many backward passes, and gives the fault.
fn passes(forward_first: bool) -> Option<String> {
    let recorder = Recorder::new(1);
    let model = hooked(1, &recorder);
    let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
    let first = model[0].forward(x.clone()).sum();
    if forward_first {
        let second = model[0].forward(x).sum();
        first.backward();
        second.backward();
    } else {
        first.backward();
        model[0].forward(x).sum().backward();
    }
    recorder.usage.finish_step().fault
}

#[test]
fn a_second_backward_pass_is_a_fault_whenever_its_forward_pass_ran() {
    for forward_first in [false, true] {
        let fault = passes(forward_first).unwrap();
        assert!(fault.contains("second backward"), "{fault}");
    }
}

#[test]
fn many_uses_of_a_parameter_share_one_depth() {
    let recorder = Recorder::new(2);
    let model = hooked(2, &recorder);
    let mut x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
    for _time in 0..500 {
        x = model[1].forward(model[0].forward(x)).tanh();
    }
    x.sum().backward();
    assert_eq!(recorder.usage.finish_step().held, [true, true]);
    assert_eq!(recorder.usage.anchors(), 2);
}

#[test]
fn a_copy_that_trains_on_its_own_leaves_the_gradient_to_the_end() {
    let recorder = Recorder::new(1);
    let model = hooked(1, &recorder);
    // As the optimizer does: the same parameter with another tensor.
    let stepped = model.clone().map(&mut Replace);
    let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
    let loss = stepped[0].forward(x.clone()).sum() + model[0].forward(x).sum();
    let gradients = loss.backward();
    assert_eq!(recorder.usage.finish_step().held, [false]);
    assert!(stepped[0].weight.base().grad(&gradients).is_some());
}

struct Replace;

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| (tensor * 0.5).detach().require_grad())
    }
}

#[test]
fn hooks_of_a_closed_usage_do_nothing() {
    let recorder = Recorder::new(1);
    let model = hooked(1, &recorder);
    recorder.usage.close();
    let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
    let gradients = model[0].forward(x).sum().backward();
    assert!(model[0].weight.base().grad(&gradients).is_some());
    assert_eq!(recorder.usage.anchors(), 0);
}
