//! Calls that can't be right end in an error that says why, on every rank, at once.

use super::{Failure, linear, run};
use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Gradients, Tensor};
use burn_dist::Error;
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::launch::{Launcher, Worker};
use std::sync::Mutex;

/// The messages that the ranks saw, and what the launcher made of them.
pub(crate) fn messages(
    ranks: usize,
    f: impl Fn(&Worker) -> Result<(), Failure> + Sync,
) -> Vec<String> {
    let seen = Mutex::new(vec![String::new(); ranks]);
    let outcome = run(ranks, |worker| {
        let result = f(worker);
        if let Err(error) = &result {
            seen.lock().unwrap()[worker.rank()] = error.to_string();
        }
        result
    });
    outcome.unwrap_err();
    seen.into_inner().unwrap()
}

#[track_caller]
pub(crate) fn assert_all(messages: &[String], expected: &str) {
    for message in messages {
        assert!(message.contains(expected), "{message}");
    }
}

/// A small model, attached.
fn attached(worker: &Worker) -> burn_dist::Result<(Ddp, Linear)> {
    let ddp = DdpConfig::new().init(worker.group())?;
    let model = ddp.attach(linear(3, 2, worker.device()))?;
    Ok((ddp, model))
}

/// A backward pass of such a model.
fn pass(model: &Linear, device: &Device) -> Gradients {
    let batch = Tensor::<2>::ones([1, 3], device);
    model.forward(batch).sum().backward()
}

#[test]
fn models_that_differ_are_named() {
    let messages = messages(3, |worker| {
        let outputs = if worker.rank() == 1 { 4 } else { 2 };
        let model: Linear = linear(3, outputs, worker.device());
        DdpConfig::new().init(worker.group())?.attach(model)?;
        Ok(())
    });
    for message in messages {
        assert!(
            message.contains("the model of rank 1 differs from that of rank 0")
                && message.contains("`weight` f32[3, 4] where `weight` f32[3, 2]"),
            "{message}"
        );
    }
}

#[test]
fn a_replica_that_drifted_is_named() {
    let messages = messages(4, |worker| {
        let (ddp, mut model) = attached(worker)?;
        if worker.rank() == 2 {
            model.weight = model
                .weight
                .map(|weight| (weight + 1.0).detach().require_grad());
        }
        ddp.verify_replicas(&model)?;
        Ok(())
    });
    for message in messages {
        assert!(
            message.starts_with("rank 2 hold other parameters than rank 0"),
            "{message}"
        );
    }
}

/// The error that a launch ends with.
fn launched(ranks: usize, f: impl Fn(&Worker) -> Result<(), Failure> + Sync) -> String {
    run(ranks, f).unwrap_err().to_string()
}

#[test]
fn a_backward_pass_whose_gradients_are_given_to_no_call_fails_the_job() {
    let error = launched(2, |worker| {
        let (ddp, model) = attached(worker)?;
        let pass = || pass(&model, worker.device());
        if worker.rank() == 1 {
            pass();
        }
        ddp.synchronize(pass(), &model)?;
        Ok(())
    });
    assert!(
        error.contains("rank 1") && error.contains("given to no call") && error.contains("`bias`"),
        "{error}"
    );
}

#[test]
fn a_loop_that_never_synchronises_fails_the_job() {
    let error = launched(2, |worker| {
        let (_ddp, mut model) = attached(worker)?;
        let mut optimizer = SgdConfig::new().init();
        for _step in 0..3 {
            let gradients = GradientsParams::from_grads(pass(&model, worker.device()), &model);
            model = optimizer.step(0.1, model, gradients);
        }
        Ok(())
    });
    assert!(error.contains("given to no call"), "{error}");
    assert!(
        error.contains("`synchronize` (in the place of `GradientsParams::from_grads`)"),
        "{error}"
    );
}

#[test]
fn a_step_that_forgot_to_synchronise_is_found_in_the_next() {
    let messages = messages(2, |worker| {
        let (ddp, mut model) = attached(worker)?;
        let mut optimizer = SgdConfig::new().init();
        for step in 0..3 {
            let gradients = pass(&model, worker.device());
            let gradients = if step == 1 {
                GradientsParams::from_grads(gradients, &model)
            } else {
                ddp.synchronize(gradients, &model)?
            };
            model = optimizer.step(0.1, model, gradients);
        }
        Ok(())
    });
    assert_all(&messages, "given to no call");
}

