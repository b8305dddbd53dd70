//! The hook with a recorder in the reducer's place.

use super::*;
use crate::ddp::reducer::messages::ReducerCommand;
use crate::ddp::use_tracker::settle::{Refusal, StepPart};
use crate::ddp::use_tracker::{PassScope, UseTracker};
use burn::module::{ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Gradients as Container;
use burn::tensor::activation::relu;
use crossbeam::channel::unbounded;
use parking_lot::Mutex;
use recorder::{Event, Recorder, probed};

mod recorder;

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
        let gradients = x.mean().backward();
        // Each weight right after its layer, before backward goes on to the layer below. Hooks
        // that all fired at the end would come after the last `Between`. The first step only watches.
        let expected: Vec<_> = (0..4)
            .rev()
            .flat_map(|i| {
                let weight = (step > 0).then_some(Event::Weight(i));
                [Some(Event::Between(i)), weight].into_iter().flatten()
            })
            .collect();
        assert_eq!(*recorder.events.lock(), expected);
        recorder.events.lock().clear();
        let part = recorder.step(&gradients);
        assert_eq!(part.ready_order, [3, 2, 1, 0]);
        assert_eq!(which(&part), [step > 0; 4]);
        assert_eq!(
            recorder.handed.try_iter().count(),
            if step > 0 { 4 } else { 0 }
        );
    }
}

/// For each parameter, true if it was handed over.
fn which(part: &StepPart) -> Vec<bool> {
    part.handed.iter().map(Option::is_some).collect()
}

fn input() -> Tensor<2> {
    Tensor::ones([2, 4], &Device::flex().autodiff())
}

/// A recorder of a model that has had its first step, in which gradients are only watched.
fn watched(layers: usize) -> (Arc<Recorder>, Vec<Linear>) {
    let recorder = Recorder::new(layers);
    let model = hooked(layers, &recorder);
    let mut x = input();
    for layer in &model {
        x = layer.forward(x);
    }
    recorder.step(&x.sum().backward());
    (recorder, model)
}

/// The gradients that were handed over: which parameters', and their sums of parts.
fn handed(recorder: &Recorder) -> Vec<(usize, Vec<f32>)> {
    let commands = recorder.handed.try_iter();
    let readings = commands.filter_map(|command| match command {
        ReducerCommand::Ready(reading) => Some(reading.into_parts()),
        _ => None,
    });
    let read = readings.map(|(parameter, parts)| {
        let mut sum = vec![0.0; 16];
        for part in parts {
            let part = part.read().unwrap();
            for (sum, part) in sum.iter_mut().zip(part.iter::<f32>()) {
                *sum += part;
            }
        }
        (parameter, sum)
    });
    read.collect()
}

#[test]
fn a_weight_used_twice_is_handed_over_once_with_both_contributions() {
    let (recorder, model) = watched(1);
    let loss = model[0].forward(model[0].forward(input())).sum();
    let gradients = loss.backward();
    assert!(which(&recorder.step(&gradients))[0]);
    let handed = handed(&recorder);

    // The same without hooks.
    let weight = model[0].weight.base().detach().require_grad();
    let plain = input()
        .matmul(weight.clone())
        .matmul(weight.clone())
        .sum()
        .backward();
    let expected = weight.grad(&plain).unwrap().into_data();
    assert_eq!(handed, [(0, expected.try_to_vec().unwrap())]);
}

#[test]
fn a_use_that_does_not_reach_the_loss_waits_for_the_end_once() {
    let (recorder, model) = watched(1);
    for step in 0..3 {
        let _unused = model[0].forward(input());
        let gradients = model[0].forward(input()).sum().backward();
        // The next step is taken to be alike.
        assert_eq!(which(&recorder.step(&gradients)), [step > 0]);
        let left = model[0].weight.base().grad(&gradients);
        assert_eq!(left.is_some(), step == 0);
    }
}

#[test]
fn passes_interleave_and_each_keeps_its_own_gradients() {
    let (recorder, model) = watched(1);
    let first = model[0].forward(input()).sum();
    let second = model[0].forward(input().mul_scalar(3.0)).sum();
    let (first, second) = (first.backward(), second.backward());
    // Neither was taken for complete: two uses were to come.
    for (gradients, scale) in [(&first, 2.0), (&second, 6.0)] {
        assert_eq!(recorder.tracker.passes_in(gradients).len(), 1);
        assert_eq!(which(&recorder.step(gradients)), [false]);
        let gradient = model[0].weight.base().grad(gradients).unwrap();
        assert_eq!(
            gradient.into_data().try_to_vec::<f32>().unwrap(),
            [scale; 16]
        );
    }
    assert_eq!(recorder.tracker.unsettled(), None);
}

#[test]
fn a_pass_that_is_given_to_no_call_is_known() {
    let (recorder, model) = watched(2);
    let lost = model[1].forward(input()).sum().backward();
    assert_eq!(recorder.tracker.unsettled(), Some(1));
    drop(lost);
    // Stepped, as an optimizer would.
    let model = model.map(&mut Replace);
    let gradients = model[1].forward(input()).sum().backward();
    let passes = recorder.tracker.passes_in(&gradients);
    assert_eq!(
        recorder.tracker.take_part(&passes).unwrap_err(),
        Refusal::Lost(1)
    );
}

