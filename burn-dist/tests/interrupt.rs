//! Signals to a program that listens: this test, run once more as a program of its own.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn_dist::ProcessGroup;
use burn_dist::launch::Interrupt;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The variable that makes the test `program` a program: what it does.
const DOES: &str = "INTERRUPT_TEST";

/// Listens, and prints a line when a signal makes no difference any more or has been noted.
#[test]
fn program() {
    let Ok(does) = std::env::var(DOES) else {
        return;
    };
    let interrupt = Interrupt::listen().unwrap();
    let watch = (does == "watches").then(|| interrupt.watch(&ProcessGroup::single()));
    println!("\nlistening");
    // As a loop whose step never ends, after the first signal.
    loop {
        std::thread::sleep(Duration::from_millis(1));
        if let Some(watch) = &watch
            && let Some(why) = watch.requested().unwrap()
        {
            println!("\nnoted {why}");
            std::thread::sleep(Duration::MAX);
        }
    }
}

fn start(does: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program", "--nocapture"])
        .env(DOES, does)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut lines, "listening");
    (child, lines)
}

#[track_caller]
fn wait_for(lines: &mut BufReader<ChildStdout>, due: &str) {
    let mut line = String::new();
    while !line.starts_with(due) {
        line.clear();
        assert_ne!(
            lines.read_line(&mut line).unwrap(),
            0,
            "it ended before {due}"
        );
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn without_a_loop_that_watches_a_signal_ends_the_program() {
    for signal in [Signal::TERM, Signal::INT, Signal::USR1, Signal::USR2] {
        let (mut child, _lines) = start("listens");
        send(&child, signal);
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
    }
}

#[test]
fn the_second_ctrl_c_of_a_person_ends_a_step_that_does_not() {
    let (mut child, mut lines) = start("watches");
    send(&child, Signal::INT);
    wait_for(&mut lines, "noted the process of rank 0 got SIGINT");
    // These change nothing.
    for signal in [Signal::TERM, Signal::USR1, Signal::HUP, Signal::TERM] {
        send(&child, signal);
    }
    // Half a second, at least, is what tells a person from a launcher.
    std::thread::sleep(Duration::from_millis(600));
    assert!(child.try_wait().unwrap().is_none());
    send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}
