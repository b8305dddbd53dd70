//! The `doctor` program as a user runs it.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output, Stdio};

/// The program, with nothing in its environment that says that it belongs to a job.
fn doctor(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doctor"));
    command
        .args(["--backend", "cpu", "--batch-size", "2"])
        .args(arguments);
    command.env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    doctor(arguments).output().unwrap()
}

#[test]
fn two_replicas_are_measured_and_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let run = run(&["--gpus", "2", "--json", file.to_str().unwrap()]);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");
    let text = String::from_utf8(run.stdout).unwrap();
    for part in [
        "ranks 0 and 1 on CPU",
        "4.58 MiB of gradients",
        "take bucket_cap_mb",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let measured = &report["measured"];
    assert_eq!(measured["replicas"].as_array().unwrap().len(), 2);
    assert_eq!(measured["processes"].as_array().unwrap().len(), 1);
    assert!(measured["all_reduces"].as_array().unwrap().len() >= 3);
    let share = report["forecast"]["planned"]["exposed_share"]
        .as_f64()
        .unwrap();
    assert!((0.0..=1.0).contains(&share));
    assert!(report["findings"].is_array());
}

#[test]
fn processes_measure_the_way_between_them() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let start = |process: usize| {
        doctor(&[])
            .env("RANK", process.to_string())
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env("BURN_DIST_SECRET", "the secret of this test")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let [first, second] = [0, 1]
        .map(start)
        .map(|child| child.wait_with_output().unwrap());
    for run in [&first, &second] {
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
    }
    let text = String::from_utf8(first.stdout).unwrap();
    assert!(
        text.contains("latency") && text.contains("0 and 1"),
        "{text}"
    );
    assert!(second.stdout.is_empty(), "process 0 tells for all");
}

#[test]
fn each_mistake_is_named_and_ends_with_a_failure() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no/report.json");
    for (arguments, code, expected) in [
        (&["--gpus", "0"][..], 2, "--gpus"),
        (&["--bucket-cap-mb", "0"], 2, "above 0"),
        (&["--epochs", "3"], 2, "--epochs"),
        (
            &["--interface", "eth0"],
            1,
            "for a job of several processes",
        ),
        (
            &["--json", nowhere.to_str().unwrap()],
            1,
            "can't write the report to",
        ),
    ] {
        let run = run(arguments);
        let text = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
    for (process, variable, value, expected) in [
        ("0", "MASTER_PORT", port.as_str(), "the port is taken"),
        (
            "0",
            "BURN_DIST_INTERFACE",
            "nosuch",
            "no network interface of this machine",
        ),
        ("1", "MASTER_PORT", "1", "to reach process 0"),
        ("0", "MASTER_ADDR", "no such machine", "MASTER_ADDR is"),
    ] {
        let run = doctor(&["--timeout", "1"])
            .env("RANK", process)
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", "1")
            .env("BURN_DIST_SECRET", "the secret of this test")
            .env(variable, value)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{variable}={value}: {text}");
        assert!(text.contains(expected), "{variable}={value}: {text}");
    }
}
