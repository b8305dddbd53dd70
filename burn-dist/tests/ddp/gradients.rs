//! What gradients `synchronize` gives, in the cases that a loop over one plain model does not meet.

use super::{Failure, assert_close, run, values};
use burn::module::{Lora, Module, ModuleMapper, ModuleVisitor, Param, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::ddp::{Ddp, DdpConfig, parameters_sha256};
use burn_dist::launch::{Launcher, Worker};
use burn_dist::random;

fn linear(device: &Device) -> Linear {
    random::init(5, device, |device| LinearConfig::new(3, 2).init(device))
}

fn attach<M: Module>(worker: &Worker, model: M) -> Result<(Ddp, M), Failure> {
    let ddp = DdpConfig::new().init(worker.group())?;
    let model = ddp.attach(model)?;
    Ok((ddp, model))
}

fn ones(scale: f32, device: &Device) -> Tensor<2> {
    Tensor::ones([1, 3], device).mul_scalar(scale)
}

fn gradient(gradients: &GradientsParams, layer: &Linear) -> Option<Vec<f32>> {
    let gradient = gradients.get::<2>(layer.weight.id)?;
    Some(gradient.into_data().try_to_vec().unwrap())
}

#[test]
fn a_parameter_used_by_some_ranks_counts_as_zero_on_the_others() {
    let gradients = run(4, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, vec![linear(device), linear(device), linear(device)])?;
        let mut seen = Vec::new();
        for _step in 0..2 {
            // The first layer on all ranks, the second on rank 2 alone, the third on none.
            let mut loss = model[0]
                .forward(ones(1.0 + worker.rank() as f32, device))
                .sum();
            if worker.rank() == 2 {
                loss = loss + model[1].forward(ones(8.0, device)).sum();
            }
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            seen.push(
                model
                    .iter()
                    .map(|layer| gradient(&gradients, layer))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(seen)
    });
    for seen in gradients.unwrap().into_iter().flatten() {
        // (1 + 2 + 3 + 4) / 4, then 8 / 4.
        assert_eq!(seen, [Some(vec![2.5; 6]), Some(vec![2.0; 6]), None]);
    }
}

#[test]
fn a_rank_that_uses_nothing_still_takes_part() {
    let gradients = run(2, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, linear(device))?;
        let loss = if worker.rank() == 0 {
            model.forward(ones(4.0, device)).sum()
        } else {
            Tensor::<1>::ones([1], device).require_grad().sum()
        };
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        Ok(gradient(&gradients, &model))
    });
    assert_eq!(gradients.unwrap(), [Some(vec![2.0; 6]), Some(vec![2.0; 6])]);
}

#[test]
fn a_forward_pass_without_backward_does_no_harm() {
    let gradients = run(2, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, linear(device))?;
        let warm_up = model.forward(ones(1.0, device)).sum().backward();
        ddp.synchronize(warm_up, &model)?;
        let _ = model.forward(ones(100.0, device));
        let loss = model
            .forward(ones(1.0 + worker.rank() as f32, device))
            .sum();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        // One of two uses came, so the gradients of weight and bias waited for `synchronize`; so do all
        // of the first step.
        assert_eq!(ddp.stats().at_end, 4);
        Ok(gradient(&gradients, &model))
    });
    assert_eq!(gradients.unwrap(), [Some(vec![1.5; 6]), Some(vec![1.5; 6])]);
}

#[test]
fn frozen_parameters_have_no_gradient_and_stay_equal() {
    let gradients = run(2, |worker| {
        let device = worker.device();
        let frozen = random::init(worker.rank() as u64, device, |device| {
            LinearConfig::new(3, 2).init(device)
        });
        let (ddp, model) = attach(worker, vec![frozen.no_grad(), linear(device)])?;
        let loss =
            model[0].forward(ones(1.0, device)).sum() + model[1].forward(ones(1.0, device)).sum();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        ddp.verify_replicas(&model)?;
        Ok([
            gradient(&gradients, &model[0]),
            gradient(&gradients, &model[1]),
        ])
    });
    for [frozen, trained] in gradients.unwrap() {
        assert_eq!((frozen, trained), (None, Some(vec![1.0; 6])));
    }
}

