//! Programs of several passes, models and kinds of gradients: what comes of each is what one process computes.

use super::{Failure, assert_close, linear, run};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, SgdConfig};
use burn::tensor::{Device, Gradients, Tensor};
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::launch::Worker;
use burn_dist::random;

#[derive(Module, Debug)]
struct Net {
    a: Linear,
    b: Linear,
}

impl Net {
    fn new(seed: u64, device: &Device) -> Self {
        random::init(seed, device, |device| Self {
            a: LinearConfig::new(2, 4).init(device),
            b: LinearConfig::new(4, 2).init(device),
        })
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.b.forward(self.a.forward(x).tanh())
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        (self.forward(x.clone()) - x).square().mean()
    }
}

/// A batch of two samples that depends on step and rank.
fn batch(step: usize, rank: usize, device: &Device) -> Tensor<2> {
    let value = |i: usize| ((step * 7 + rank * 3 + i * 5) % 11) as f32 / 11.0 - 0.4;
    let values: Vec<f32> = (0..4).map(value).collect();
    Tensor::<1>::from_floats(values.as_slice(), device).reshape([2, 2])
}

fn attach<M: Module>(worker: &Worker, model: M) -> Result<(Ddp, M), Failure> {
    let ddp = DdpConfig::new().init(worker.group())?;
    let model = ddp.attach(model)?;
    Ok((ddp, model))
}

const RANKS: usize = 2;
const STEPS: usize = 6;

/// Trains a net on all ranks and alone, where `loss` is the loss of a rank in a step and `average` makes the
/// optimizer's gradients of its gradients; compares the parameters, and returns how many gradients were handed
/// over during backward on rank 0.
fn compare(
    loss: impl Fn(&Net, usize, usize, &Device) -> Tensor<1> + Sync,
    average: impl Fn(&Ddp, Tensor<1>, &Net, usize) -> Result<GradientsParams, Failure> + Sync,
) -> u64 {
    let device = Device::flex().autodiff();
    let mut alone = Net::new(3, &device);
    let mut optimizer = SgdConfig::new().init();
    for step in 0..STEPS {
        let all = (0..RANKS).map(|rank| loss(&alone, step, rank, &device));
        let mean = all.reduce(|sum, loss| sum + loss).unwrap() / RANKS as f32;
        let gradients = GradientsParams::from_grads(mean.backward(), &alone);
        alone = optimizer.step(0.1, alone, gradients);
    }
    let replicas = run(RANKS, |worker| {
        let device = worker.device();
        let (ddp, mut model) = attach(worker, Net::new(3, device))?;
        let mut optimizer = SgdConfig::new().init();
        for step in 0..STEPS {
            let loss = loss(&model, step, worker.rank(), device);
            let gradients = average(&ddp, loss, &model, step)?;
            model = optimizer.step(0.1, model, gradients);
        }
        ddp.verify_replicas(&model)?;
        Ok((model, ddp.stats().during_backward))
    });
    let replicas = replicas.unwrap();
    for (replica, _) in &replicas {
        // A few additions in f32 come in another order.
        assert_close(&alone, replica, 1e-5);
    }
    replicas[0].1
}

#[expect(clippy::needless_pass_by_value, reason = "as `compare` wants it")]
fn synchronize(
    ddp: &Ddp,
    loss: Tensor<1>,
    model: &Net,
    _step: usize,
) -> Result<GradientsParams, Failure> {
    Ok(ddp.synchronize(loss.backward(), model)?)
}

/// The sum of the squares of all weights, read around their modules.
fn penalty(model: &Net) -> Tensor<1> {
    #[derive(Default)]
    struct Squares(Option<Tensor<1>>);
    impl ModuleVisitor for Squares {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let squares = param.val().square().sum();
            self.0 = Some(match self.0.take() {
                Some(sum) => sum + squares,
                None => squares,
            });
        }
    }
    let mut squares = Squares::default();
    model.visit(&mut squares);
    squares.0.unwrap() * 0.1
}

