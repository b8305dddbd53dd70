//! Checkpoints of the `mnist` program: killed and resumed, on a disk that is full, and damaged.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/runs.rs"]
mod runs;

use runs::{DEADLINE, Outcome, Place, STEPS, SmallDisk, checkpoint, job, said, succeed};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// Waits until there is a checkpoint of this step or a later one, and kills the processes, whatever they do.
#[track_caller]
fn kill_after(step: u64, folder: &Path, processes: &mut [Child]) {
    let deadline = Instant::now() + DEADLINE;
    let there = || (step..=STEPS).any(|step| checkpoint(folder, step).exists());
    while !there() {
        assert!(Instant::now() < deadline, "no checkpoint of step {step}");
        std::thread::sleep(Duration::from_millis(1));
    }
    for process in processes.iter_mut() {
        // SIGKILL.
        process.kill().unwrap();
    }
    for process in processes {
        process.wait().unwrap();
    }
}

/// Kills a run of two threads at a random step, lets another go on, and compares.
fn kill_and_resume(place: &Place, uninterrupted: &Outcome) {
    let folder = place.path("checkpoints");
    let every = 1 + random(3);
    // There are steps left after the checkpoint that is waited for.
    let step = 1 + random(STEPS - 1 - every);
    let case = format!("killed after step {step}, with a checkpoint every {every} steps");
    let killed = |_: &u32| {
        let _ = std::fs::remove_dir_all(&folder);
        let mut processes = [place.saving(&folder, every, 2).spawn().unwrap()];
        kill_after(step, &folder, &mut processes);
        // On a busy machine it may have come to its end first.
        processes[0].wait().unwrap().signal() == Some(9)
    };
    assert!(
        (0..10).find(killed).is_some(),
        "{case}: it always ended first"
    );
    let mut resumed = place.saving(&folder, every, 2);
    resumed.arg("--resume");
    let [out, _] = succeed(resumed);
    assert!(out.contains("going on after step "), "{case}: {out}");
    assert_eq!(place.outcome("saving"), *uninterrupted, "{case}");
    println!("{case}: {}", uninterrupted.parameters);
}

#[test]
fn killed_and_resumed_it_comes_to_the_same() {
    let place = Place::new();
    let uninterrupted = place.uninterrupted();
    for _ in 0..3 {
        kill_and_resume(&place, &uninterrupted);
    }
}

#[test]
#[ignore = "takes a minute; `cargo test --workspace --test checkpoint -- --ignored --nocapture`"]
fn twenty_times_killed_and_resumed_it_comes_to_the_same() {
    let place = Place::new();
    let uninterrupted = place.uninterrupted();
    for _ in 0..20 {
        kill_and_resume(&place, &uninterrupted);
    }
}

/// The two processes have folders of their own, as on two machines.
#[test]
fn two_processes_killed_and_resumed_come_to_the_same_and_one_has_the_folder() {
    let place = Place::new();
    let uninterrupted = place.uninterrupted();
    let start = |resume: bool| {
        let commands = [0, 1].map(|process| {
            let name = format!("machine-{process}");
            let machine = place.path(&name);
            std::fs::create_dir_all(&machine).unwrap();
            let mut command = place.run(&name, "1");
            command
                .current_dir(machine)
                .args(["--checkpoint", "checkpoints", "--checkpoint-every", "1"])
                .args(resume.then_some("--resume"));
            command
        });
        job(commands).map(|mut command| command.spawn().unwrap())
    };
    let folder = place.path("machine-0").join("checkpoints");
    kill_after(1 + random(STEPS - 2), &folder, &mut start(false));
    for process in start(true) {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?}", said(&output));
    }
    assert_eq!(place.outcome("machine-0"), uninterrupted);
    assert!(!place.path("machine-1").join("checkpoints").exists());
}

#[test]
fn a_damaged_checkpoint_is_reported_and_the_one_before_it_used() {
    let place = Place::new();
    let folder = place.path("checkpoints");
    succeed(place.saving(&folder, 4, 2));
    let complete = place.outcome("saving");
    assert!(!checkpoint(&folder, 4).exists(), "more than 2 were kept");
    let model = checkpoint(&folder, STEPS).join("model.bpk");
    let length = model.metadata().unwrap().len();
    let file = std::fs::File::options().write(true).open(&model).unwrap();
    file.set_len(length / 2).unwrap();
    let mut resumed = place.saving(&folder, 4, 2);
    resumed.arg("--resume");
    let [out, err] = succeed(resumed);
    assert!(out.contains("going on after step 8, from "), "{out}");
    assert!(err.contains("a checkpoint is damaged"), "{err}");
    let reason = format!(
        "model.bpk has {} bytes where {length} were written",
        length / 2
    );
    assert!(err.contains(&reason), "{err}");
    assert_eq!(place.outcome("saving"), complete);
}

