//! Batch normalisation: running statistics that stay equal, and statistics of the whole batch.

use crate::net::{Net, Norm, Samples, data, net};
use crate::recorder::{Recorder, assert_same_values};
use crate::training::{
    assert_close, burns_loader, learner, loader, numbers, one_device, ranks, run, training,
};
use burn::module::Module;
use burn::nn::BatchNormConfig;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::Launcher;
use burn_dist::norm::SyncBatchNorm;
use burn_dist::train::DataLoaderBuilder;
use std::time::Duration;

/// The numbers of each rank of one layer, `[ranks][rows][3][2]`, all different.
fn numbers_of(rank: usize, rows: usize) -> Vec<f32> {
    (0..rows * 6)
        .map(|at| ((rank * 41 + at * 17) % 23) as f32 / 7.0 + at as f32 % 6.0)
        .collect()
}

fn tensor(values: Vec<f32>, device: &Device) -> Tensor<3> {
    let rows = values.len() / 6;
    Tensor::from_data(TensorData::new(values, [rows, 3, 2]), device)
}

/// A loss whose gradient differs from place to place, summed over samples.
fn loss(output: Tensor<3>, from: usize) -> Tensor<1> {
    let device = output.device();
    let rows = output.dims()[0];
    let weights: Vec<f32> = (from * 6..(from + rows) * 6)
        .map(|at| ((at * 5) % 11) as f32 - 4.0)
        .collect();
    (output.square() * tensor(weights, &device)).sum()
}

#[test]
fn the_layer_is_batch_norm_over_the_batches_of_all_ranks_forward_and_backward() {
    // Ranks have 3, 1 and 2 samples.
    let rows = [3, 1, 2];
    let starts = [0, 3, 4];
    let device = Device::flex().autodiff();
    let whole: Vec<f32> = (0..3)
        .flat_map(|rank| numbers_of(rank, rows[rank]))
        .collect();
    let reference = BatchNormConfig::new(3).init(&device);
    let input = tensor(whole, &device).require_grad();
    let output = reference.forward(input.clone());
    let grads = loss(output.clone(), 0).backward();
    let expected_input = input.grad(&grads).unwrap().into_data().try_to_vec::<f32>();
    let expected_input = expected_input.unwrap();
    let expected_output = output.into_data().try_to_vec::<f32>().unwrap();
    let expected_gamma = GradientsParams::from_grads(grads, &reference)
        .get::<1>(reference.gamma.id)
        .unwrap()
        .into_data();
    let expected_state = numbers(&reference.valid());

    let results = Launcher::new(vec![device; 3])
        .with_timeout(Duration::from_mins(1))
        .run(|worker| {
            let (rank, device) = (worker.rank(), worker.device());
            let norm = SyncBatchNorm::new(BatchNormConfig::new(3).init(device));
            let input = tensor(numbers_of(rank, rows[rank]), device).require_grad();
            let output = norm.forward(input.clone());
            let grads = loss(output.clone(), starts[rank]).backward();
            let gradient = input.grad(&grads).unwrap();
            let gamma = GradientsParams::from_grads(grads, &norm)
                .get::<1>(norm.gamma.id)
                .unwrap();
            let gamma = worker.group().all_reduce(gamma, burn_dist::ReduceOp::Sum)?;
            let values = |tensor: Tensor<3>| tensor.into_data().try_to_vec::<f32>().unwrap();
            Ok::<_, burn_dist::Error>((
                values(output),
                values(gradient),
                gamma.into_data(),
                numbers(&norm.valid()),
            ))
        })
        .unwrap();

    let close = |one: &[f32], other: &[f32]| {
        assert_eq!(one.len(), other.len());
        for (one, other) in one.iter().zip(other) {
            // Sums of a dozen numbers of about 10 in f32.
            assert!((one - other).abs() < 2e-4, "{one} and {other}");
        }
    };
    let outputs: Vec<f32> = results.iter().flat_map(|result| result.0.clone()).collect();
    let inputs: Vec<f32> = results.iter().flat_map(|result| result.1.clone()).collect();
    close(&outputs, &expected_output);
    close(&inputs, &expected_input);
    for (_, _, gamma, state) in &results {
        close(
            &gamma.try_to_vec::<f32>().unwrap(),
            &expected_gamma.try_to_vec::<f32>().unwrap(),
        );
        assert_eq!(state, &results[0].3);
        for (one, other) in state.iter().zip(&expected_state) {
            assert!((one - other).abs() < 1e-5, "{one} and {other}");
        }
    }
}