#[test]
fn a_penalty_counts_from_whatever_step_it_begins_on() {
    for from in [0, 1, 3] {
        for ranks in [1, RANKS] {
            let loss = |model: &Net, step: usize, rank: usize, device: &Device| {
                let loss = model.loss(batch(step, rank, device));
                if step >= from && rank < ranks {
                    loss + penalty(model)
                } else {
                    loss
                }
            };
            let during_backward = compare(loss, synchronize);
            // Those of the steps before it, and what was handed over where it was not foreseen.
            assert!(during_backward >= 4 * from.saturating_sub(1) as u64);
        }
    }
}

#[test]
fn a_forward_pass_without_backward_costs_the_overlap_of_one_step() {
    for from in [0, 2] {
        let during_backward = compare(
            |model, step, rank, device| {
                if step >= from {
                    let _figure = model.loss(batch(step + 1, rank, device));
                }
                model.loss(batch(step, rank, device))
            },
            synchronize,
        );
        let late_steps = if from == 0 { 1 } else { 2 };
        assert_eq!(during_backward, 4 * (STEPS - late_steps) as u64);
    }
}

#[test]
fn two_losses_from_two_forward_passes_are_synchronised_one_after_the_other() {
    compare(
        |model, step, rank, device| {
            model.loss(batch(step, rank, device)) + model.loss(batch(step + 1, rank, device))
        },
        |ddp, loss, model, step| {
            drop(loss);
            let rank = model_rank(ddp);
            let device = model.a.weight.base().device();
            let first = model.loss(batch(step, rank, &device));
            let second = model.loss(batch(step + 1, rank, &device));
            let (first, second) = (first.backward(), second.backward());
            let first = ddp.synchronize(first, model)?;
            let second = ddp.synchronize(second, model)?;
            Ok(sum(model, first, second))
        },
    );
}

/// The rank of a `Ddp` in a job of threads.
fn model_rank(_ddp: &Ddp) -> usize {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // `burn-dist-rank-N-pool-0`.
    name.split('-').nth(3).unwrap().parse().unwrap()
}

/// Adds gradients of two passes.
fn sum(model: &Net, first: GradientsParams, second: GradientsParams) -> GradientsParams {
    let mut sum = burn::optim::GradientsAccumulator::new();
    sum.accumulate(model, first);
    sum.accumulate(model, second);
    sum.grads()
}

#[test]
fn a_local_pass_after_backward_counts_too() {
    compare(
        |model, step, rank, device| {
            model.loss(batch(step, rank, device)) + model.loss(batch(step + 1, rank, device))
        },
        |ddp, loss, model, step| {
            drop(loss);
            let rank = model_rank(ddp);
            let device = model.a.weight.base().device();
            let gradients = model.loss(batch(step, rank, &device)).backward();
            ddp.no_sync(model, || {
                model.loss(batch(step + 1, rank, &device)).backward()
            })?;
            Ok(ddp.synchronize(gradients, model)?)
        },
    );
}

#[test]
fn scopes_between_forward_and_backward_forget_no_use() {
    let during_backward = compare(
        // Each parameter is used twice.
        |model, step, rank, device| model.loss(model.forward(batch(step, rank, device))),
        |ddp, loss, model, _step| {
            let other = || model.loss(Tensor::ones([1, 2], &model.a.weight.base().device()));
            ddp.ignore(|| ddp.ignore(|| other().backward()))??;
            Ok(ddp.synchronize(loss.backward(), model)?)
        },
    );
    assert!(during_backward > 0);
}

