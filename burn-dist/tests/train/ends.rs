//! How training ends and goes on: checkpoints, early stopping, interruption, failures.

use crate::net::{Batch, Item, Net, Norm, Samples, data, net};
use crate::recorder::{Recorder, assert_same_values};
use crate::training::{
    Loader, assert_close, burns_loader, learner, loader, numbers, one_device, ranks, run, training,
};
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;
use burn::train::metric::store::{Aggregate, Direction, Split};
use burn::train::metric::{LossMetric, NumericEntry};
use burn::train::{
    Interrupter, LearningResult, MetricEarlyStoppingStrategy, StoppingCondition, TrainingStrategy,
};
use burn_dist::random::{self, StreamState};
use burn_dist::train::DataLoaderBuilder;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn ours() -> (Loader, Loader) {
    (loader(25, 10, None, 0), loader(11, 10, None, 0))
}

fn epochs(recorder: &Recorder) -> usize {
    let values = recorder.values();
    values.iter().map(|logged| logged.epoch).max().unwrap()
}

#[test]
fn a_checkpoint_of_all_ranks_goes_on_on_any_number_of_them() {
    let whole = |strategy: TrainingStrategy<Net>, loaders, recorder: &Recorder, folder: &Path| {
        let training = training(folder, loaders, strategy, recorder);
        run(training.with_default_checkpointers(), net(Norm::No))
    };
    let folder = tempfile::tempdir().unwrap();
    let uninterrupted = whole(ranks(2).into(), ours(), &Recorder::default(), folder.path());
    // Written by rank 0 alone, once for each epoch that is kept.
    let files = std::fs::read_dir(folder.path().join("checkpoint")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("model")).collect();
    names.sort();
    assert!(names.contains(&"model-2.bpk".to_owned()), "{names:?}");

    let burns = (burns_loader(25, 10, None), burns_loader(11, 10, None));
    let strategies: [(TrainingStrategy<Net>, _); 3] = [
        (ranks(2).into(), ours()),
        (ranks(3).into(), ours()),
        (one_device(), burns),
    ];
    for (strategy, loaders) in strategies {
        let recorder = Recorder::default();
        let resumed = training(folder.path(), loaders, strategy, &recorder)
            .with_default_checkpointers()
            .checkpoint(2);
        // From other parameters, which the checkpoint replaces.
        let resumed = run(resumed, crate::net::net_of(7, Norm::No));
        assert_close(&uninterrupted, &resumed);
        assert!(recorder.values().iter().all(|logged| logged.epoch == 3));
    }
}

/// Makes loaders for training and validation.
type Loaders<'l> = &'l dyn Fn() -> (Loader, Loader);

