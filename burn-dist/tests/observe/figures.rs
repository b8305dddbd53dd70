//! Figures of two ranks, in TensorBoard's file and over Prometheus' socket.

use crate::scrape::scrape;
use burn_dist::ProcessGroup;
use burn_dist::ddp::SyncStats;
use burn_dist::observe::{Outputs, StepMonitor};
use std::net::TcpStream;

const STEPS: u64 = 12;

/// Returns the figures of a rank after so many steps.
fn stats(steps: u64) -> SyncStats {
    SyncStats {
        steps,
        bytes: 1000 * steps,
        ..SyncStats::default()
    }
}

/// Runs two ranks, the second of which has twice the samples.
fn run(outputs: &Outputs) {
    let groups = ProcessGroup::threads(2).unwrap();
    std::thread::scope(|scope| {
        for group in groups {
            scope.spawn(move || {
                let mut monitor = StepMonitor::new(&group).unwrap().with_outputs(outputs);
                for step in 0..STEPS {
                    let samples = 8 * (group.rank() + 1);
                    monitor.step(samples, stats(step + 1)).unwrap();
                    monitor.scalar("train/loss", 0.5);
                }
                // Eight may be on their way.
                let known = monitor.latest().map(|summary| summary.number);
                assert_eq!(group.rank() == 0, known >= Some(STEPS - 1 - 8));
                monitor.finish().unwrap();
            });
        }
    });
}

#[test]
fn prometheus_and_tensorboard_get_the_figures_of_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("new/logs");
    let outputs = Outputs::new()
        .with_log_dir(&logs)
        .unwrap()
        .with_metrics("0")
        .unwrap();
    let address = outputs.metrics_address().unwrap();
    let before = scrape(address);
    assert!(before.contains("burn_dist_steps_total 0\n"), "{before}");
    run(&outputs);
    let after = scrape(address);
    for line in [
        "burn_dist_steps_total 12",
        "burn_dist_samples_total 288",
        "burn_dist_gradient_bytes_total 24000",
        "burn_dist_sent_bytes_total 0",
        "burn_dist_step_seconds_count 12",
        "burn_dist_straggler{rank=\"1\"} 0",
    ] {
        assert!(after.lines().any(|found| found == line), "{line}\n{after}");
    }
    drop(outputs);
    assert!(
        TcpStream::connect(address).is_err(),
        "the port is closed at the end"
    );

    let mut files = std::fs::read_dir(&logs).unwrap();
    let file = std::fs::read(files.next().unwrap().unwrap().path()).unwrap();
    assert!(files.next().is_none());
    let count = |text: &str| {
        let windows = file.windows(text.len());
        windows.filter(|window| *window == text.as_bytes()).count() as u64
    };
    assert_eq!(count("brain.Event:2"), 1);
    // Once a step each, from rank 0 alone.
    for series in ["train/loss", "step/samples_per_second", "sync/wait_seconds"] {
        assert_eq!(count(series), STEPS, "{series}");
    }
}

#[test]
fn a_monitor_that_goes_on_says_with_which_step() {
    let folder = tempfile::tempdir().unwrap();
    let outputs = Outputs::new().with_log_dir(folder.path()).unwrap();
    let monitor = StepMonitor::new(&ProcessGroup::single()).unwrap();
    let mut monitor = monitor.with_outputs(&outputs).with_first_step(5);
    monitor.step(1, stats(1)).unwrap();
    monitor.finish().unwrap();
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
    let bytes = std::fs::read(file.unwrap().path()).unwrap();
    // An event's step, and its session log with the status START.
    let beginning = [0x10, 5, 0x3A, 2, 8, 1];
    let count = bytes.windows(6).filter(|window| *window == beginning);
    assert_eq!(count.count(), 1);
}
