//! The `mnist` program as a user runs it, on a few made-up digits.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/digits.rs"]
mod digits;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn mnist(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mnist"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[test]
fn two_replicas_train_and_leave_everything_and_the_same_twice() {
    let folder = tempfile::tempdir().unwrap();
    digits::write(folder.path(), 45);
    let train = |name: &str| -> serde_json::Value {
        let output = folder.path().join(name);
        let report = output.join("report.json");
        let run = mnist(&[
            "--gpus",
            "2",
            "--backend",
            "cpu",
            "--epochs",
            "2",
            "--batch-size",
            "4",
            "--data-dir",
            folder.path().to_str().unwrap(),
            "--output",
            output.to_str().unwrap(),
            "--report",
            report.to_str().unwrap(),
            "--trace",
            output.with_extension("json").to_str().unwrap(),
            "--log-dir",
            output.join("logs").to_str().unwrap(),
            "--metrics",
            "0",
        ]);
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let text = String::from_utf8(run.stdout).unwrap();
        assert_eq!(text.matches("epoch ").count(), 2, "{text}");
        assert!(text.contains("metrics at http://127.0.0.1:"), "{text}");
        let trace = std::fs::read(output.with_extension("json")).unwrap();
        let trace: Vec<serde_json::Value> = serde_json::from_slice(&trace).unwrap();
        assert!(trace.iter().any(|event| event["name"] == "optimizer"));
        assert_eq!(std::fs::read_dir(output.join("logs")).unwrap().count(), 1);
        let metrics = std::fs::read_to_string(output.join("metrics.csv")).unwrap();
        // Padding is left out: 45 samples, although two ranks share 46.
        assert!(
            metrics.lines().nth(1).unwrap().starts_with("1,45,"),
            "{metrics}"
        );
        for file in ["model.bpk", "training.svg"] {
            assert!(output.join(file).metadata().unwrap().len() > 0, "{file}");
        }
        serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap()
    };
    let (one, two) = (train("one"), train("two"));
    assert_eq!(one["world_size"], 2);
    assert_eq!(one["global_batch_size"], 8);
    assert_eq!(one["epochs"], 2);
    assert_eq!(one["replicas_identical"], true);
    assert_eq!(one["parameters_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(one["parameters_sha256"], two["parameters_sha256"]);
    for share in ["test_accuracy", "sync_wait_fraction"] {
        assert!(
            (0.0..=1.0).contains(&one[share].as_f64().unwrap()),
            "{share}"
        );
    }
}

#[test]
fn each_mistake_is_named_and_ends_with_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let in_file = file.join("runs");
    for (arguments, code, expected) in [
        (&["--gpu", "4"][..], 2, "--gpus"),
        (&["--gpus", "0"], 2, "--gpus"),
        (&["--backend", "tpu"], 2, "cuda"),
        (
            &["--data-dir", empty, "--output", empty],
            1,
            "train-images-idx3-ubyte",
        ),
        (
            &["--output", in_file.to_str().unwrap()],
            1,
            "can't write to",
        ),
        (&["--report", empty, "--output", empty], 1, "is a folder"),
        (
            &["--trace", empty, "--output", empty],
            1,
            "the trace can't be written to",
        ),
        (
            &["--log-dir", in_file.to_str().unwrap(), "--output", empty],
            1,
            "TensorBoard's events can't be written to",
        ),
        (
            &["--metrics", "nowhere", "--output", empty],
            1,
            "metrics can't be served at nowhere",
        ),
        #[cfg(not(feature = "cuda"))]
        (
            &["--backend", "cuda", "--output", empty],
            1,
            "without the cuda backend",
        ),
        #[cfg(not(feature = "download"))]
        (
            &["--download", "--output", empty],
            1,
            "built without downloads",
        ),
    ] {
        let run = mnist(arguments);
        let text = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn a_log_in_a_file_has_no_escape_codes() {
    let folder = tempfile::tempdir().unwrap();
    digits::write(folder.path(), 8);
    let path = folder.path().to_str().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_mnist"))
        .args(["--backend", "cpu", "--epochs", "1", "--data-dir", path])
        .args(["--output", path])
        .env("RUST_LOG", "debug")
        .output()
        .unwrap();
    assert!(run.status.success());
    assert!(!run.stderr.is_empty(), "something was logged");
    for text in [run.stdout, run.stderr] {
        assert!(!text.contains(&0x1B), "{}", String::from_utf8_lossy(&text));
    }
}

/// Process `process` of two that meet at this port.
fn process_of_two(process: usize, port: u16, secret: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mnist"));
    command
        .args(["--backend", "cpu", "--output"])
        .arg(folder)
        .env_remove("RUST_LOG")
        .env("RANK", process.to_string())
        .env("WORLD_SIZE", "2")
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("BURN_DIST_SECRET", secret)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn process_0_says_at_once_whom_it_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let mut first = process_of_two(0, port, "the secret of all", folder.path());
    let mut first = first.spawn().unwrap();
    let mut second = process_of_two(1, port, "another secret", folder.path());
    let second = second.output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains("the secrets differ"), "{text}");
    // It waits for the right one still, but not in silence.
    let mut line = String::new();
    BufReader::new(first.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(line.contains("turned a connection away"), "{line}");
    assert!(line.contains("the secrets differ"), "{line}");
}

#[test]
fn flags_that_differ_between_processes_are_refused_on_both_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let free_port = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let address = listener.and_then(|listener| listener.local_addr());
        address.unwrap().port()
    };
    for (flag, values) in [
        ("--lr", ["0.03", "0.3"]),
        ("--seed", ["1", "2"]),
        ("--batch-size", ["16", "17"]),
        ("--epochs", ["1", "2"]),
    ] {
        let port = free_port();
        let mut running = [0, 1].map(|process| {
            let mut command = process_of_two(process, port, "the secret of all", folder.path());
            command.args([flag, values[process]]).stdout(Stdio::piped());
            Some(command.spawn().unwrap())
        });
        for process in &mut running {
            let output = process.take().unwrap().wait_with_output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{text}");
            let expected = format!(
                "{flag} is \"{}\" in process 0, \"{}\" in process 1",
                values[0], values[1]
            );
            assert!(text.contains(&expected), "{text}");
            let steps = String::from_utf8(output.stdout).unwrap();
            assert!(!steps.contains("epoch "), "{steps}");
        }
    }
    assert!(!folder.path().join("model.bpk").exists());
}
