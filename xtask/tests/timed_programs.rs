//! What `cargo xtask bench` makes of the programs it runs.
//!
//! A shell stands for cargo and runs the file `bench` of the current folder, which names shell scripts as
//! the programs that were built.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests")]

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time of anything on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);

/// Prints a measurement of all-reduce with the flags that the program got.
const MEASURE: &str = r#"
while [ $# -gt 1 ]; do case $1 in --layout) layout=$2;; --ranks) ranks=$2;; --sizes) sizes=$2;; esac; shift 2; done
IFS=,
for bytes in $sizes; do
echo "{\"bench\": \"all-reduce\", \"layout\": \"$layout\", \"ranks\": $ranks, \"bytes\": $bytes, \"seconds\": 0.002}"
done
"#;

/// A folder whose `all_reduce` is a script.
fn folder(script: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("all_reduce");
    fs::write(&program, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let built = json!({
        "reason": "compiler-artifact",
        "target": {"kind": ["bench"], "name": "all_reduce"},
        "executable": program,
    });
    // Cargo can build this one and nothing else.
    let cargo = format!("case \"$*\" in *all_reduce*) echo '{built}';; *) exit 5;; esac");
    fs::write(folder.path().join("bench"), cargo).unwrap();
    folder
}

fn bench(folder: &Path, flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .args(["bench", "all-reduce", "--rounds", "2", "--layout"])
        .args(flags.split_whitespace())
        .env("CARGO", "/bin/sh")
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn rows_are_shown_and_written() {
    let folder = folder(&format!("echo once >> runs; echo a remark; {MEASURE}"));
    let flags = "threads --ranks 2,4 --sizes 1024,64 --json x.json --plot x.svg";
    let output = bench(folder.path(), flags).output().unwrap();
    let (table, progress) = texts(&output);
    assert!(output.status.success(), "{progress}");
    assert!(
        table.contains("1 KiB") && table.contains("2.00 ms"),
        "{table}"
    );
    assert!(
        progress.contains("round 2 of 2") && progress.contains("a remark"),
        "{progress}"
    );
    assert!(!table.contains("a remark"), "{table}");
    let runs = fs::read_to_string(folder.path().join("runs")).unwrap();
    assert_eq!(
        runs.lines().count(),
        4,
        "two rounds for each number of ranks"
    );

    let rows: Value =
        serde_json::from_slice(&fs::read(folder.path().join("x.json")).unwrap()).unwrap();
    let row = |ranks: u32, bytes: u32| {
        json!({
            "bench": "all-reduce", "layout": "threads", "ranks": ranks, "bytes": bytes,
            "ours_s": 0.002, "peer": null, "peer_s": null, "ratio": null,
        })
    };
    assert_eq!(
        rows,
        json!([row(2, 64), row(2, 1024), row(4, 64), row(4, 1024)])
    );
    let plot = fs::read_to_string(folder.path().join("x.svg")).unwrap();
    assert!(plot.starts_with("<svg"));
}

#[test]
fn a_peer_that_is_missing_is_named_and_left_out() {
    let folder = folder(MEASURE);
    let flags = "processes --ranks 2 --sizes 64 --peers --python /no/such/python3";
    let output = bench(folder.path(), flags)
        .env("PATH", "/no/such/folder")
        .output()
        .unwrap();
    let (table, progress) = texts(&output);
    assert!(output.status.success(), "{progress}");
    assert!(table.contains("2.00 ms"), "{table}");
    for missing in ["OpenMPI TCP", "PyTorch Gloo", "two raw TCP streams"] {
        assert!(
            table.contains(&format!("{missing} is left out: ")),
            "{table}"
        );
    }
    assert!(table.contains("/no/such/python3"), "{table}");
}

#[test]
fn a_program_that_fails_is_named_and_its_measurements_count() {
    let folder = folder(&format!("{MEASURE} echo no memory >&2; exit 7"));
    let output = bench(folder.path(), "threads --ranks 2,4 --sizes 64")
        .output()
        .unwrap();
    let (table, progress) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(progress.contains("[burn-dist] no memory"), "{progress}");
    assert!(
        table.contains("4 threads, round 1: burn-dist failed: exit code 7"),
        "{table}"
    );
    assert_eq!(table.matches("2.00 ms").count(), 2, "{table}");
}

#[test]
fn a_program_that_hangs_is_ended_with_what_it_started() {
    let folder = folder(&format!("{MEASURE} sleep 1000 & echo $! > child; wait"));
    let output = bench(folder.path(), "threads --ranks 2 --sizes 64 --deadline 1")
        .output()
        .unwrap();
    let (table, _) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        table.contains("burn-dist took longer than 1 s and was ended"),
        "{table}"
    );
    assert!(
        table.contains("2.00 ms"),
        "it had measured something: {table}"
    );
    assert_gone(pid(&folder.path().join("child")));
}

#[test]
fn an_interrupt_ends_everything() {
    let folder = folder("sleep 1000 & echo $! > child; wait");
    let mut running = bench(folder.path(), "threads --ranks 2")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child = pid(&folder.path().join("child"));
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    assert_gone(child);
}

#[test]
fn a_bench_that_cannot_be_built_ends_with_cargo_s_exit_code() {
    let folder = folder("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["bench", "loader"]).env("CARGO", "/bin/sh");
    let output = command.current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn flags_that_go_nowhere_are_usage_errors() {
    let folder = folder(MEASURE);
    for flags in [
        "threads --plot x.png",
        "threads --sizes 3",
        "threads --python p",
    ] {
        let output = bench(folder.path(), flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command
        .args(["bench", "ddp-step", "--sizes", "64"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).1.contains("ddp-step has no --sizes"));
}

/// The process whose number the file tells, once it does.
fn pid(file: &Path) -> Pid {
    let begin = Instant::now();
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some(number) = text.strip_suffix('\n') {
            return Pid::from_raw(number.parse().unwrap()).unwrap();
        }
        assert!(begin.elapsed() < PATIENCE, "no {}", file.display());
        sleep(Duration::from_millis(10));
    }
}

/// A process that was killed is gone once its adopter has noticed.
fn assert_gone(pid: Pid) {
    let begin = Instant::now();
    while test_kill_process(pid).is_ok() {
        assert!(begin.elapsed() < PATIENCE, "{pid:?} is still there");
        sleep(Duration::from_millis(10));
    }
}
