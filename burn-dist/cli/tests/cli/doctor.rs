//! `burn-dist doctor`.

use crate::launcher::{burn_dist, text};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> Command {
    let mut command = burn_dist();
    command
        .args(["doctor", "--backend", "cpu", "--batch-size", "2"])
        .args(arguments);
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
    let output = burn_dist()
        .args(["run", "--nproc-per-node", "2", "--"])
        .arg(env!("CARGO_BIN_EXE_burn-dist"))
        .args(["doctor", "--backend", "cpu", "--batch-size", "2"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(
        said.contains("latency") && said.contains("0 and 1"),
        "{said}"
    );
    assert!(!said.contains("[1]"), "process 0 tells for all: {said}");
}

#[test]
fn a_process_alone_looks_at_port_and_interface() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flags, variable, part) in [
        (&["--master-port", &port][..], "", "--master-port"),
        (&[], port.as_str(), "is taken by another program"),
        (&[], "http", "MASTER_PORT is \"http\""),
        (&["--interface", "nosuch"], "", "127.0.0.1"),
    ] {
        let mut doctor = doctor(flags);
        if !variable.is_empty() {
            doctor.env("MASTER_PORT", variable);
        }
        let output = doctor.output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {error}");
        assert!(error.contains(part), "{flags:?}: {error}");
        assert!(output.stdout.is_empty(), "nothing is measured");
    }
    drop(taken);
    let output = run(&["--interface", "127.0.0.1", "--master-port", &port]);
    assert!(output.status.success(), "{output:?}");
    let error = text(&output.stderr);
    for part in ["would be reached at 127.0.0.1", "is free", "core(s)"] {
        assert!(error.contains(part), "{part}: {error}");
    }
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
        (&["--job", "j"], 1, "for a job of several processes"),
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
