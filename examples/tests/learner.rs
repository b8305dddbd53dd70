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
    let file = folder.path().join("report.json");
    let program = example(program);
    assert!(program.exists(), "{} is not built", program.display());
    let status = Command::new(program)
        .args(["--epochs", "2", "--batch-size", "10"])
        .arg("--data-dir")
        .arg(digits)
        .arg("--output")
        .arg(folder.path())
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

#[path = "support/digits.rs"]
mod digits;
