//! Loaders that know nothing of ranks, of which each rank gets a slice of the data set; and ours alone.

use crate::net::{Batch, Item, Norm, Samples, data, net};
use crate::recorder::{Logged, Recorder};
use crate::training::{burns_loader, learner, loader, ranks, run, training};
use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;
use burn::train::metric::NumericEntry;
use burn_dist::train::DataLoaderBuilder;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

fn counts(recorder: &Recorder, split: &str, metric: &str) -> usize {
    let of = |logged: &Logged| logged.split == split && logged.metric.contains(metric);
    let values = recorder.values();
    let counts = values
        .iter()
        .filter(|logged| of(logged))
        .filter_map(|logged| match logged.entry {
            NumericEntry::Aggregated { count, .. } => Some(count),
            _ => None,
        });
    counts.sum()
}

#[test]
fn every_sample_counts_once_an_epoch_whatever_the_slices() {
    // Slices of 7, 8 and 8 samples, of 6 and 7; batches of 3 on each rank: one has a batch more.
    for (world_size, samples, workers) in [(3, 23, 0), (2, 13, 0), (2, 20, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let train = burn::data::dataloader::DataLoaderBuilder::new(Samples::default())
            .batch_size(3)
            .shuffle(1)
            .num_workers(workers)
            .build(data(samples));
        let loaders = (train, burns_loader(samples, 4, None));
        let strategy = ranks(world_size);
        run(
            training(folder.path(), loaders, strategy, &recorder),
            net(Norm::Sync),
        );
        assert_eq!(counts(&recorder, "train", "Accuracy"), 3 * samples);
        assert_eq!(counts(&recorder, "valid", "Accuracy"), 3 * samples);
    }
}

#[test]
fn a_slice_for_every_rank_or_an_error_before_the_training() {
    let folder = tempfile::tempdir().unwrap();
    for (train, valid, named) in [(2, 3, "the training data"), (3, 2, "the validation data")] {
        let recorder = Recorder::default();
        let loaders = (burns_loader(train, 1, None), burns_loader(valid, 1, None));
        let training = training(folder.path(), loaders, ranks(3), &recorder);
        let result = training.launch(learner(net(Norm::No)));
        let error = result.error.unwrap().to_string();
        assert!(error.contains("train on fewer ranks"), "{error}");
        assert!(error.contains(named), "{error}");
        // Before the training and not after an epoch of it.
        assert!(recorder.values().is_empty());
    }
}

#[test]
fn alone_the_loader_gives_what_burns_gives() {
    let device = Device::flex();
    for workers in [0, 2] {
        let ours = loader(23, 5, Some(9), workers).to_device(&device);
        let burns = burns_loader(23, 5, Some(9)).to_device(&device);
        assert_eq!(ours.num_items(), 23);
        for _ in 0..2 {
            let read = |loader: &Arc<dyn DataLoader<Batch>>| {
                let batches = loader.iter();
                let batches = batches.map(|batch| batch.unwrap().inputs.into_data());
                batches.collect::<Vec<_>>()
            };
            assert_eq!(read(&ours), read(&burns));
        }
        let mut pass = ours.iter();
        assert!(pass.by_ref().all(|batch| batch.is_ok()));
        assert!(pass.progress().is_completed());
    }
}

#[test]
fn a_slice_beyond_the_data_ends_with_it() {
    let ours = loader(10, 3, Some(1), 0);
    for (start, end, samples) in [(5, 15, 5), (12, 15, 0), (7, 3, 0), (2, 4, 2)] {
        let slice = ours.slice(start, end);
        assert_eq!(slice.num_items(), samples);
        let batches = slice.iter().map(|batch| batch.unwrap().targets.dims()[0]);
        assert_eq!(batches.sum::<usize>(), samples);
    }
}

#[test]
fn validation_without_samples_is_none() {
    for world_size in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        let loaders = (loader(9, 3, None, 0), loader(0, 3, None, 0));
        let strategy = ranks(world_size);
        run(
            training(folder.path(), loaders, strategy, &recorder),
            net(Norm::No),
        );
        assert_eq!(counts(&recorder, "train", "Accuracy"), 3 * 9);
        assert_eq!(counts(&recorder, "valid", "Accuracy"), 0);
    }
}

#[test]
fn wrong_settings_are_the_error_of_the_first_batch() {
    let builder = || DataLoaderBuilder::new(Samples::default());
    for (builder, said) in [
        (builder(), "got neither"),
        (builder().batch_size(1).global_batch_size(2), "got 1 and 2"),
        (builder().global_batch_size(0), "got 0"),
        (
            builder().batch_size(1).num_workers(2_000),
            "2000 workers are too many",
        ),
        (builder().batch_size(1).prefetch(0), "prefetch is 0"),
    ] {
        let loader = builder.build(data(3));
        let mut batches = loader.iter();
        let error = batches.next().unwrap().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(batches.next().is_none());
    }
}

/// Makes no batch until it is let go.
struct Hangs {
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Batcher<Item, Batch> for Hangs {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        // Returns when the test drops the sending end.
        let _ = self.gate.lock().unwrap().recv();
        Samples::default().batch(items, device)
    }
}

#[test]
fn a_batcher_that_hangs_is_an_error_at_the_deadline() {
    let (release, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let loader = DataLoaderBuilder::new(Hangs { gate })
        .batch_size(1)
        .num_workers(2)
        .prefetch(1)
        .timeout(Duration::from_secs(1))
        .build(data(10));
    let mut batches = loader.iter();
    let error = batches.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("within 1 s"), "{error}");
    assert!(batches.next().is_none());
    drop(release);
}
