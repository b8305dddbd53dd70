//! Batch normalisation in a loop of one's own: ranks without samples, groups of ranks, conversion, and the mean
//! over ranks of running statistics.

use super::{Failure, assert_close, run, values};
use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData};
use burn_dist::ddp::DdpConfig;
use burn_dist::norm::{self, SyncBatchNorm};
use burn_dist::random;

#[derive(Module, Debug)]
struct Net<N: Module> {
    a: Linear,
    norm: N,
    b: Linear,
}

fn plain(device: &Device) -> Net<BatchNorm> {
    random::init(1, device, |device| Net {
        a: LinearConfig::new(1, 4).init(device),
        norm: BatchNormConfig::new(4).init(device),
        b: LinearConfig::new(4, 1).init(device),
    })
}

fn synced(net: Net<BatchNorm>) -> Net<SyncBatchNorm> {
    Net {
        a: net.a,
        norm: SyncBatchNorm::from(net.norm),
        b: net.b,
    }
}

/// Samples `from..to` of a step.
fn samples(step: usize, from: usize, to: usize, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (from..to)
        .map(|i| ((i * 7 + step * 13) % 30) as f32 / 15.0 - 1.0)
        .collect();
    Tensor::from_data(TensorData::new(values, [to - from, 1]), device)
}

/// The squared error of each sample.
fn errors<N: Module>(
    net: &Net<N>,
    normalise: impl FnOnce(&N, Tensor<2>) -> Tensor<2>,
    x: Tensor<2>,
) -> Tensor<2> {
    let hidden = normalise(&net.norm, net.a.forward(x.clone()));
    (net.b.forward(hidden.tanh()) - x.exp()).square()
}

/// The samples of three ranks in each of four steps: one or two of them have none, and in the last step all but
/// one sample are gone.
const PARTS: [[usize; 3]; 4] = [[4, 4, 4], [5, 0, 3], [0, 0, 6], [2, 2, 0]];

/// Trains as one process with all samples of each step.
fn alone() -> Net<BatchNorm> {
    let device = Device::flex().autodiff();
    let (mut net, mut optimizer) = (plain(&device), SgdConfig::new().init());
    for (step, parts) in PARTS.into_iter().enumerate() {
        let x = samples(step, 0, parts.iter().sum(), &device);
        let loss = errors(&net, BatchNorm::forward, x).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(0.1, net, gradients);
    }
    net
}

/// Behaviour of a rank without samples.
#[derive(Clone, Copy, Debug)]
enum Without {
    /// Runs a batch of no rows, with a sum as its loss.
    SumOfNoRows,
    /// Runs a batch of no rows, with a mean as its loss, which is no number.
    MeanOfNoRows,
    /// Repeats a sample, which does not count.
    Uncounted,
}

fn train(
    worker: &burn_dist::launch::Worker,
    without: Without,
) -> Result<Net<SyncBatchNorm>, Failure> {
    let device = worker.device();
    let ddp = DdpConfig::new().init(worker.group())?;
    let mut net = ddp.attach(synced(plain(device)))?;
    let mut optimizer = SgdConfig::new().init();
    for (step, parts) in PARTS.into_iter().enumerate() {
        let from = parts[..worker.rank()].iter().sum();
        let real = parts[worker.rank()];
        let weight = ddp.weight(real as f64)?;
        let each = if let (0, Without::Uncounted) = (real, without) {
            let padding = samples(step, 29, 30, device) * 100.0;
            errors(&net, |norm, x| norm::uncounted(|| norm.forward(x)), padding)
        } else {
            let x = samples(step, from, from + real, device);
            errors(&net, SyncBatchNorm::forward, x)
        };
        let loss = match without {
            Without::SumOfNoRows => each.sum() / real.max(1) as f64,
            Without::MeanOfNoRows | Without::Uncounted => each.mean(),
        };
        let gradients = ddp.synchronize((loss * weight).backward(), &net)?;
        net = optimizer.step(0.1, net, gradients);
    }
    ddp.verify_replicas(&net)?;
    Ok(net)
}

