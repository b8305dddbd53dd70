//! Signals that end the `mnist` program in good order.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/runs.rs"]
mod runs;

use runs::{DEADLINE, Place, STEPS, checkpoint, job, said, succeed};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A run that saves only at its end.
fn saving(place: &Place, folder: &Path) -> Command {
    place.saving(folder, 1000, 2)
}

/// Waits until the run has its folder of checkpoints: from then on it ends in good order.
#[track_caller]
fn wait_for_training(folder: &Path) {
    let deadline = Instant::now() + DEADLINE;
    while !folder.join("lock").exists() {
        assert!(Instant::now() < deadline, "it never began");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends the signals at once, one after the other.
fn send(process: &Child, signals: &[&str]) {
    let id = process.id();
    let kill = signals.iter().map(|signal| format!("kill -{signal} {id};"));
    let kill: String = kill.collect();
    assert!(
        Command::new("sh")
            .arg("-c")
            .arg(kill)
            .status()
            .unwrap()
            .success()
    );
}

/// The only checkpoint's step: the run was stopped before its end.
#[track_caller]
fn saved_step(folder: &Path) -> u64 {
    let saved: Vec<u64> = (1..=STEPS)
        .filter(|step| checkpoint(folder, *step).exists())
        .collect();
    assert_eq!(saved.len(), 1, "{saved:?}");
    assert!(saved[0] < STEPS, "it had come to its end");
    saved[0]
}

#[test]
fn a_signal_ends_a_run_in_good_order_and_it_resumes_to_the_same() {
    let place = Place::new();
    let uninterrupted = place.uninterrupted();
    for (signals, name, code) in [
        (&["TERM"][..], "SIGTERM", 143),
        // As launchers send them.
        (&["TERM", "TERM"], "SIGTERM", 143),
        (&["INT", "INT"], "SIGINT", 130),
        (&["USR1", "TERM"], "SIG", 138),
        (&["HUP"], "SIGHUP", 129),
    ] {
        let folder = place.path("checkpoints");
        let process = saving(&place, &folder).spawn().unwrap();
        wait_for_training(&folder);
        send(&process, signals);
        let output = process.wait_with_output().unwrap();
        let [_, err] = said(&output);
        let step = saved_step(&folder);
        let due = format!(
            "error: interrupted at step {step} of {STEPS}: the process of rank 1 got {name}"
        );
        assert!(err.contains(&due), "{signals:?}: {err}");
        assert!(err.contains("; --resume goes on from there"), "{err}");
        // The two of the same moment may be seen in either order.
        let codes = if signals[0] == "USR1" {
            vec![138, 143]
        } else {
            vec![code]
        };
        assert!(codes.contains(&output.status.code().unwrap()), "{output:?}");
        let mut resumed = saving(&place, &folder);
        resumed.arg("--resume");
        let [out, _] = succeed(resumed);
        assert!(
            out.contains(&format!("going on after step {step}, ")),
            "{out}"
        );
        assert_eq!(place.outcome("saving"), uninterrupted, "{signals:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_signal_to_one_process_ends_all_in_good_order() {
    let place = Place::new();
    let uninterrupted = place.uninterrupted();
    let folder = place.path("checkpoints");
    let start = |resume: bool| {
        let commands = ["machine-0", "machine-1"].map(|machine| {
            let mut command = place.run(machine, "1");
            command.arg("--checkpoint").arg(&folder);
            command.args(resume.then_some("--resume"));
            command
        });
        job(commands).map(|mut command| command.spawn().unwrap())
    };
    let [first, second] = start(false);
    wait_for_training(&folder);
    send(&second, &["TERM", "TERM"]);
    let step = [(first, 1), (second, 143)].map(|(process, code)| {
        let output = process.wait_with_output().unwrap();
        let [_, err] = said(&output);
        assert_eq!(output.status.code(), Some(code), "{err}");
        let step = saved_step(&folder);
        let due = format!(
            "error: interrupted at step {step} of {STEPS}: the process of rank 1 got SIGTERM"
        );
        assert!(err.contains(&due), "{err}");
        step
    });
    assert_eq!(step[0], step[1]);
    for process in start(true) {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?}", said(&output));
    }
    assert_eq!(place.outcome("machine-0"), uninterrupted);
}

#[test]
fn before_there_is_anything_to_save_a_signal_ends_a_run_at_once() {
    let place = Place::new();
    // It waits for a second process, which never comes.
    let [mut first, _] = job([place.run("first", "1"), place.run("second", "1")]);
    let process = first.spawn().unwrap();
    let deadline = Instant::now() + DEADLINE;
    let begun = || place.path("first").exists();
    while !begun() {
        assert!(Instant::now() < deadline, "it never began");
        std::thread::sleep(Duration::from_millis(1));
    }
    send(&process, &["TERM"]);
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{:?}", said(&output));
}

#[test]
fn a_hang_up_that_nohup_ignores_stays_ignored() {
    let place = Place::new();
    let folder = place.path("checkpoints");
    let run = saving(&place, &folder);
    let mut nohup = Command::new("nohup");
    nohup
        .arg(run.get_program())
        .args(run.get_args())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let process = nohup.spawn().unwrap();
    wait_for_training(&folder);
    send(&process, &["HUP", "HUP"]);
    let output = process.wait_with_output().unwrap();
    let [out, err] = said(&output);
    assert!(output.status.success(), "{err}");
    assert!(out.contains("test accuracy"), "{out}");
    assert!(checkpoint(&folder, STEPS).exists());
}
