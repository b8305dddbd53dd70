//! The `learner` example and the plain program that it comes from, as a user runs them, on a few made-up
//! digits: any number of ranks gives the figures of one device.
#![cfg(feature = "train")]
#![expect(
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

fn report(program: &str, flags: &[&str], digits: &Path) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    report_in(folder.path(), program, flags, digits)
}

/// The same, with this folder as output.
fn report_in(folder: &Path, program: &str, flags: &[&str], digits: &Path) -> serde_json::Value {
    let file = folder.join("report.json");
    let program = example(program);
    assert!(program.exists(), "{} is not built", program.display());
    let status = Command::new(program)
        .args(["--epochs", "2", "--batch-size", "10"])
        .arg("--data-dir")
        .arg(digits)
        .arg("--output")
        .arg(folder)
        .arg("--report")
        .arg(&file)
        .args(flags)
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn two_and_three_ranks_have_the_figures_of_the_plain_program() {
    let digits = tempfile::tempdir().unwrap();
    digits::write(digits.path(), 33);
    let plain = report("learner_plain", &[], digits.path());
    assert_eq!(plain["world_size"], 1);
    for gpus in ["2", "3"] {
        let flags = ["--gpus", gpus, "--backend", "cpu"];
        let distributed = report("learner", &flags, digits.path());
        assert_eq!(distributed["world_size"].to_string(), gpus);
        assert_eq!(distributed["replicas_identical"], true);
        for figure in ["train_loss", "train_accuracy", "test_accuracy"] {
            let of = |report: &serde_json::Value| report[figure].as_f64().unwrap();
            let (one, other) = (of(&plain), of(&distributed));
            assert!((one - other).abs() < 1e-4, "{figure}: {one} and {other}");
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
        "--checkpoint",
        "--trace",
        trace.to_str().unwrap(),
        "--log-dir",
        logs.to_str().unwrap(),
        "--metrics",
        "0",
    ];
    let whole = report_in(folder.path(), "learner", &flags, digits.path());
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
    let resumed = report_in(folder.path(), "learner", &flags, digits.path());
    assert_eq!(resumed["world_size"], 2);
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
    assert_eq!(whole["world_size"], 2);
}

#[path = "support/digits.rs"]
mod digits;
