//! What becomes of the programs that xtask starts: their exit codes, their signals, their order.
//!
//! A shell stands for cargo: `sh run …` runs the file `run` of the current folder.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests")]

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with a script for each of cargo's subcommands.
fn folder(scripts: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        std::fs::write(folder.path().join(name), script).unwrap();
    }
    folder
}

fn xtask(args: &[&str], cargo: &str, folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(args)
        .env("CARGO", cargo)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn training_ends_with_the_program_s_exit_code() {
    let folder = folder(&[("run", "echo \"$@\"; exit 7")]);
    let output = xtask(
        &["train-mnist", "--backend", "cpu", "--gpus", "4"],
        "/bin/sh",
        folder.path(),
    );
    assert_eq!(output.status.code(), Some(7));
    let args = String::from_utf8(output.stdout).unwrap();
    assert!(
        args.contains("--features flex -- --backend cpu --gpus 4 "),
        "{args}"
    );
}

#[test]
fn a_signal_reaches_the_program_and_nothing_in_between() {
    let folder = folder(&[("run", "trap 'exit 9' TERM; kill -TERM $$; exit 1")]);
    let output = xtask(
        &["train-mnist", "--backend", "cpu"],
        "/bin/sh",
        folder.path(),
    );
    assert_eq!(output.status.code(), Some(9), "the program ends cleanly");

    // The program has the process that xtask had: what kills the one is seen on the other.
    let folder = self::folder(&[("run", "kill -TERM $$; exit 1")]);
    let output = xtask(
        &["train-mnist", "--backend", "cpu"],
        "/bin/sh",
        folder.path(),
    );
    assert_eq!(output.status.signal(), Some(15));
}

#[test]
fn ci_stops_at_the_first_failure() {
    let log = "echo \"$0 $*\" >> log";
    let failing = format!("{log}; exit 3");
    let folder = folder(&[
        ("test", log),
        ("fmt", &failing),
        ("clippy", log),
        ("doc", log),
    ]);
    let output = xtask(&["ci"], "/bin/sh", folder.path());
    assert_eq!(output.status.code(), Some(3));
    let ran = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let steps: Vec<_> = ran.lines().collect();
    assert_eq!(steps[0], "test --workspace");
    assert_eq!(steps[2..], ["fmt --all -- --check"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("step 3 of 6 failed: cargo fmt --all -- --check"),
        "{error}"
    );
}

#[test]
fn ci_runs_every_step_and_sets_what_it_shows() {
    let log = "echo \"$0 ${RUSTDOCFLAGS-unset}\" >> log";
    let folder = folder(&[("test", log), ("fmt", log), ("clippy", log), ("doc", log)]);
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("ci")
        .env("CARGO", "/bin/sh")
        .env_remove("RUSTDOCFLAGS")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    let ran = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let clippy = "clippy unset\nclippy unset\n";
    assert_eq!(
        ran,
        format!("test unset\ntest unset\nfmt unset\n{clippy}doc -D warnings\n")
    );
}

#[test]
fn a_missing_cargo_is_an_error_that_says_what_to_do() {
    let folder = folder(&[]);
    for command in [&["train-mnist", "--backend", "cpu"][..], &["ci"]] {
        let output = xtask(command, "/no/such/cargo", folder.path());
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("cannot start `/no/such/cargo`"), "{error}");
        assert!(error.contains("PATH"), "{error}");
    }
}

#[test]
fn the_doctor_tells_before_the_build_what_it_can_see() {
    let folder = folder(&[("run", "echo \"$@\"; exit 7")]);
    let doctor = |flags: &[&str], master_port: Option<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("doctor").args(flags);
        command.env_remove("MASTER_PORT");
        if let Some(port) = master_port {
            command.env("MASTER_PORT", port);
        }
        command.env("CARGO", "/bin/sh").current_dir(folder.path());
        command.output().unwrap()
    };
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flags, variable, part) in [
        (&["--master-port", &port][..], None, "--master-port"),
        (&[], Some(port.clone()), "is taken by another program"),
        (&[], Some("http".to_owned()), "MASTER_PORT is \"http\""),
        (&["--interface", "nosuch"], None, "127.0.0.1"),
        (&["--interface", "nosuch", "--nodes", "2"], None, "nosuch"),
    ] {
        let output = doctor(flags, variable);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {error}");
        assert!(error.contains(part), "{flags:?}: {error}");
        assert!(output.stdout.is_empty(), "nothing is built");
    }

    drop(taken);
    let output = doctor(&["--backend", "cpu", "--interface", "127.0.0.1"], None);
    assert_eq!(output.status.code(), Some(7), "the program's exit code");
    let args = String::from_utf8(output.stdout).unwrap();
    let expected =
        "--bin doctor --no-default-features --features flex -- --backend cpu --gpus 1 --batch-size";
    assert!(args.contains(expected), "{args}");
}