#[test]
fn a_generator_trains_through_an_attached_critic() {
    let generator_loss = |critic: &Net, generator: &Net, x: Tensor<2>| {
        critic.forward(generator.forward(x)).square().mean()
    };
    let critic_loss =
        |critic: &Net, generator: &Net, x: Tensor<2>| critic.loss(generator.forward(x).detach());
    // The critic is stepped so many times for each step of the generator.
    for critic_steps in [1, 3] {
        let device = Device::flex().autodiff();
        let (mut g, mut c) = (Net::new(1, &device), Net::new(2, &device));
        let (mut of_g, mut of_c) = (AdamWConfig::new().init(), AdamWConfig::new().init());
        let all =
            |loss: &dyn Fn(usize) -> Tensor<1>| (loss(0) + loss(1)).div_scalar(2.0).backward();
        for step in 0..5 {
            for _ in 0..critic_steps {
                let grads = all(&|rank| critic_loss(&c, &g, batch(step, rank, &device)));
                let grads = GradientsParams::from_grads(grads, &c);
                c = of_c.step(0.01, c, grads);
            }
            let grads = all(&|rank| generator_loss(&c, &g, batch(step, rank, &device)));
            let grads = GradientsParams::from_grads(grads, &g);
            g = of_g.step(0.01, g, grads);
        }
        let replicas = run(2, |worker| {
            let (device, rank) = (worker.device(), worker.rank());
            let (dg, mut g) = attach(worker, Net::new(1, device))?;
            let (dc, mut c) = attach(worker, Net::new(2, device))?;
            let (mut of_g, mut of_c) = (AdamWConfig::new().init(), AdamWConfig::new().init());
            for step in 0..5 {
                for _ in 0..critic_steps {
                    let grads = critic_loss(&c, &g, batch(step, rank, device)).backward();
                    let grads = dc.synchronize(grads, &c)?;
                    c = of_c.step(0.01, c, grads);
                }
                let grads = generator_loss(&c, &g, batch(step, rank, device)).backward();
                let grads = dg.synchronize(grads, &g)?;
                g = of_g.step(0.01, g, grads);
            }
            Ok((g, c))
        });
        for (replica_g, replica_c) in replicas.unwrap() {
            assert_close(&g, &replica_g, 1e-4);
            assert_close(&c, &replica_c, 1e-4);
        }
    }
}

#[test]
fn one_loss_trains_two_models() {
    let device = Device::flex().autodiff();
    let loss = |e: &Net, d: &Net, x: Tensor<2>| d.loss(e.forward(x));
    let (mut e, mut d) = (Net::new(1, &device), Net::new(2, &device));
    let (mut of_e, mut of_d) = (SgdConfig::new().init(), SgdConfig::new().init());
    for step in 0..STEPS {
        let both = loss(&e, &d, batch(step, 0, &device)) + loss(&e, &d, batch(step, 1, &device));
        let mut grads = (both / 2.0).backward();
        let grads_e = GradientsParams::from_module(&mut grads, &e);
        let grads_d = GradientsParams::from_module(&mut grads, &d);
        (e, d) = (of_e.step(0.1, e, grads_e), of_d.step(0.1, d, grads_d));
    }
    let replicas = run(2, |worker| {
        let device = worker.device();
        let (de, mut e) = attach(worker, Net::new(1, device))?;
        let (dd, mut d) = attach(worker, Net::new(2, device))?;
        let (mut of_e, mut of_d) = (SgdConfig::new().init(), SgdConfig::new().init());
        for step in 0..STEPS {
            let mut grads = loss(&e, &d, batch(step, worker.rank(), device)).backward();
            let grads_e = de.synchronize_from(&mut grads, &e)?;
            let grads_d = dd.synchronize(grads, &d)?;
            (e, d) = (of_e.step(0.1, e, grads_e), of_d.step(0.1, d, grads_d));
        }
        assert!(de.stats().during_backward > 0 && dd.stats().during_backward > 0);
        Ok((e, d))
    });
    for (replica_e, replica_d) in replicas.unwrap() {
        assert_close(&e, &replica_e, 1e-5);
        assert_close(&d, &replica_d, 1e-5);
    }
}

