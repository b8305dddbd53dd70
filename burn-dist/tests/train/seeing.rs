//! What a training leaves to look at: figures of its steps, and its metrics.

use crate::net::{Norm, Samples, data, net};
use crate::recorder::Recorder;
use crate::scrape::scrape;
use crate::training::{Loader, loader, ranks, run, training};
use burn_dist::observe::Outputs;
use burn_dist::train::{DataLoaderBuilder, TensorBoardLogger};
use std::path::Path;
use std::time::Duration;

const EPOCHS: usize = 3;
/// Of an epoch: a rank is a straggler after 20.
const STEPS: usize = 25;

/// A step has one sample for each of three ranks: that of class 1 for rank 1.
fn slow(rank: usize) -> Loader {
    let samples = Samples {
        slow_class: Some((rank, Duration::from_millis(30))),
        ..Samples::default()
    };
    let builder = DataLoaderBuilder::new(samples).batch_size(3);
    builder.build(data(3 * STEPS))
}

/// How often the event files of a folder name each series.
fn named(folder: &Path, series: &[&str]) -> Vec<usize> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        all.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let count = |name: &&str| {
        let windows = all.windows(name.len());
        windows.filter(|window| *window == name.as_bytes()).count()
    };
    series.iter().map(count).collect()
}

#[test]
fn a_slow_rank_is_named_and_every_step_and_metric_written() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    let outputs = Outputs::new().log_dir(&logs).unwrap().metrics("0").unwrap();
    let address = outputs.metrics_address().unwrap();
    let strategy = ranks(3).outputs(outputs);
    let loaders = (slow(1), loader(6, 3, None, 0));
    let recorder = Recorder::default();
    let training = training(folder.path(), loaders, strategy.clone(), &recorder);
    run(
        training.with_metric_logger(TensorBoardLogger::new(&logs)),
        net(Norm::No),
    );

    let figures = scrape(address);
    let steps = EPOCHS * STEPS;
    for line in [
        format!("burn_dist_steps_total {steps}"),
        format!("burn_dist_samples_total {}", 3 * steps),
        // It was slow in loading data, for which the others waited elsewhere than for averages.
        "burn_dist_straggler{rank=\"0\"} 0".to_owned(),
        "burn_dist_straggler{rank=\"1\"} 1".to_owned(),
        "burn_dist_straggler{rank=\"2\"} 0".to_owned(),
    ] {
        assert!(
            figures.lines().any(|found| found == line),
            "{line}\n{figures}"
        );
    }

    let series = [
        "step/seconds",
        "train/Loss",
        "epoch/train/Loss",
        "epoch/valid/Accuracy",
    ];
    assert_eq!(
        named(&logs, &series),
        [steps, steps + EPOCHS, EPOCHS, EPOCHS]
    );
}

#[test]
fn metrics_that_cannot_be_written_cost_no_training() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let loaders = (loader(9, 3, None, 0), loader(6, 3, None, 0));
    let training = training(folder.path(), loaders, ranks(2), &Recorder::default());
    run(
        training.with_metric_logger(TensorBoardLogger::new(&file)),
        net(Norm::No),
    );
}
