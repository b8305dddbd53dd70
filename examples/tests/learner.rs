//! The `learner` example and the plain program that it comes from, as a user runs them, on a few made-up
//! digits: any number of ranks gives the figures of one device.
#![cfg(feature = "train")]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// An example of this package. `cargo test` builds them before it runs tests; with `--test learner` alone, `cargo
/// build --examples` has to come first.
fn example(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    // The test is in `deps`.
    folder.pop();
    folder.pop();
    folder.join("examples").join(name)
}

/// Runs a program with this folder as output. Returns its standard output.
fn run(folder: &Path, program: &str, flags: &[&str], digits: &Path) -> String {
    let program = example(program);
    assert!(program.exists(), "{} is not built", program.display());
    let run = Command::new(program)
        .args(["--epochs", "2", "--global-batch-size", "10"])
        .arg("--data-dir")
        .arg(digits)
        .arg("--output")
        .arg(folder)
        .args(flags)
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    String::from_utf8(run.stdout).unwrap()
}

/// The loss and accuracy of the last epoch's training, and the accuracy of its test, from burn-train's logs.
fn figures(folder: &Path) -> [f64; 3] {
    let logs = [
        "train/epoch-2/Loss",
        "train/epoch-2/Accuracy",
        "valid/epoch-2/Accuracy",
    ];
    logs.map(|name| {
        let log = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap();
        let figure = log.lines().find_map(|line| line.strip_suffix(",final"));
        figure
            .unwrap_or_else(|| panic!("{name}: {log}"))
            .parse()
            .unwrap()
    })
}

#[test]
fn two_and_three_ranks_have_the_figures_of_the_plain_program() {
    let digits = tempfile::tempdir().unwrap();
    digits::write(digits.path(), 33);
    let one = tempfile::tempdir().unwrap();
    run(one.path(), "learner_plain", &[], digits.path());
    let one = figures(one.path());
    for gpus in ["2", "3"] {
        let folder = tempfile::tempdir().unwrap();
        let flags = ["--gpus", gpus, "--backend", "cpu"];
        let out = run(folder.path(), "learner", &flags, digits.path());
        // A run whose replicas differ ends with an error.
        assert!(out.contains(&format!("with {gpus} replica(s)")), "{out}");
        let other = figures(folder.path());
        for (one, other) in one.iter().zip(&other) {
            assert!((one - other).abs() < 1e-4, "{one} and {other}");
        }
    }
}

#[test]
fn a_run_goes_on_from_its_checkpoint_and_leaves_what_was_asked_for() {
    let (digits, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    digits::write(digits.path(), 33);
    let (trace, logs) = (folder.path().join("trace.json"), folder.path().join("logs"));
    let flags = [
        "--gpus",
        "2",
        "--backend",
        "cpu",
        "--trace",
        trace.to_str().unwrap(),
        "--log-dir",
        logs.to_str().unwrap(),
        "--metrics",
        "0",
    ];
    let out = run(folder.path(), "learner", &flags, digits.path());
    assert!(
        out.contains("2 replica(s)") && out.contains("metrics at"),
        "{out}"
    );
    let whole = figures(folder.path());
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let events = trace.as_array().unwrap();
    for span in [
        "forward",
        "backward",
        "optimizer",
        "bucket",
        "next batch",
        "validate",
    ] {
        assert!(events.iter().any(|event| event["name"] == span), "{span}");
    }
    // That of the steps, and that of the metrics.
    assert_eq!(std::fs::read_dir(logs).unwrap().count(), 2);

    let flags = ["--gpus", "2", "--backend", "cpu", "--resume", "1"];
    let out = run(folder.path(), "learner", &flags, digits.path());
    assert!(out.contains("2 replica(s)"), "{out}");
    let resumed = figures(folder.path());
    for (one, other) in whole.iter().zip(&resumed) {
        assert!((one - other).abs() < 1e-4, "{one} and {other}");
    }
    let flags = ["--resume", "9", "--epochs", "10"];
    let output = Command::new(example("learner"))
        .args(flags)
        .arg("--output")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("no checkpoint of epoch 9"), "{message}");
}

#[path = "support/digits.rs"]
mod digits;