#[test]
fn the_error_of_a_worker_goes_before_what_its_drop_finds() {
    let error = launched(2, |worker| {
        let (_ddp, model) = attached(worker)?;
        let _gradients = pass(&model, worker.device());
        Err("the disk is full".into())
    });
    assert!(error.contains("the disk is full"), "{error}");
}

#[test]
fn a_pass_before_one_that_was_handed_over_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let (ddp, model) = attached(worker)?;
        let pass = || pass(&model, worker.device());
        ddp.synchronize(pass(), &model)?;
        let (first, second) = (pass(), pass());
        ddp.synchronize(second, &model)?;
        ddp.synchronize(first, &model)?;
        Ok(())
    });
    assert_all(&messages, "handed over by an earlier backward pass");
}

#[test]
fn a_container_of_another_pass_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let device = worker.device();
        let (first, one) = attached(worker)?;
        let (second, other) = attached(worker)?;
        let x = Tensor::<2>::ones([1, 3], device);
        let gradients = (one.forward(x.clone()) + other.forward(x)).sum().backward();
        // A dummy for the first of two models that share a loss.
        first.synchronize(loss_of(device), &one)?;
        second.synchronize(gradients, &other)?;
        Ok(())
    });
    assert_all(&messages, "`synchronize_from` if several models share it");
}

/// The attached model beside another, with gradients of both.
#[derive(Module, Debug)]
struct Two {
    one: Linear,
    other: Linear,
}

/// Returns the outcome, on each rank, of a loss over both parts of the model that `build` makes of an attached
/// one.
fn two(build: impl Fn(&Worker, &Linear) -> burn_dist::Result<Linear> + Sync) -> Vec<String> {
    messages(2, |worker| {
        let (ddp, one) = attached(worker)?;
        let other = build(worker, &one)?;
        let model = Two { one, other };
        let x = Tensor::<2>::ones([1, 3], worker.device());
        let loss = model.one.forward(x.clone()).sum() + model.other.forward(x).sum();
        ddp.synchronize(loss.backward(), &model)?;
        Ok(())
    })
}

#[test]
fn two_copies_that_both_got_gradients_are_refused_on_all_ranks() {
    let messages = two(|_worker, one| Ok(one.clone().map(&mut Halve)));
    assert_all(&messages, "copies of one attached parameter");
}

#[test]
fn a_part_whose_ddp_is_gone_is_refused_on_all_ranks() {
    let messages = two(|worker, _one| Ok(attached(worker)?.1));
    assert_all(&messages, "its own Ddp is gone");
}

#[test]
fn a_part_of_the_model_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let device = worker.device();
        let ddp = DdpConfig::new().init(worker.group())?;
        let layer = || linear(3, 3, device);
        let model: Vec<Linear> = ddp.attach(vec![layer(), layer()])?;
        let gradients = pass(&model[0], device);
        ddp.synchronize(gradients, &model[0])?;
        Ok(())
    });
    assert_all(&messages, "`1.weight` was attached to be trained");
    assert_all(&messages, "begin with `weight`");
}

#[test]
fn the_model_that_was_given_to_attach_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let ddp = DdpConfig::new().init(worker.group())?;
        let model: Linear = linear(3, 2, worker.device());
        ddp.attach(model.clone())?;
        ddp.synchronize(pass(&model, worker.device()), &model)?;
        Ok(())
    });
    assert_all(&messages, "train the model that `attach` returned");
}

#[test]
fn a_model_that_was_stepped_before_synchronize_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let (ddp, model) = attached(worker)?;
        let gradients = pass(&model, worker.device());
        let stepped = model.map(&mut Halve);
        ddp.synchronize(gradients, &stepped)?;
        Ok(())
    });
    assert_all(&messages, "is not of the model that was passed");
}

/// Steps every parameter.
struct Halve;

impl ModuleMapper for Halve {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| (tensor * 0.5).detach().require_grad())
    }
}

#[test]
fn a_second_ddp_beside_the_first_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let (_first, model) = attached(worker)?;
        let second = DdpConfig::new().init(worker.group())?;
        second.attach(model)?;
        Ok(())
    });
    assert_all(&messages, "attached to another Ddp");
}

#[test]
fn a_pass_that_one_rank_drops_after_it_was_handed_over_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let (ddp, model) = attached(worker)?;
        let pass = || pass(&model, worker.device());
        ddp.synchronize(pass(), &model)?;
        if worker.rank() == 1 {
            ddp.discard(pass())?;
        }
        ddp.synchronize(pass(), &model)?;
        Ok(())
    });
    assert_all(
        &messages,
        "`discard`, or another model's `synchronize`): 1;",
    );
    assert_all(&messages, "averaged with that: 0;");
}