#[test]
fn a_rank_with_nothing_to_give_takes_part() {
    run(2, |worker| {
        let device = worker.device();
        let (ddp, mut model) = attach(worker, Net::new(3, device))?;
        let mut alone = Net::new(3, device);
        let (mut optimizer, mut of_alone) = (SgdConfig::new().init(), SgdConfig::new().init());
        for step in 0..STEPS {
            // In turn: neither, the first, the second, both.
            let gives = |rank: usize| (step >> rank) & 1 == 1;
            let gradients = if gives(worker.rank()) {
                let loss = model.loss(batch(step, worker.rank(), device));
                ddp.synchronize(loss.backward(), &model)?
            } else {
                ddp.synchronize_none(&model)?
            };
            let giving = (0..2).filter(|&rank| gives(rank));
            let losses = giving.map(|rank| alone.loss(batch(step, rank, device)));
            let gradients_alone = losses.reduce(|sum, loss| sum + loss);
            assert_eq!(gradients.is_empty(), gradients_alone.is_none());
            model = optimizer.step(0.1, model, gradients);
            if let Some(sum) = gradients_alone {
                let gradients = GradientsParams::from_grads((sum / 2.0).backward(), &alone);
                alone = of_alone.step(0.1, alone, gradients);
            }
        }
        ddp.verify_replicas(&model)?;
        assert_close(&alone, &model, 1e-5);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_step_that_all_ranks_give_up_leaves_no_trace() {
    // On two ranks whose guesses of what is complete differ, as one has peeked before.
    run(2, |worker| {
        let (device, rank) = (worker.device(), worker.rank());
        let (ddp, mut model) = attach(worker, Net::new(3, device))?;
        let mut alone = Net::new(3, device);
        let (mut optimizer, mut of_alone) = (SgdConfig::new().init(), SgdConfig::new().init());
        for step in 0..8 {
            if step == 3 && rank == 1 {
                let _figure = model.loss(batch(0, 0, device));
            }
            let gradients = model.loss(batch(step, rank, device)).backward();
            if step % 3 == 0 {
                ddp.discard(gradients)?;
                continue;
            }
            let gradients = ddp.synchronize(gradients, &model)?;
            model = optimizer.step(0.1, model, gradients);
            let sum = alone.loss(batch(step, 0, device)) + alone.loss(batch(step, 1, device));
            let gradients = GradientsParams::from_grads((sum / 2.0).backward(), &alone);
            alone = of_alone.step(0.1, alone, gradients);
        }
        ddp.verify_replicas(&model)?;
        assert_close(&alone, &model, 1e-5);
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_was_kept_outlives_a_pass_that_is_given_up() {
    run(2, |worker| {
        let device = worker.device();
        let (ddp, model) = attach(worker, linear(2, 2, device))?;
        let pass = |scale: f32| {
            let x = Tensor::<2>::ones([1, 2], device) * scale;
            model.forward(x).sum().backward()
        };
        for _step in 0..3 {
            ddp.no_sync(&model, || pass(10.0))?;
            // From the second step on it was handed over, with what was kept.
            ddp.discard(pass(100.0))?;
            let gradients = ddp.synchronize(pass(1.0), &model)?;
            let gradient = gradients.get::<2>(model.weight.id).ok_or("no gradient")?;
            let values: Vec<f32> = gradient.into_data().iter::<f32>().collect();
            assert_eq!(values, [11.0; 4]);
        }
        Ok(())
    })
    .unwrap();
}

/// A model that has the attached one in it, beside a copy.
#[derive(Module, Debug)]
struct Trainer {
    net: Net,
    average: Net,
}

#[test]
fn a_model_that_contains_the_attached_one_trains_it() {
    run(2, |worker| {
        let device = worker.device();
        let (ddp, net) = attach(worker, Net::new(3, device))?;
        // A frozen copy, which stays what it is under whatever ids.
        let record = Net::new(4, device).into_record();
        let average = net.clone().no_grad().load_record(record);
        let frozen = average.clone();
        let mut model = Trainer { net, average };
        let mut optimizer = SgdConfig::new().init();
        let before = model.net.clone();
        for step in 0..4 {
            let loss = model.net.loss(batch(step, worker.rank(), device));
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            assert_eq!(gradients.len(), 4);
            model = optimizer.step(0.1, model, gradients);
        }
        assert!(ddp.stats().during_backward > 0);
        ddp.verify_replicas(&model)?;
        assert_close(&frozen, &model.average, 0.0);
        let moved = (before.a.weight.base() - model.net.a.weight.base())
            .abs()
            .sum();
        assert!(moved.into_scalar::<f32>() > 0.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_model_is_attached_again_after_its_first_ddp_was_dropped() {
    run(2, |worker| {
        let (device, rank) = (worker.device(), worker.rank());
        let mut alone = Net::new(3, device);
        alone.a = alone.a.no_grad();
        let net = Net::new(3, device);
        let net = Net {
            a: net.a.no_grad(),
            ..net
        };
        let (mut optimizer, mut of_alone) = (SgdConfig::new().init(), SgdConfig::new().init());
        let (mut ddp, mut model) = attach(worker, net)?;
        for step in 0..6 {
            if step == 3 {
                drop(ddp);
                (ddp, model) = attach(worker, model.unfreeze())?;
                alone = alone.unfreeze();
            }
            let loss = model.loss(batch(step, rank, device));
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            assert_eq!(gradients.len(), if step < 3 { 2 } else { 4 });
            model = optimizer.step(0.1, model, gradients);
            let sum = alone.loss(batch(step, 0, device)) + alone.loss(batch(step, 1, device));
            let gradients = GradientsParams::from_grads((sum / 2.0).backward(), &alone);
            alone = of_alone.step(0.1, alone, gradients);
        }
        assert_eq!(ddp.stats().during_backward, 8);
        ddp.verify_replicas(&model)?;
        assert_close(&alone, &model, 1e-5);
        Ok(())
    })
    .unwrap();
}

#[test]
fn copies_of_a_model_are_attached_each_to_a_ddp_of_its_own() {
    run(2, |worker| {
        let (device, rank) = (worker.device(), worker.rank());
        let (ddp, model) = attach(worker, Net::new(3, device))?;
        drop(ddp);
        let (first, a) = attach(worker, model.clone())?;
        let (second, b) = attach(worker, model)?;
        for step in 0..3 {
            let of_a = first.synchronize(a.loss(batch(step, rank, device)).backward(), &a)?;
            let of_b = second.synchronize(b.loss(batch(step, rank, device)).backward(), &b)?;
            assert_eq!((of_a.len(), of_b.len()), (4, 4));
        }
        assert_eq!(first.stats().during_backward, 8);
        Ok(())
    })
    .unwrap();
}

/// A moving average of a model, which was attached or not.
struct Towards<'a>(Vec<Tensor<1>>, &'a mut usize);

impl ModuleMapper for Towards<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let other = self.0[*self.1].clone();
        *self.1 += 1;
        param.map(|tensor| {
            let shape = tensor.shape();
            (tensor * 0.9 + other.reshape::<D, _>(shape) * 0.1).detach()
        })
    }
}

fn flattened(model: &Net) -> Vec<Tensor<1>> {
    struct Flat(Vec<Tensor<1>>);
    impl ModuleVisitor for Flat {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.base().detach();
            let len = tensor.shape().num_elements();
            self.0.push(tensor.reshape([len]));
        }
    }
    let mut flat = Flat(Vec::new());
    model.visit(&mut flat);
    flat.0
}

#[test]
fn a_moving_average_of_the_model_may_be_part_of_the_loss() {
    run(2, |worker| {
        let (device, rank) = (worker.device(), worker.rank());
        let (ddp, mut model) = attach(worker, Net::new(3, device))?;
        let mut average = model.clone();
        let mut optimizer = SgdConfig::new().init();
        for step in 0..5 {
            let x = batch(step, rank, device);
            // A copy that is differentiated too, though nobody wants its gradients.
            let target = if step % 2 == 0 {
                average.clone()
            } else {
                average.clone().no_grad()
            };
            let loss = (model.forward(x.clone()) - target.forward(x))
                .square()
                .mean()
                + model.loss(batch(step, rank, device));
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            assert_eq!(gradients.len(), 4);
            model = optimizer.step(0.1, model, gradients);
            average = average
                .map(&mut Towards(flattened(&model), &mut 0))
                .set_require_grad(true);
        }
        ddp.verify_replicas(&model)?;
        ddp.verify_replicas(&average)?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn kept_gradients_of_half_precision_do_not_overflow() {
    run(2, |worker| {
        let device = worker.device();
        let factor = Tensor::<1>::ones([2], device).cast(burn::tensor::FloatDType::F16);
        let (ddp, model) = attach(
            worker,
            Scale {
                factor: Param::from_tensor(factor.detach()),
            },
        )?;
        let pass = |scale: f32| -> Gradients { (model.factor.val() * scale).sum().backward() };
        // 80,000 is beyond f16, and the sum of all is not.
        ddp.no_sync(&model, || pass(40_000.0))?;
        ddp.no_sync(&model, || pass(40_000.0))?;
        let gradients = ddp.synchronize(pass(-40_000.0), &model)?;
        let gradient = gradients.get::<1>(model.factor.id).ok_or("no gradient")?;
        let values: Vec<f32> = gradient.into_data().iter::<f32>().collect();
        assert_eq!(values, [40_000.0; 2]);
        Ok(())
    })
    .unwrap();
}

#[derive(Module, Debug)]
struct Scale {
    factor: Param<Tensor<1>>,
}