#[test]
fn a_resumed_training_sees_what_an_uninterrupted_one_sees() {
    let ours = || (loader(25, 10, Some(4), 1), loader(11, 10, Some(5), 0));
    // Two ranks have slices of 13 and 12: in each epoch one runs a pass more than the other has batches for.
    let burns = || (burns_loader(25, 4, Some(4)), burns_loader(11, 4, None));
    let ways: [(usize, usize, Loaders<'_>); 4] =
        [(2, 2, &ours), (2, 3, &ours), (2, 2, &burns), (1, 1, &burns)];
    for (before, after, loaders) in ways {
        let folder = tempfile::tempdir().unwrap();
        let train = |world_size: usize, recorder: &Recorder| {
            training(folder.path(), loaders(), ranks(world_size), recorder)
                .with_default_checkpointers()
        };
        let (whole, rest) = (Recorder::default(), Recorder::default());
        let uninterrupted = run(train(before, &whole), net(Norm::No));
        let resumed = run(train(after, &rest).checkpoint(2), net(Norm::No));
        // One of the metrics depends on the order of samples.
        assert_same_values(&whole.since_epoch(3), &rest);
        assert_close(&uninterrupted, &resumed);
    }
}

/// Notes where the rank's random numbers stand whenever it makes a batch.
#[derive(Clone, Default)]
struct Draws(Arc<Mutex<Vec<StreamState>>>);

impl Batcher<Item, Batch> for Draws {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        self.0.lock().unwrap().push(random::state());
        Samples::default().batch(items, device)
    }
}

#[test]
fn a_resumed_training_draws_what_an_uninterrupted_one_draws() {
    let folder = tempfile::tempdir().unwrap();
    let train = |resume: Option<usize>| {
        let draws = Draws::default();
        let train = DataLoaderBuilder::new(draws.clone());
        let loaders = (
            train.global_batch_size(25).build(data(25)),
            loader(11, 10, None, 0),
        );
        let recorder = Recorder::default();
        let training = training(folder.path(), loaders, ranks(1), &recorder);
        let training = training.with_default_checkpointers();
        run(
            match resume {
                Some(epoch) => training.checkpoint(epoch),
                None => training,
            },
            net(Norm::No),
        );
        draws.0.lock().unwrap().clone()
    };
    let whole = train(None);
    assert_eq!(whole.len(), 3);
    assert!(whole[0] != whole[1] && whole[1] != whole[2]);
    assert_eq!(train(Some(2)), whole[2..]);
}

#[test]
fn all_ranks_stop_early_where_one_device_does() {
    let stop = || {
        MetricEarlyStoppingStrategy::new(
            &LossMetric::new(),
            Aggregate::Mean,
            // The loss falls, so that it is never better than the first.
            Direction::Highest,
            Split::Valid,
            StoppingCondition::NoImprovementSince { n_epochs: 2 },
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let (alone, together) = (Recorder::default(), Recorder::default());
    let burns = (burns_loader(25, 10, None), burns_loader(11, 10, None));
    let one = training(folder.path(), burns, one_device(), &alone);
    let many = training(folder.path(), ours(), ranks(3), &together);
    for training in [one, many] {
        run(
            training.num_epochs(50).early_stopping(stop()),
            net(Norm::No),
        );
    }
    assert_eq!(epochs(&alone), 3);
    assert_same_values(&alone, &together);
}

/// Pulls the training's interrupter while it makes the batch with a certain sample.
struct Pulls {
    at: Item,
    interrupter: Interrupter,
}

impl Batcher<Item, Batch> for Pulls {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        if items.contains(&self.at) {
            // Ranks that decided by themselves would all have decided by then.
            std::thread::sleep(Duration::from_millis(200));
            self.interrupter.stop(Some("enough"));
        }
        Samples::default().batch(items, device)
    }
}

#[test]
fn an_interruption_stops_all_ranks_in_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let (recorder, interrupter) = (Recorder::default(), Interrupter::new());
    // Of the first epoch's fifth batch of nine, 20 to 24, rank 1 alone has this sample.
    let pulls = Pulls {
        at: 22,
        interrupter: interrupter.clone(),
    };
    let train = DataLoaderBuilder::new(pulls)
        .global_batch_size(5)
        .build(data(45));
    let loaders = (train, loader(11, 10, None, 0));
    let strategy = ranks(3);
    let result = training(folder.path(), loaders, strategy.clone(), &recorder)
        .with_interrupter(interrupter)
        .launch(learner(net(Norm::No)));
    assert!(result.error.is_none(), "{:?}", result.error);
    let reason = result.interrupted.unwrap().reason;
    assert_eq!(reason.as_deref(), Some("enough"));
    let values = recorder.values();
    let batches = values.iter().filter(|logged| {
        let aggregated = matches!(logged.entry, NumericEntry::Aggregated { .. });
        aggregated && logged.metric.contains("Loss")
    });
    // Those before, and none of the validation.
    assert_eq!(batches.count(), 4);
    assert_ne!(numbers(&result.model), numbers(&net(Norm::No)));
    // Replicas that stopped at different steps would have been an error.
    assert!(strategy.report().is_some());
}

/// Trains on two ranks with samples of which one is broken; gives the error.
fn failure(samples: Samples) -> String {
    let folder = tempfile::tempdir().unwrap();
    let train = DataLoaderBuilder::new(samples)
        .global_batch_size(10)
        .build(data(25));
    let loaders = (train, loader(11, 10, None, 0));
    let untrained = numbers(&net(Norm::No));
    let training = training(folder.path(), loaders, ranks(2), &Recorder::default());
    let LearningResult { model, error, .. } = training.launch(learner(net(Norm::No)));
    assert_eq!(numbers(&model), untrained);
    error.unwrap().to_string()
}

#[test]
fn a_broken_sample_of_one_rank_is_the_trainings_error() {
    let error = failure(Samples {
        panics_at: Some(17),
        ..Samples::default()
    });
    assert!(error.contains("rank 1"), "{error}");
    assert!(error.contains("a sample is broken"), "{error}");
}

#[test]
fn a_step_that_panics_on_one_rank_is_the_trainings_error() {
    let error = failure(Samples {
        malformed_at: Some(17),
        ..Samples::default()
    });
    assert!(error.contains("device 1"), "{error}");
    assert!(error.contains("rank 1 panicked"), "{error}");
}
