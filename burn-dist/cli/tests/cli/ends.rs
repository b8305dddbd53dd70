//! How a job ends: by a failure, a signal, or the launcher's own end, with nothing left behind.

use crate::launcher::{
    GRACE, Launch, PATIENCE, assert_gone, assert_soon_gone, burn_dist, group_of, make_program,
    runs, text,
};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Process 2 fails once all have begun; the others, which have a child each, would go on for ever.
const ONE_FAILS: &str = r"
    sleep 1000 & echo $! > child$RANK.tmp; mv child$RANK.tmp child$RANK
    if [ $RANK = 2 ]; then
        until [ -e pid0 ] && [ -e pid1 ] && [ -e pid3 ]; do sleep 0.01; done
        for i in 1 2 3 4 5 6 7 8 9 10 11; do echo error $i >&2; done
        exit 77
    fi
    trap 'echo connection broken >&2; exit 1' TERM
    echo $$ > pid$RANK.tmp; mv pid$RANK.tmp pid$RANK
    while true; do sleep 0.01; done
";

#[test]
fn the_first_failure_ends_the_others_and_is_shown() {
    let mut launch = Launch::new(4, ONE_FAILS);
    let start = Instant::now();
    let output = launch.output();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(start.elapsed() < PATIENCE);
    let error = text(&output.stderr);
    let (before, summary) = error.split_once("error: ").unwrap();
    assert_eq!(before.matches("connection broken").count(), 3, "{error}");
    let last = (2..=11).map(|i| format!("    error {i}\n"));
    let last = last.collect::<Vec<_>>().concat();
    assert_eq!(
        summary,
        format!(
            "process 2 failed first (exit code 77); its last lines on stderr:\n{last}\
             the others: process 0: exit code 1; process 1: exit code 1; process 3: exit code 1\n"
        )
    );
    let pids = launch.pids(&[
        "pid0", "pid1", "pid3", "child0", "child1", "child2", "child3",
    ]);
    assert_gone(&pids);
}

#[test]
fn the_process_where_the_failure_began_is_shown_though_another_ends_first() {
    let script = r"
        if [ $RANK = 1 ]; then
            echo why > $BURN_DIST_ERROR_FILE; touch said
            until [ -e echoed ]; do sleep 0.01; done
            echo the cause >&2; exit 77
        fi
        until [ -e said ]; do sleep 0.01; done
        touch echoed
        echo the echo >&2; exit 1
    ";
    let output = Launch::new(2, script).output();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    let error = text(&output.stderr);
    assert!(
        error.contains(
            "error: process 1 failed first (exit code 77); its last lines on stderr:\n    the cause\n"
        ),
        "{error}"
    );
}

#[test]
fn a_signal_s_failure_is_named_and_gives_the_exit_code_of_shells() {
    let script = "[ $RANK = 1 ] && kill -9 $$; exec sleep 1000";
    let output = Launch::new(2, script).output();
    assert_eq!(output.status.code(), Some(137));
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error: process 1 failed first (signal 9, SIGKILL); it wrote nothing"),
        "{error}"
    );
    assert!(error.contains("process 0: signal 15, SIGTERM"), "{error}");
}

#[test]
fn one_that_ends_by_itself_after_another_says_why() {
    // Where a failure begins need not be where a process ends first.
    let script = r"
        if [ $RANK = 0 ]; then
            echo $$ > pid.tmp; mv pid.tmp pid0
            until [ -e pid1 ]; do sleep 0.01; done
            echo it ended >&2; exit 3
        fi
        until [ -e pid0 ]; do sleep 0.01; done
        echo $$ > pid.tmp; mv pid.tmp pid1
        while kill -0 $(cat pid0) 2> kill; do sleep 0.01; done
        sleep 0.2; echo the disk is full >&2; exit 4
    ";
    let output = Launch::new(2, script).output();
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    assert!(error.contains("[1] the disk is full\n"), "{error}");
    assert!(
        error.contains("the others: process 1: exit code 4"),
        "{error}"
    );
}