#[test]
fn accumulated_gradients_are_summed_and_then_averaged() {
    let gradients = run(2, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, vec![linear(device), linear(device)])?;
        let mut seen = Vec::new();
        for _step in 0..2 {
            let scale = 1.0 + worker.rank() as f32;
            for _micro in 0..3 {
                ddp.no_sync(&model, || {
                    model[0].forward(ones(scale, device)).sum().backward()
                })?;
            }
            // The second layer is used in a local pass only: settled at the end.
            ddp.no_sync(&model, || {
                model[1].forward(ones(scale, device)).sum().backward()
            })?;
            let loss = model[0].forward(ones(10.0 * scale, device)).sum();
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            seen.push([
                gradient(&gradients, &model[0]),
                gradient(&gradients, &model[1]),
            ]);
        }
        Ok(seen)
    });
    for seen in gradients.unwrap().into_iter().flatten() {
        // Mean over ranks of 3 * scale + 10 * scale, and of scale.
        assert_eq!(seen, [Some(vec![19.5; 6]), Some(vec![1.5; 6])]);
    }
}

/// Converts every float parameter.
struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0).detach().require_grad())
    }
}

#[derive(Module, Debug)]
struct Scale {
    factor: Param<Tensor<1>>,
}

#[test]
fn half_precision_parameters_are_averaged_without_overflow() {
    for (dtype, expected) in [
        (FloatDType::F16, DType::F16),
        (FloatDType::BF16, DType::BF16),
    ] {
        let gradients = run(4, |worker| {
            let device = worker.device();
            let factor = Param::from_tensor(Tensor::<1>::ones([2], device));
            let (ddp, model) = attach(worker, Scale { factor }.map(&mut Cast(dtype)))?;
            // 4 * 60000 does not fit an f16, whose largest value is 65504.
            let x = Tensor::<1>::full([2], 60_000.0, (device, expected));
            let loss = (model.factor.val() * x).sum();
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            let gradient = gradients.get::<1>(model.factor.id).ok_or("no gradient")?;
            assert_eq!(gradient.dtype(), expected);
            Ok(gradient.into_data().iter::<f32>().collect::<Vec<_>>())
        });
        for gradient in gradients.unwrap() {
            // The nearest f16 to 60000 is itself, the nearest bf16 59904.
            let nearest = if expected == DType::F16 {
                60_000.0
            } else {
                59_904.0
            };
            assert_eq!(gradient, [nearest; 2]);
        }
    }
}

#[derive(Module, Debug)]
struct Normalised {
    linear: Linear,
    norm: BatchNorm,
    counter: RunningState<Tensor<1>>,
}

#[test]
fn buffers_start_as_rank_zeros_and_are_no_parameters() {
    let models = run(2, |worker| {
        let device = worker.device();
        let start = Tensor::<1>::full([1], 7.0 + worker.rank() as f64, device);
        let model = Normalised {
            linear: linear(device),
            norm: BatchNormConfig::new(2).init(device),
            counter: RunningState::new(start),
        };
        let (ddp, model) = attach(worker, model)?;
        let counter: f32 = model.counter.value().try_into_scalar()?;
        assert_eq!(counter.to_bits(), 7.0_f32.to_bits());
        let input = Tensor::<2>::ones([4, 3], device).mul_scalar(worker.rank() as f64 + 1.0);
        let loss = model.norm.forward(model.linear.forward(input)).sum();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        let model = SgdConfig::new().init().step(0.1, model, gradients);
        // Each rank has running statistics of its own by now; its parameters are those of all.
        ddp.verify_replicas(&model)?;
        Ok(model)
    });
    let models = models.unwrap();
    assert_close(&models[0].linear, &models[1].linear, 0.0);
}

#[test]
fn clones_of_one_model_get_running_statistics_of_their_own() {
    let device = Device::flex().autodiff();
    let model = Normalised {
        linear: linear(&device),
        norm: BatchNormConfig::new(2).init(&device),
        counter: RunningState::new(Tensor::full([1], 7.0, &device)),
    };
    let before = values(&model);
    let trained = run(3, |worker| {
        // Clones share their running states, which a rank must not lock while it waits for the others.
        let (ddp, model) = attach(worker, model.clone())?;
        let input = Tensor::<2>::ones([4, 3], worker.device());
        let input = input.mul_scalar(worker.rank() as f64 + 1.0);
        let loss = model.norm.forward(model.linear.forward(input)).sum();
        ddp.synchronize(loss.backward(), &model)?;
        Ok(values(&model.norm.valid()))
    });
    let trained = trained.unwrap();
    assert_ne!(trained[0], trained[1]);
    assert_ne!(trained[1], trained[2]);
    assert_eq!(
        values(&model),
        before,
        "the model that was given is as it was"
    );
}