#[test]
fn a_rank_without_samples_counts_for_nothing() {
    let one = synced(alone().valid());
    for without in [
        Without::SumOfNoRows,
        Without::MeanOfNoRows,
        Without::Uncounted,
    ] {
        for replica in run(3, |worker| train(worker, without)).unwrap() {
            // Parameters and running statistics.
            assert_close(&one, &replica.valid(), 1e-4);
        }
    }
}

/// Rank 1 has samples, which are part of the statistics, and no targets: the mean over none is no number.
#[test]
fn a_rank_without_targets_adds_its_samples_to_the_statistics_and_no_loss() {
    let mean = |each: Tensor<2>, real: usize| {
        let mask = Tensor::<2>::ones([real, 1], &each.device());
        let rows = each.dims()[0];
        let mask = mask.pad((0, 0, 0, rows - real), 0.0);
        (each * mask.clone() / mask.sum().unsqueeze::<2>()).sum()
    };
    let device = Device::flex().autodiff();
    let (mut one, mut optimizer) = (plain(&device), SgdConfig::new().init());
    for step in 0..3 {
        let x = samples(step, 0, 10, &device);
        let loss = mean(errors(&one, BatchNorm::forward, x), 6);
        let gradients = GradientsParams::from_grads(loss.backward(), &one);
        one = optimizer.step(0.1, one, gradients);
    }
    let replicas = run(2, |worker| {
        let (rank, device) = (worker.rank(), worker.device());
        let ddp = DdpConfig::new().init(worker.group())?;
        let mut net = ddp.attach(synced(plain(device)))?;
        let mut optimizer = SgdConfig::new().init();
        for step in 0..3 {
            let ((from, to), real) = [((0, 6), 6), ((6, 10), 0)][rank];
            let each = errors(
                &net,
                SyncBatchNorm::forward,
                samples(step, from, to, device),
            );
            // The weight comes after the forward pass here, which makes no difference.
            let loss = mean(each, real) * ddp.weight(real as f64)?;
            let gradients = ddp.synchronize(loss.backward(), &net)?;
            net = optimizer.step(0.1, net, gradients);
        }
        Ok(net)
    });
    for replica in replicas.unwrap() {
        assert_close(&synced(one.valid()), &replica.valid(), 1e-4);
    }
}

#[test]
fn statistics_stay_where_no_rank_has_samples() {
    let states = run(2, |worker| {
        let layer = synced(plain(worker.device())).norm;
        layer.forward(samples(0, 0, 0, worker.device()).repeat_dim(1, 4));
        let rows = samples(0, 0, 2, worker.device()).repeat_dim(1, 4);
        norm::uncounted(|| layer.forward(rows));
        Ok(values(&layer.valid()))
    });
    let untrained = values(&plain(&Device::flex()).norm);
    for state in states.unwrap() {
        assert_eq!(state, untrained);
    }
}

/// Ranks 0 and 1 train one model, 2 and 3 another.
#[test]
fn a_layer_with_a_group_takes_the_statistics_of_its_ranks() {
    let pairs = run(4, |worker| {
        let pair = worker
            .group()
            .split(Some(worker.rank() as u64 / 2), 0)?
            .unwrap();
        let layer = synced(plain(worker.device())).norm.with_group(&pair);
        let from = worker.rank() * 3;
        let x = samples(0, from, from + 3, worker.device())
            .repeat_dim(1, 4)
            .require_grad();
        let output = layer.forward(x.clone());
        let gradients = (output.clone().exp()).sum().backward();
        let gradient = x.grad(&gradients).unwrap();
        let clone = layer.clone().valid().train();
        // A copy of the layer has its group too, or it would wait for four ranks.
        if worker.rank() < 2 {
            clone.forward(x);
        }
        Ok([output.into_data(), gradient.into_data()]
            .map(|data| data.iter::<f32>().collect::<Vec<_>>()))
    });
    let pairs = pairs.unwrap();
    let device = Device::flex().autodiff();
    for pair in 0..2 {
        let x = samples(0, pair * 6, pair * 6 + 6, &device)
            .repeat_dim(1, 4)
            .require_grad();
        let output = plain(&device).norm.forward(x.clone());
        let gradient = x.grad(&(output.clone().exp()).sum().backward()).unwrap();
        for (at, expected) in [output, Tensor::from_inner(gradient)]
            .into_iter()
            .enumerate()
        {
            let got = [pairs[pair * 2][at].clone(), pairs[pair * 2 + 1][at].clone()].concat();
            for (got, expected) in got.into_iter().zip(expected.into_data().iter::<f32>()) {
                assert!((got - expected).abs() < 1e-4, "{got} and {expected}");
            }
        }
    }
}