#[test]
fn there_is_time_to_save_after_ctrl_c() {
    let script = r"
        trap 'sleep 6; echo saved; exit 0' INT
        echo $$ > pid.tmp; mv pid.tmp pid
        while true; do sleep 0.01; done
    ";
    let mut launch = Launch::new(1, script);
    let mut launcher = launch.start();
    launch.wait_for("pid");
    launcher.signal(Signal::INT);
    let output = launcher.output();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(text(&output.stdout), "[0] saved\n");
}

#[test]
fn one_that_ignores_termination_is_killed_after_the_grace() {
    let script = r"
        if [ $RANK = 0 ]; then until [ -e pid1 ]; do sleep 0.01; done; exit 3; fi
        trap '' TERM
        echo $$ > pid.tmp; mv pid.tmp pid1
        while true; do sleep 0.01; done
    ";
    let mut launch = Launch::new(2, script);
    let start = Instant::now();
    let output = launch.output();
    assert!(start.elapsed() >= GRACE, "it had no time to end");
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    assert!(error.contains("process 1: signal 9, SIGKILL"), "{error}");
    assert_gone(&launch.pids(&["pid1"]));
}

/// Ends cleanly, saying so, on SIGTERM and SIGINT; has a child that ignores both.
const CLEAN: &str = r"
    trap 'echo asked by TERM; exit 0' TERM
    trap 'echo asked by INT; exit 0' INT
    (trap '' TERM INT; exec sleep 1000 > /dev/null 2>&1) &
    echo $! > child$RANK.tmp; mv child$RANK.tmp child$RANK
    echo $$ > pid$RANK.tmp; mv pid$RANK.tmp pid$RANK
    while true; do sleep 0.01; done
";

#[test]
fn signals_are_passed_on_and_leave_nothing_behind() {
    for (sent, name, code) in [(Signal::TERM, "TERM", 143), (Signal::INT, "INT", 130)] {
        let mut launch = Launch::new(1, CLEAN);
        let mut launcher = launch.start();
        let pids = launch.pids(&["pid0", "child0"]);
        let group = group_of(pids[0]);
        assert!(group.len() >= 3, "with the guard: {group:?}");
        launcher.signal(sent);
        let output = launcher.output();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(text(&output.stdout), format!("[0] asked by {name}\n"));
        // The shell may report its own children before.
        let error = text(&output.stderr);
        let expected = format!("ended by SIG{name}; process 0: exit code 0\n");
        assert!(error.ends_with(&expected), "{error}");
        assert_gone(&pids);
        assert_soon_gone(&group);
    }
}

#[test]
fn a_person_s_second_ctrl_c_kills_at_once() {
    let script = r"
        trap 'echo asked > asked' INT
        echo $$ > pid.tmp; mv pid.tmp pid
        while true; do sleep 0.01; done
    ";
    let mut launch = Launch::new(1, script);
    let mut launcher = launch.start();
    let pids = launch.pids(&["pid"]);
    launcher.signal(Signal::INT);
    launch.wait_for("asked");
    // Half a second, at least, is what tells a person from a launcher.
    std::thread::sleep(Duration::from_millis(600));
    let start = Instant::now();
    launcher.signal(Signal::INT);
    let output = launcher.output();
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(output.status.code(), Some(130));
    assert_gone(&pids);
}

#[test]
fn a_launcher_s_repeated_signals_leave_time_to_save() {
    for (signal, name, code) in [
        (Signal::TERM, "TERM", 143),
        (Signal::INT, "INT", 130),
        (Signal::USR1, "USR1", 138),
        (Signal::HUP, "HUP", 129),
    ] {
        let script = format!(
            r"
            trap 'echo asked > asked; until [ -e go ]; do sleep 0.01; done; sleep 0.2; echo saved; exit 3' {name}
            echo $$ > pid.tmp; mv pid.tmp pid
            while true; do sleep 0.01; done
            "
        );
        let mut launch = Launch::new(1, &script);
        let mut launcher = launch.start();
        launch.wait_for("pid");
        launcher.signal(signal);
        launcher.signal(signal);
        launch.wait_for("asked");
        launcher.signal(Signal::TERM);
        fs::write(launch.folder.path().join("go"), "").unwrap();
        let output = launcher.output();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(text(&output.stdout), "[0] saved\n", "{name}");
    }
}

