//! What a training leaves to look at: figures of its steps, and its metrics.

use crate::net::{Norm, Samples, data, net};
use crate::recorder::Recorder;
use crate::scrape::scrape;
use crate::training::{Loader, loader, ranks, run, training};
use burn_dist::observe::Outputs;
use burn_dist::train::{DataLoaderBuilder, TensorBoardLogger};
use std::collections::BTreeMap;
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
    let builder = DataLoaderBuilder::new(samples).global_batch_size(3);
    builder.build(data(3 * STEPS))
}

/// Counts each series in the event files of a folder.
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
    let outputs = Outputs::new()
        .with_log_dir(&logs)
        .unwrap()
        .with_metrics("0")
        .unwrap();
    let address = outputs.metrics_address().unwrap();
    let strategy = ranks(3).with_outputs(outputs);
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

/// Reads the number at the beginning of a message, seven bits a byte.
fn varint(message: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = message[0];
        *message = &message[1..];
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// The fields of a message, numbers as their eight bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let content = match tag & 7 {
            0 => varint(&mut message).to_le_bytes().to_vec(),
            kind => {
                let length = match kind {
                    1 => 8,
                    5 => 4,
                    _ => varint(&mut message) as usize,
                };
                let content = message[..length].to_vec();
                message = &message[length..];
                content
            }
        };
        found.push((tag >> 3, content));
    }
    found
}

/// The steps of each series, as TensorBoard shows a folder: when a run begins with a step, it forgets what it has
/// read of that step and later ones.
fn shown(folder: &Path) -> BTreeMap<String, Vec<u64>> {
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut series = BTreeMap::<String, Vec<u64>>::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = fields(&rest[12..12 + length]);
            rest = &rest[16 + length..];
            let step = u64::from_le_bytes(event[1].1[..].try_into().unwrap());
            match &event[2] {
                // A session that starts.
                (7, session) if *session == [8, 1] => {
                    let steps = series.values_mut();
                    steps.for_each(|steps| steps.retain(|known| *known < step));
                }
                (5, summary) => {
                    let value = fields(&fields(summary)[0].1);
                    let name = String::from_utf8(value[0].1.clone()).unwrap();
                    series.entry(name).or_default().push(step);
                }
                _ => {}
            }
        }
    }
    series
}

#[test]
fn a_resumed_training_goes_on_with_the_next_step_and_shows_none_twice() {
    // Without the figures of steps; with those in another folder; with both in one.
    for outputs in [None, Some("steps"), Some("logs")] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let train = |resume: Option<usize>| {
            let strategy = ranks(2);
            let strategy = match outputs {
                Some(name) => {
                    strategy.with_outputs(Outputs::new().with_log_dir(path(name)).unwrap())
                }
                None => strategy,
            };
            let loaders = (loader(25, 4, Some(1), 0), loader(6, 3, None, 0));
            let recorder = Recorder::default();
            let training = training(folder.path(), loaders, strategy, &recorder)
                .with_metric_logger(TensorBoardLogger::new(path("logs")))
                .with_default_checkpointers()
                // A step after four passes, and after three.
                .grads_accumulation(4);
            run(
                match resume {
                    Some(epoch) => training.checkpoint(epoch),
                    None => training,
                },
                net(Norm::No),
            );
        };
        train(None);
        let whole = shown(&path("logs"));
        // Seven passes an epoch.
        assert_eq!(whole["train/Loss"], (0..21).collect::<Vec<_>>());
        assert_eq!(whole["valid/Loss"], [0, 1, 7, 8, 14, 15]);
        assert_eq!(whole["epoch/valid/Accuracy"], [6, 13, 20]);
        // From the last checkpoint, and from the one before, whose successors it replaces.
        train(Some(2));
        assert_eq!(shown(&path("logs")), whole);
        train(Some(2));
        assert_eq!(shown(&path("logs")), whole);
        if let Some(name) = outputs {
            let steps = shown(&path(name));
            assert_eq!(steps["step/seconds"], [3, 6, 10, 13, 17, 20]);
        }
    }
}

#[test]
fn a_first_step_that_is_given_counts() {
    let folder = tempfile::tempdir().unwrap();
    let loaders = (loader(9, 3, None, 0), loader(6, 3, None, 0));
    let training = training(folder.path(), loaders, ranks(1), &Recorder::default());
    let logs = folder.path().join("logs");
    let logger = TensorBoardLogger::new(&logs).with_first_step(100);
    run(training.with_metric_logger(logger), net(Norm::No));
    let shown = shown(&logs);
    assert_eq!(shown["train/Loss"], (100..109).collect::<Vec<_>>());
    assert_eq!(shown["valid/Loss"], [100, 101, 103, 104, 106, 107]);
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