fn with_batch_norm(net: Net) -> Net {
    let sync = net.sync_batch_norm.unwrap();
    let mut norm = BatchNormConfig::new(5).init(&Device::flex().autodiff());
    norm.gamma = sync.gamma;
    norm.beta = sync.beta;
    Net {
        first: net.first,
        batch_norm: Some(norm),
        sync_batch_norm: None,
        last: net.last,
    }
}

#[test]
fn training_with_the_layer_is_one_device_with_batch_norm() {
    // The last batch has unequal parts on two ranks, and on three one for the first alone.
    for (world_size, samples) in [(2, 45), (3, 25)] {
        let folder = tempfile::tempdir().unwrap();
        let (alone, together) = (Recorder::default(), Recorder::default());
        let loaders = (burns_loader(samples, 12, None), burns_loader(20, 12, None));
        let one = training(folder.path(), loaders, one_device(), &alone);
        let one = run(one, with_batch_norm(net(Norm::Sync)));
        let loaders = (loader(samples, 12, None, 0), loader(20, 12, None, 0));
        let many = training(folder.path(), loaders, ranks(world_size), &together);
        let many = run(many, net(Norm::Sync));
        assert_same_values(&alone, &together);
        assert_close(&one, &many);
    }
}

#[test]
fn running_statistics_are_the_mean_over_ranks() {
    let folder = tempfile::tempdir().unwrap();
    // A learning rate of zero would do, but Adam's steps are the same on all ranks anyway: what differs
    // between ranks is what they see. Each sees its own batch here.
    let train = |world_size: usize, samples: std::ops::Range<usize>| {
        let loaders = (
            crate::training::loader_of(samples.clone(), samples.len()),
            crate::training::loader_of(samples, 12),
        );
        let training = training(
            folder.path(),
            loaders,
            ranks(world_size),
            &Recorder::default(),
        );
        run(training.num_epochs(1), net(Norm::Batch))
    };
    let state = |net: &Net| numbers(&net.batch_norm.as_ref().unwrap().running_mean);
    let (first, second) = (state(&train(1, 0..6)), state(&train(1, 6..12)));
    let both = state(&train(2, 0..12));
    assert_ne!(first, second);
    for ((first, second), both) in first.iter().zip(&second).zip(&both) {
        assert!((f64::midpoint(*first, *second) - both).abs() < 1e-6);
    }
}

#[test]
fn a_layer_that_fails_ends_what_is_synchronised_later() {
    let devices = vec![Device::flex().autodiff(); 2];
    let later = std::sync::Mutex::new(Vec::new());
    let outcome = Launcher::new(devices)
        .with_timeout(Duration::from_mins(1))
        .run(|worker| {
            let ddp = DdpConfig::new().init(worker.group())?;
            let norm = SyncBatchNorm::new(BatchNormConfig::new(3).init(worker.device()));
            let norm = ddp.attach(norm)?;
            if worker.rank() == 1 {
                // Only this group: the one that averages is another.
                worker.group().abort("rank 1 has had enough");
            } else {
                norm.forward(tensor(numbers_of(0, 2), worker.device()));
            }
            let verified = ddp.verify_replicas(&norm);
            let error = verified.as_ref().map_err(ToString::to_string).err();
            later.lock().unwrap().push(error);
            verified
        });
    outcome.unwrap_err();
    for error in later.into_inner().unwrap() {
        let error = error.unwrap();
        assert!(error.contains("rank 1 has had enough"), "{error}");
    }
}

#[test]
fn a_training_that_fails_gives_back_the_statistics_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let broken = Samples {
        panics_at: Some(10),
        ..Samples::default()
    };
    // The means over ranks are taken before the validation, which fails.
    let valid = DataLoaderBuilder::new(broken)
        .global_batch_size(10)
        .build(data(11));
    let loaders = (loader(25, 10, None, 0), valid);
    let untrained = numbers(&net(Norm::Batch));
    let training = training(folder.path(), loaders, ranks(2), &Recorder::default());
    let result = training.launch(learner(net(Norm::Batch)));
    assert!(result.error.is_some());
    assert_eq!(numbers(&result.model), untrained);
}
