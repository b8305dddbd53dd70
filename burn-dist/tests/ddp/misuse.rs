//! Calls that can't be right end in an error that says why, on every rank, at once.

use super::{Failure, run};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
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
    let model = ddp.attach(LinearConfig::new(3, 2).init(worker.device()))?;
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
        let model: Linear = LinearConfig::new(3, outputs).init(worker.device());
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

#[test]
fn two_backward_passes_in_a_step_are_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let (ddp, model) = attached(worker)?;
        let pass = || pass(&model, worker.device());
        if worker.rank() == 1 {
            pass();
        }
        ddp.synchronize(pass(), &model)?;
        Ok(())
    });
    assert!(
        messages[1].contains("a second backward pass ran"),
        "{}",
        messages[1]
    );
    assert!(
        messages[0].contains("rank 1 aborted") && messages[0].contains("no_sync"),
        "{messages:?}"
    );
}

#[test]
fn a_parameter_unfrozen_after_attach_is_refused_on_all_ranks() {
    let messages = messages(2, |worker| {
        let device = worker.device();
        let ddp = DdpConfig::new().init(worker.group())?;
        let model: Linear = LinearConfig::new(3, 2).init(device);
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
            let model: Linear = LinearConfig::new(3, 2).init(device);
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
        let mut model: Vec<Linear> = ddp.attach(vec![LinearConfig::new(3, 2).init(device)])?;
        model.push(LinearConfig::new(2, 2).init(device));
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
fn a_local_pass_after_the_synchronised_one_is_refused() {
    let messages = messages(2, |worker| {
        let (ddp, model) = attached(worker)?;
        let pass = || pass(&model, worker.device());
        let gradients = pass();
        ddp.no_sync(&model, pass)?;
        ddp.synchronize(gradients, &model)?;
        Ok(())
    });
    assert_all(&messages, "`no_sync` ran after");
}

#[test]
fn a_model_without_autodiff_is_refused() {
    let messages = messages(2, |worker| {
        let device = worker.device().clone().without_autodiff();
        let ddp = DdpConfig::new().init(worker.group())?;
        ddp.attach::<Linear>(LinearConfig::new(3, 2).init(&device))?;
        Ok(())
    });
    assert_all(&messages, "without autodiff");
}