#[test]
fn a_parameter_unfrozen_after_attach_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let device = worker.device();
        let ddp = DdpConfig::new().init(worker.group())?;
        let model: Linear = linear(3, 2, device);
        let model = ddp.attach(model.no_grad())?.unfreeze();
        ddp.synchronize(pass(&model, device), &model)?;
        Ok(())
    });
    assert_all(&messages, "was frozen when the model was attached");
}

#[test]
fn a_rank_that_panics_in_mid_step_ends_the_others_with_its_message() {
    let seen = Mutex::new(Vec::new());
    let outcome = run(3, |worker| {
        let (ddp, model) = attached(worker)?;
        let gradients = pass(&model, worker.device());
        assert!(worker.rank() != 1, "the dog ate the batch");
        let result = ddp.synchronize(gradients, &model);
        if let Err(error) = &result {
            seen.lock().unwrap().push(error.to_string());
        }
        Ok(result.map(drop)?)
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Worker { rank: 1, .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("rank 1 panicked: the dog ate the batch"),
        "{error}"
    );
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 2);
    assert_all(&seen, "rank 1 panicked: the dog ate the batch");
}

#[test]
fn calls_in_the_wrong_order_say_what_is_missing() {
    Launcher::new(vec![Device::flex().autodiff()])
        .run(|worker| -> Result<(), Failure> {
            let device = worker.device();
            let ddp = DdpConfig::new().init(worker.group())?;
            let model: Linear = linear(3, 2, device);
            let early = ddp.synchronize(pass(&model, device), &model).unwrap_err();
            assert!(early.to_string().contains("call `attach`"), "{early}");
            let model = ddp.attach(model)?;
            let twice = ddp.attach(model).unwrap_err();
            assert!(twice.to_string().contains("attached already"), "{twice}");
            let config = DdpConfig::new().with_bucket_cap_mb(f64::NAN);
            let wrong = config.init(worker.group()).unwrap_err();
            assert!(wrong.to_string().contains("bucket_cap_mb"), "{wrong}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_model_without_parameters_is_fine() {
    #[derive(Module, Debug)]
    struct Nothing {
        none: Option<Param<Tensor<1>>>,
    }
    run(2, |worker| {
        let ddp = DdpConfig::new().init(worker.group())?;
        let model = ddp.attach(Nothing { none: None })?;
        let loss = Tensor::<1>::ones([1], worker.device()).require_grad().sum();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        assert!(gradients.is_empty());
        ddp.verify_replicas(&model)?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_rank_that_fails_between_steps_ends_the_others_with_its_error() {
    let messages = messages(3, |worker| {
        let (ddp, model) = attached(worker)?;
        if worker.rank() == 1 {
            return Err("no batch is left".into());
        }
        ddp.synchronize(pass(&model, worker.device()), &model)?;
        Ok(())
    });
    for message in [&messages[0], &messages[2]] {
        assert!(
            message.contains("rank 1 failed: no batch is left"),
            "{message}"
        );
    }
}

#[test]
fn parameters_added_after_attach_are_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let device = worker.device();
        let ddp = DdpConfig::new().init(worker.group())?;
        let mut model: Vec<Linear> = ddp.attach(vec![linear(3, 2, device)])?;
        model.push(linear(2, 2, device));
        let hidden = model[0].forward(Tensor::<2>::ones([1, 3], device));
        let loss = model[1].forward(hidden).sum();
        let error = ddp.synchronize(loss.backward(), &model).unwrap_err();
        let again = ddp.synchronize(loss_of(device), &model).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        Err(error.into())
    });
    assert_all(&messages, "was not there when the model was attached");
}

fn loss_of(device: &Device) -> Gradients {
    Tensor::<1>::ones([1], device)
        .require_grad()
        .sum()
        .backward()
}

#[test]
fn a_pass_that_was_handed_over_is_not_kept() {
    let messages = messages(2, |worker| {
        let (ddp, model) = attached(worker)?;
        let pass = || pass(&model, worker.device());
        ddp.synchronize(pass(), &model)?;
        let gradients = pass();
        ddp.no_sync(&model, || gradients)?;
        Ok(())
    });
    assert_all(&messages, "handed over by an earlier backward pass");
}

#[test]
fn a_model_without_autodiff_is_refused() {
    let messages = messages(2, |worker| {
        let device = worker.device().clone().without_autodiff();
        let ddp = DdpConfig::new().init(worker.group())?;
        ddp.attach::<Linear>(linear(3, 2, &device))?;
        Ok(())
    });
    assert_all(&messages, "without autodiff");
}