#[test]
fn a_hang_up_that_nohup_ignores_is_survived() {
    let script =
        "echo $$ > pid.tmp; mv pid.tmp pid; until [ -e go ]; do sleep 0.01; done; echo done";
    let mut launch = Launch::new(1, script);
    let mut nohup = Command::new("nohup");
    nohup
        .arg(launch.command.get_program())
        .args(launch.command.get_args())
        .current_dir(launch.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    launch.command = nohup;
    let mut launcher = launch.start();
    launch.wait_for("pid");
    launcher.signal(Signal::HUP);
    launcher.signal(Signal::HUP);
    fs::write(launch.folder.path().join("go"), "").unwrap();
    let output = launcher.output();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "[0] done\n");
}

#[test]
fn a_killed_launcher_leaves_nothing_behind() {
    let mut launch = Launch::new(2, CLEAN);
    let mut launcher = launch.start();
    let pids = launch.pids(&["pid0", "pid1", "child0", "child1"]);
    let group = group_of(pids[0]);
    assert!(pids.iter().all(|pid| group.contains(pid)), "{group:?}");
    launcher.signal(Signal::KILL);
    let output = launcher.output();
    assert_eq!(output.status.signal(), Some(9));
    assert_soon_gone(&group);
}

#[test]
fn what_a_successful_process_leaves_behind_is_ended() {
    let script = "sleep 1000 & echo $! > child.tmp; mv child.tmp child; echo done";
    let mut launch = Launch::new(1, script);
    let output = launch.output();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), "[0] done\n");
    assert!(output.stderr.is_empty());
    assert_gone(&launch.pids(&["child"]));
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_left_the_group_is_not_waited_for() {
    let script = "setsid sh -c 'echo $$ > pid.tmp; mv pid.tmp pid; exec sleep 1000' & \
                  until [ -e pid ]; do sleep 0.01; done";
    let mut launch = Launch::new(1, script);
    let start = Instant::now();
    let output = launch.output();
    let escaped = launch.pids(&["pid"]);
    assert!(runs(escaped[0]));
    let pid = Pid::from_raw(escaped[0].cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    assert!(start.elapsed() < PATIENCE);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stderr).starts_with("warning: a program that left"));
}

#[test]
fn a_missing_program_is_an_error_that_says_what_to_do() {
    let output = burn_dist()
        .args(["run", "--nproc-per-node=3", "--", "/no/such/program"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error: cannot start `/no/such/program` as process 0: No such file"),
        "{error}"
    );
    assert!(error.contains("PATH"), "{error}");
}

#[test]
fn when_one_cannot_be_started_those_that_were_are_ended() {
    let folder = tempfile::tempdir().unwrap();
    // The first process takes the program away, so that a later one can't be started.
    let script =
        "#!/bin/sh\nrm -f program; echo $$ > pid.$$.tmp; mv pid.$$.tmp pid.$$\nsleep 1000\n";
    make_program(folder.path(), script);
    let output = burn_dist()
        .args(["run", "--nproc-per-node=1000", "--", "./program"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("error: cannot start `./program` as process "),
        "{error}"
    );
    let files = fs::read_dir(folder.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let pids: Vec<u32> = names
        .map(|name| name.split('.').nth(1).unwrap().parse().unwrap())
        .collect();
    assert_gone(&pids);
}

#[test]
fn a_guard_started_by_hand_does_no_harm() {
    let mut command = burn_dist();
    let output = command
        .arg("launch-guard")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("burn-dist run"));

    // At the head of a group of its own, that group is all it ends.
    let output = command.process_group(0).output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
}