#[test]
fn what_would_not_go_on_as_it_began_is_refused() {
    let place = Place::new();
    let folder = place.path("checkpoints");
    let mut first = place.saving(&folder, 100, 2);
    first.arg("--resume");
    let [out, _] = succeed(first);
    assert!(out.contains("there is no checkpoint yet"), "{out}");
    for (flags, said_of_it) in [
        (&[][..], "the folder has checkpoints of a run already"),
        (
            &["--resume", "--gpus", "3"],
            "of a job of 2 ranks, and this one has 3",
        ),
        (
            &["--resume", "--lr", "0.5"],
            "--lr: expected \"0.03\", got \"0.5\"",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mnist"));
        let first = place.saving(&folder, 100, 2);
        let given: Vec<_> = first.get_args().collect();
        let replaced = given
            .iter()
            .position(|argument| *argument == "--gpus")
            .unwrap();
        for (at, argument) in given.iter().enumerate() {
            let again = flags.contains(&"--gpus") && (at == replaced || at == replaced + 1);
            if !again {
                command.arg(argument);
            }
        }
        let output = command.args(flags).output().unwrap();
        let [_, err] = said(&output);
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {err}");
        assert!(err.contains(said_of_it), "{flags:?}: {err}");
    }
}

#[test]
fn other_digits_are_refused_though_they_are_as_many() {
    let place = Place::new();
    let folder = place.path("checkpoints");
    succeed(place.saving(&folder, 100, 2));
    let refused = || {
        let mut resumed = place.saving(&folder, 100, 2);
        let output = resumed.arg("--resume").output().unwrap();
        let [_, err] = said(&output);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(
            err.contains("of a run with other settings") && err.contains("checksums of the digits"),
            "{err}"
        );
    };
    // One label, and then one pixel.
    for file in ["train-labels-idx1-ubyte", "train-images-idx3-ubyte"] {
        let path = place.path(file);
        let ours = std::fs::read(&path).unwrap();
        let mut other = ours.clone();
        *other.last_mut().unwrap() ^= 1;
        std::fs::write(&path, other).unwrap();
        refused();
        std::fs::write(&path, ours).unwrap();
    }
}

#[test]
fn a_full_disk_is_reported_and_training_goes_on_to_an_end_that_is_no_success() {
    let place = Place::new();
    // A checkpoint has 9.6 MB, of parameters and of momentum.
    let disk = match SmallDisk::new(place.path("disk"), 24) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("skipped, for this needs root and tmpfs: {reason}");
            return;
        }
    };
    let uninterrupted = place.uninterrupted();
    for (resume, reported) in [(false, 1), (true, 1)] {
        let mut command = place.saving(&disk.0, 4, 5);
        command.args(resume.then_some("--resume"));
        let output = command.output().unwrap();
        let [out, err] = said(&output);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(
            err.contains("error: the last checkpoint is not on disk: "),
            "{err}"
        );
        let due = "no checkpoint was written; training goes on";
        assert_eq!(err.matches(due).count(), reported, "{err}");
        assert!(err.contains("No space left on device"), "{err}");
        // The ones before it are good: the second run goes on from there.
        assert_eq!(
            out.contains("going on after step 8, from "),
            resume,
            "{out}"
        );
        assert_eq!(place.outcome("saving"), uninterrupted);
        let mut names: Vec<_> = std::fs::read_dir(&disk.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["lock", "step-000000000004", "step-000000000008"]);
    }
}

#[test]
fn an_output_that_is_full_is_found_before_training() {
    let place = Place::new();
    let disk = match SmallDisk::new(place.path("disk"), 1) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("skipped, for this needs root and tmpfs: {reason}");
            return;
        }
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_mnist"));
    let output = command.arg("--output").arg(disk.0.join("runs")).output();
    let output = output.unwrap();
    let [out, err] = said(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("can't write to "), "{err}");
    assert!(err.contains("No space left on device"), "{err}");
    assert!(out.is_empty(), "nothing has begun: {out}");
}