#[test]
fn the_wrapped_model_is_saved_and_validated_as_before() {
    run(2, |worker| {
        let plain = linear(worker.device());
        let expected = values(&plain);
        let (_ddp, model) = attach(worker, plain.clone())?;
        assert_eq!(values(&model), expected);
        assert_eq!(parameters_sha256(&model)?, parameters_sha256(&plain)?);
        let restored = linear(worker.device()).load_record(model.clone().into_record());
        assert_eq!(values(&restored), expected);
        let input = Tensor::<2>::ones([1, 3], &Device::flex());
        let output = model.valid().forward(input.clone()).into_data();
        output.assert_eq(&plain.valid().forward(input).into_data(), true);
        Ok(())
    })
    .unwrap();
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let gradients = Launcher::new(vec![device; 2]).run(|worker| -> Result<_, Failure> {
        let device = worker.device();
        let (ddp, model) = attach(&worker, vec![linear(device), linear(device)])?;
        let x = ones(1.0 + worker.rank() as f32, device);
        let loss = relu(model[0].forward(x.clone())).sum() + model[1].forward(x).sum();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        Ok(gradient(&gradients, &model[1]))
    });
    assert_eq!(gradients.unwrap(), [Some(vec![1.5; 6]), Some(vec![1.5; 6])]);
}

#[test]
fn a_record_loaded_after_attach_trains_on() {
    let gradients = run(2, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, linear(device))?;
        // Loading gives parameters the ids of the record.
        let model = model.load_record(linear(device).into_record());
        let mut seen = Vec::new();
        for _step in 0..3 {
            let loss = model
                .forward(ones(1.0 + worker.rank() as f32, device))
                .sum();
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            seen.push(gradient(&gradients, &model));
        }
        assert!(ddp.stats().during_backward > 0);
        ddp.verify_replicas(&model)?;
        Ok(seen)
    });
    for seen in gradients.unwrap().into_iter().flatten() {
        assert_eq!(seen, Some(vec![1.5; 6]));
    }
}

/// Half the squares of all weights, read by a visitor: around the hooks.
#[derive(Default)]
struct Penalty(Option<Tensor<1>>);

impl ModuleVisitor for Penalty {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let squares = param.val().powi_scalar(2).sum().mul_scalar(0.5);
        self.0 = Some(match self.0.take() {
            Some(sum) => sum + squares,
            None => squares,
        });
    }
}

#[test]
fn a_penalty_that_a_visitor_reads_counts() {
    run(2, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, linear(device))?;
        for _step in 0..3 {
            let mut penalty = Penalty::default();
            model.visit(&mut penalty);
            let loss = model
                .forward(ones(1.0 + worker.rank() as f32, device))
                .sum();
            let loss = loss + penalty.0.ok_or("no parameters")?;
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            // The mean input, and the weight itself.
            let expected = model.weight.base().without_autodiff() + 1.5;
            let found = gradients.get::<2>(model.weight.id).ok_or("no gradient")?;
            let difference: f32 = (found - expected).abs().max().try_into_scalar()?;
            assert!(difference < 1e-6, "{difference}");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_pass_that_is_ignored_leaves_no_trace() {
    let gradients = run(2, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, linear(device))?;
        let mut seen = Vec::new();
        for _step in 0..3 {
            let pass = |scale: f32| model.forward(ones(scale, device)).sum().backward();
            let ignored = ddp.ignore(|| pass(100.0))?;
            assert!(model.weight.base().grad(&ignored).is_some());
            let gradients = ddp.synchronize(pass(1.0 + worker.rank() as f32), &model)?;
            seen.push(gradient(&gradients, &model));
        }
        Ok(seen)
    });
    for seen in gradients.unwrap().into_iter().flatten() {
        assert_eq!(seen, Some(vec![1.5; 6]));
    }
}

#[test]
fn adapters_are_trained_and_their_frozen_base_is_verified() {
    run(2, |worker| {
        let device = worker.device();
        let model = linear(device).apply_lora(Lora::new(2, 4.0));
        let (ddp, mut model) = attach(worker, model)?;
        for _step in 0..3 {
            let loss = model
                .forward(ones(1.0 + worker.rank() as f32, device))
                .sum();
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            assert!(!gradients.is_empty());
            model = SgdConfig::new().init().step(0.1, model, gradients);
        }
        assert!(ddp.stats().during_backward > 0);
        ddp.verify_replicas(&model)?;
        if worker.rank() == 1 {
            model.weight = model.weight.map(|weight| (weight + 1.0).detach());
        }
        let differ = ddp.verify_replicas(&model).unwrap_err();
        assert!(differ.to_string().starts_with("rank 1 hold"), "{differ}");
        Ok(())
    })
    .unwrap();
}
