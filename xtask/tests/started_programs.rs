//! What becomes of the programs that xtask starts: their exit codes, their signals, their order.
//!
//! A shell stands for cargo: `sh run …` runs the file `run` of the current folder.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests")]

use std::os::unix::fs::PermissionsExt;
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
        args.ends_with("--features examples/flex -- --backend cpu --gpus 4\n"),
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
fn training_on_several_nodes_builds_once_and_launches_what_was_built() {
    // Shell scripts stand for cargo and for `burn-dist`.
    let built = |name: &str| {
        format!(
            r#"{{"reason":"compiler-artifact","target":{{"kind":["bin"],"name":"{name}"}},"executable":"./{name}-built"}}"#
        )
    };
    let build = format!(
        "echo \"$@\" >> builds\necho '{}'\necho '{}'",
        built("mnist"),
        built("burn-dist")
    );
    let folder = folder(&[
        ("build", &build),
        ("burn-dist-built", "#!/bin/sh\necho \"$@\"; exit 7\n"),
    ]);
    let launcher = folder.path().join("burn-dist-built");
    std::fs::set_permissions(launcher, std::fs::Permissions::from_mode(0o755)).unwrap();
    let train = || {
        let flags = [
            "train-mnist",
            "--gpus",
            "3",
            "--nodes",
            "2",
            "--backend",
            "cpu",
            "--report",
            "r",
        ];
        xtask(&flags, "/bin/sh", folder.path())
    };
    let output = train();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "run --nproc-per-node 2 -- ./mnist-built --gpus 3 --backend cpu --report r\n"
    );
    let builds = std::fs::read_to_string(folder.path().join("builds")).unwrap();
    assert_eq!(
        builds,
        "--release --package examples --bin mnist --package burn-dist-cli --bin burn-dist \
         --no-default-features --features examples/flex,burn-dist-cli/flex \
         --message-format=json-render-diagnostics\n"
    );

    let write = |script: &str| std::fs::write(folder.path().join("build"), script).unwrap();
    write("exit 101");
    assert_eq!(train().status.code(), Some(101), "a build that fails");
    write("exit 0");
    let output = train();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("named no file"), "{error}");
}

#[test]
fn the_launcher_and_the_doctor_are_those_of_burn_dist() {
    let folder = folder(&[("run", "echo \"$@\"; exit 7")]);
    for (words, args) in [
        (
            &["launch", "--nnodes", "1", "--", "p", "-x"][..],
            "run --nnodes 1 -- p -x",
        ),
        (&["doctor", "--backend", "cpu"], "doctor --backend cpu"),
    ] {
        let output = xtask(words, "/bin/sh", folder.path());
        assert_eq!(output.status.code(), Some(7));
        let called = String::from_utf8(output.stdout).unwrap();
        let expected = format!(
            "--release --package burn-dist-cli --bin burn-dist --no-default-features --features \
             burn-dist-cli/flex -- {args}\n"
        );
        assert_eq!(called, expected);
    }
}

#[test]
fn wrong_flags_are_told_before_the_build() {
    let folder = folder(&[("run", "exit 7"), ("build", "exit 7")]);
    for (flags, part) in [
        (&["train-mnist", "--nodes", "0"][..], "--nodes is \"0\""),
        (&["train-mnist", "--backend", "tpu"], "--backend is \"tpu\""),
        (&["doctor", "--nodes", "many"], "--nodes is \"many\""),
    ] {
        let output = xtask(flags, "/bin/sh", folder.path());
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(part), "{error}");
    }
}