#[test]
fn a_pass_is_not_synchronised_before_one_that_was_handed_over() {
    let (recorder, model) = watched(1);
    let _first = model[0].forward(input()).sum().backward();
    let second = model[0].forward(input()).sum().backward();
    let passes = recorder.tracker.passes_in(&second);
    assert_eq!(
        recorder.tracker.take_part(&passes).unwrap_err(),
        Refusal::Earlier(0)
    );
}

#[test]
fn scopes_nest_and_forget_no_counts() {
    let (recorder, model) = watched(1);
    let twice = || model[0].forward(model[0].forward(input())).sum();
    for _step in 0..2 {
        let loss = twice();
        {
            let _outer = recorder.tracker.enter(PassScope::Ignore);
            {
                let _inner = recorder.tracker.enter(PassScope::Keep);
            }
            // Still inside of the outer one.
            twice().backward();
        }
        assert_eq!(recorder.tracker.unsettled(), None);
        let gradients = loss.backward();
        assert_eq!(which(&recorder.step(&gradients)), [true]);
    }
}

#[test]
fn what_comes_after_a_gradient_was_handed_over_stays_in_the_container() {
    let (recorder, model) = watched(2);
    let penalty = model[1].weight.base().sum();
    let output = model[1].forward(model[0].forward(input()).detach()).sum();
    let gradients = (output + penalty).backward();
    assert!(which(&recorder.step(&gradients))[1]);
    // The penalty reads the weight itself, which backward comes to after the hook.
    let late = model[1].weight.base().grad(&gradients).unwrap();
    assert_eq!(late.into_data().try_to_vec::<f32>().unwrap(), [1.0; 16]);
}

#[test]
fn a_parameter_that_got_a_late_part_waits_for_the_end_for_a_while() {
    let (recorder, model) = watched(1);
    recorder.tracker.averaged(&[0]);
    for _step in 0..3 {
        let gradients = model[0].forward(input()).sum().backward();
        assert_eq!(which(&recorder.step(&gradients)), [false]);
    }
}

#[test]
fn a_parameter_that_was_frozen_is_not_handed_over() {
    let (ready, handed) = unbounded();
    let recorder = Arc::new(Recorder {
        tracker: UseTracker::new(0, &[false], ready),
        handed,
        events: Mutex::default(),
    });
    let model = hooked(1, &recorder);
    for _step in 0..2 {
        let gradients = model[0].forward(input()).sum().backward();
        assert_eq!(which(&recorder.step(&gradients)), [false]);
    }
}

#[test]
fn a_pass_that_is_dropped_after_it_was_handed_over_is_void() {
    let (recorder, model) = watched(1);
    let pass = || model[0].forward(input()).sum().backward();
    let dropped = pass();
    assert_eq!(recorder.tracker.take_void(), None);
    recorder
        .tracker
        .drop_passes(&recorder.tracker.passes_in(&dropped));
    assert_eq!(recorder.tracker.take_void(), Some(vec![true]));
    recorder.tracker.was_void();
    // Others may be dropped too, so nothing is handed over for a while.
    let part = recorder.step(&pass());
    assert!(part.again && !which(&part)[0]);
}

#[test]
fn many_uses_of_a_parameter_share_one_depth() {
    let recorder = Recorder::new(2);
    let model = hooked(2, &recorder);
    let mut x = input();
    for _time in 0..500 {
        x = model[1].forward(model[0].forward(x)).tanh();
    }
    let gradients = x.sum().backward();
    assert_eq!(recorder.step(&gradients).ready_order.len(), 2);
    assert_eq!(recorder.tracker.anchors(), 2);
}

#[test]
fn a_copy_that_trains_on_its_own_leaves_the_gradient_to_the_end() {
    let (recorder, model) = watched(1);
    // As the optimizer does: the same parameter with another tensor.
    let stepped = model.clone().map(&mut Replace);
    let loss = stepped[0].forward(input()).sum() + model[0].forward(input()).sum();
    let gradients = loss.backward();
    assert_eq!(which(&recorder.step(&gradients)), [false]);
    assert!(stepped[0].weight.base().grad(&gradients).is_some());
}

struct Replace;

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| (tensor * 0.5).detach().require_grad())
    }
}

#[test]
fn hooks_of_a_closed_tracker_do_nothing() {
    let recorder = Recorder::new(1);
    let model = hooked(1, &recorder);
    recorder.tracker.close();
    let gradients = model[0].forward(input()).sum().backward();
    assert!(model[0].weight.base().grad(&gradients).is_some());
    assert_eq!(recorder.tracker.anchors(), 0);
}

#[test]
fn hooks_turn_to_another_tracker() {
    let (recorder, model) = watched(2);
    recorder.tracker.close();
    let other = Recorder::new(2);
    let sink: Arc<dyn GradientSink> = other.clone();
    let target = |parameter| HookTarget {
        sink: Arc::clone(&sink),
        parameter,
    };
    let model = retarget(model, vec![target(1), target(0)]);
    let gradients = model[0].forward(input()).sum().backward();
    let part = other.step(&gradients);
    assert_eq!(part.ready_order, [1]);
}