#[test]
fn conversion_keeps_parameters_ids_and_statistics_both_ways() {
    let device = Device::flex().autodiff();
    let layer = plain(&device).norm;
    layer.forward(samples(0, 0, 9, &device).repeat_dim(1, 4));
    let (gamma, before) = (layer.gamma.id, values(&layer.valid()));
    let converted = SyncBatchNorm::from(layer);
    assert_eq!(converted.gamma.id, gamma);
    assert_eq!(values(&converted.valid()), before);
    let record = converted.clone().into_record();
    let back = BatchNorm::from(converted);
    assert_eq!(
        (back.gamma.id, values(&back.valid())),
        (gamma, before.clone())
    );
    // What one saved the other loads.
    let loaded = plain(&device).norm.load_record(record);
    assert_eq!(values(&loaded.valid()), before);
}

#[test]
fn buffers_are_averaged_over_ranks_and_parameters_are_left() {
    let results = run(3, |worker| {
        let (rank, device) = (worker.rank(), worker.device());
        let ddp = DdpConfig::new().init(worker.group())?;
        let net = ddp.attach(plain(device))?;
        net.norm
            .forward(samples(rank, 0, 5 + rank, device).repeat_dim(1, 4));
        let own = values(&net.valid());
        // While the model is in the midst of a step, too.
        let loss = errors(&net, BatchNorm::forward, samples(0, 0, 4, device)).mean();
        let gradients = loss.backward();
        let net = ddp.average_buffers(net)?;
        let averaged = values(&net.valid());
        ddp.synchronize(gradients, &net)?;
        Ok((own, averaged))
    });
    let results = results.unwrap();
    let names = ["norm.running_mean", "norm.running_var"];
    for (own, averaged) in &results {
        assert_eq!(averaged, &results[0].1);
        for ((name, before), (_, after)) in own.iter().zip(averaged) {
            assert_eq!(names.contains(&name.as_str()), before != after, "{name}");
        }
    }
}

#[test]
fn the_mean_of_buffers_is_that_of_the_ranks() {
    let results = run(3, |worker| {
        let ddp = DdpConfig::new().init(worker.group())?;
        let net = ddp.attach(plain(worker.device()))?;
        let rows = samples(worker.rank(), 0, 5, worker.device()).repeat_dim(1, 4);
        net.norm.forward(rows);
        let own = net.valid().norm.running_var.value().into_data();
        let net = ddp.average_buffers(net)?;
        let mean = net.valid().norm.running_var.value().into_data();
        Ok([own, mean].map(|data| data.iter::<f64>().collect::<Vec<_>>()))
    });
    let results = results.unwrap();
    for feature in 0..4 {
        let sum: f64 = results.iter().map(|[own, _]| own[feature]).sum();
        assert!((results[0][1][feature] - sum / 3.0).abs() < 1e-6);
    }
}

#[test]
fn a_part_of_the_model_has_not_all_buffers() {
    let errors = run(2, |worker| {
        let ddp = DdpConfig::new().init(worker.group())?;
        let net = ddp.attach(plain(worker.device()))?;
        Ok(ddp.average_buffers(net.norm).unwrap_err().to_string())
    });
    let errors = errors.unwrap();
    let due = "lacks the buffer `norm.running_mean` of the attached one";
    assert!(errors.iter().any(|error| error.contains(due)), "{errors:?}");
    let all_know = errors.iter().all(|error| error.contains(due));
    assert!(all_know, "{errors:?}");
}
