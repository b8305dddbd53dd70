//! What `cargo xtask launch` makes of the processes it starts: their output, their failures, their end.
//!
//! Shell scripts stand for programs. A script tells its pid in a file, so that a test can see whether it
//! is still there.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests")]

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);
/// What the launcher gives processes to end.
const GRACE: Duration = Duration::from_secs(5);

/// `launch` with a script as the program, run in a folder of its own.
struct Launch {
    folder: TempDir,
    command: Command,
}

impl Launch {
    fn new(nodes: usize, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("script"), script).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(["launch", "--nodes", &nodes.to_string()])
            .args(["--", "/bin/sh", "script", "an argument"])
            .env_remove("BURN_DIST_SECRET")
            .env_remove("BURN_DIST_SECRET_FILE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(folder.path());
        Self { folder, command }
    }

    fn output(&mut self) -> Output {
        self.command.output().unwrap()
    }

    fn start(&mut self) -> Running {
        Running(Some(self.command.spawn().unwrap()))
    }

    /// Waits until the file is there with a whole line, and gives that.
    fn wait_for(&self, file: &str) -> String {
        wait_for_line(&self.folder.path().join(file))
    }

    /// The pids in the files, once they are there.
    fn pids(&self, files: &[&str]) -> Vec<u32> {
        let pid = |file: &&str| self.wait_for(file).parse().unwrap();
        files.iter().map(pid).collect()
    }
}

/// A launcher; a test that fails ends it.
struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).unwrap();
    }

    /// Waits for its end.
    fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Its guard ends the processes.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for_line(path: &Path) -> String {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(line) = text.strip_suffix('\n') {
            return line.to_owned();
        }
        assert!(start.elapsed() < PATIENCE, "{} never came", path.display());
        sleep(Duration::from_millis(5));
    }
}

/// Whether the process runs; one that has ended and was not asked after does not.
fn runs(pid: u32) -> bool {
    let state = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(state.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// Writes a script that can be run as `./program` in the folder.
fn make_program(folder: &Path, script: &str) {
    let path = folder.join("program");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What comes after the launcher's end is the kernel's doing and takes a moment.
fn assert_soon_gone(pids: &[u32]) {
    let start = Instant::now();
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(start.elapsed() < PATIENCE, "left behind: {pids:?}");
        sleep(Duration::from_millis(10));
    }
}

fn assert_gone(pids: &[u32]) {
    for pid in pids {
        assert!(!runs(*pid), "left behind: {pid} of {pids:?}");
    }
}

/// The pids of the processes in the group of this one.
fn group_of(pid: u32) -> Vec<u32> {
    let table = Command::new("ps")
        .args(["-A", "-o", "pid=,pgid="])
        .output()
        .unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let rows: Vec<(u32, u32)> = table
        .lines()
        .filter_map(|row| {
            let mut numbers = row.split_whitespace().map(|number| number.parse().unwrap());
            Some((numbers.next()?, numbers.next()?))
        })
        .collect();
    let group = rows.iter().find(|row| row.0 == pid).unwrap().1;
    rows.iter()
        .filter(|row| row.1 == group)
        .map(|row| row.0)
        .collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_line_has_its_process_and_its_stream() {
    let output = Launch::new(
        3,
        "echo out $RANK; echo err $RANK >&2; printf 'bytes \\377\\n1%%\\r2%%\\nno end'",
    )
    .output();
    assert!(output.status.success(), "{output:?}");
    for process in 0..3 {
        let prefix = format!("[{process}] ");
        let of_process = |bytes: &[u8]| -> Vec<Vec<u8>> {
            bytes
                .split_inclusive(|byte| *byte == b'\n')
                .filter(|line| line.starts_with(prefix.as_bytes()))
                .map(|line| line[prefix.len()..].to_vec())
                .collect()
        };
        let expected = [
            format!("out {process}\n").as_bytes(),
            b"bytes \xFF\n",
            b"1%\n",
            b"2%\n",
            b"no end\n",
        ]
        .map(<[u8]>::to_vec);
        assert_eq!(of_process(&output.stdout), expected);
        assert_eq!(
            of_process(&output.stderr),
            [format!("err {process}\n").into_bytes()]
        );
    }
    let lines = |bytes: &[u8]| bytes.split_inclusive(|byte| *byte == b'\n').count();
    assert_eq!((lines(&output.stdout), lines(&output.stderr)), (15, 3));
}

#[test]
fn ten_thousand_lines_of_each_process_are_complete_and_unmixed() {
    let script =
        "i=0; while [ $i -lt 10000 ]; do echo \"line $i of $RANK, and so on\"; i=$((i+1)); done";
    let output = Launch::new(4, script).output();
    assert!(output.status.success());
    let mut next = BTreeMap::new();
    for line in text(&output.stdout).lines() {
        let process = line[1..]
            .split(']')
            .next()
            .unwrap()
            .parse::<usize>()
            .unwrap();
        let count = next.entry(process).or_insert(0);
        assert_eq!(
            line,
            format!("[{process}] line {count} of {process}, and so on")
        );
        *count += 1;
    }
    assert_eq!(next, (0..4).map(|process| (process, 10_000)).collect());
}

#[test]
fn a_process_s_environment_is_its_place_in_the_job() {
    let script = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $LOCAL_DEVICES $MASTER_ADDR \
                  $MASTER_PORT $BURN_DIST_SECRET $1";
    let output = Launch::new(2, script).output();
    let mut lines: Vec<_> = text(&output.stdout).lines().collect();
    lines.sort_unstable();
    let words: Vec<Vec<_>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    assert_eq!(words[0][..7], ["[0]", "0", "0", "2", "2", "1", "127.0.0.1"]);
    assert_eq!(words[1][..7], ["[1]", "1", "1", "2", "2", "1", "127.0.0.1"]);
    assert_eq!(words[0][7..], words[1][7..], "port, secret, argument");
    assert!(words[0][7].parse::<u16>().unwrap() > 0);
    assert_eq!(words[0][8].len(), 64);
    assert_eq!(words[0][9..], ["an", "argument"]);

    // What the user has set goes through.
    let mut launch = Launch::new(
        1,
        "echo \"${BURN_DIST_SECRET-unset} $BURN_DIST_SECRET_FILE\"",
    );
    launch.command.env("BURN_DIST_SECRET", "mine");
    assert_eq!(text(&launch.output().stdout), "[0] mine \n");
    launch.command.env_remove("BURN_DIST_SECRET");
    launch.command.env("BURN_DIST_SECRET_FILE", "file");
    assert_eq!(text(&launch.output().stdout), "[0] unset file\n");
}

#[test]
fn the_port_and_the_devices_can_be_chosen() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["launch", "--nodes=1", "--gpus-per-node=3"])
        .args(["--master-port=29501", "--", "/bin/sh", "-c"])
        .arg("echo $LOCAL_DEVICES $MASTER_PORT")
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "[0] 3 29501\n");
}

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
fn a_second_signal_kills_at_once() {
    let script = r"
        trap 'echo asked > asked' TERM
        echo $$ > pid.tmp; mv pid.tmp pid
        while true; do sleep 0.01; done
    ";
    let mut launch = Launch::new(1, script);
    let mut launcher = launch.start();
    let pids = launch.pids(&["pid"]);
    launcher.signal(Signal::TERM);
    launch.wait_for("asked");
    let start = Instant::now();
    launcher.signal(Signal::TERM);
    let output = launcher.output();
    assert!(start.elapsed() < GRACE);
    assert_eq!(output.status.code(), Some(143));
    assert_gone(&pids);
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
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["launch", "--nodes=3", "--", "/no/such/program"])
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
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["launch", "--nodes=1000", "--", "./program"])
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
fn no_processes_are_a_usage_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["launch", "--nodes", "0", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--nodes <M>"));
}

#[test]
fn lost_output_ends_the_job() {
    let mut launch = Launch::new(1, "trap '' PIPE; while true; do echo line; done");
    let mut launcher = launch.start();
    let mut first = [0; 8];
    let mut stdout = launcher.child().stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    assert_eq!(&first, b"[0] line");
    let output = launcher.output();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: the output can't be written any more"));
}

#[test]
fn a_guard_started_by_hand_does_no_harm() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command
        .arg("launch-guard")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cargo xtask launch"));

    // At the head of a group of its own, that group is all it ends.
    let output = command.process_group(0).output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
}

#[test]
fn training_on_several_nodes_builds_once_and_launches_what_was_built() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, script: &str| fs::write(folder.path().join(name), script).unwrap();
    // A shell stands for cargo: `sh build …` runs the file `build` of the current folder.
    write(
        "build",
        r#"echo "$@" >> builds
           echo '{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"mnist"},"executable":"./program"}'"#,
    );
    make_program(
        folder.path(),
        "#!/bin/sh\necho $RANK of $WORLD_SIZE with $LOCAL_DEVICES: \"$@\"\n",
    );
    let train = || {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["train-mnist", "--nodes", "2", "--gpus", "3"])
            .args(["--backend", "cpu", "--report", "r.json"])
            .env("CARGO", "/bin/sh")
            .current_dir(folder.path())
            .output()
            .unwrap()
    };
    let output = train();
    assert!(output.status.success(), "{output:?}");
    let mut lines: Vec<_> = text(&output.stdout).lines().collect();
    lines.sort_unstable();
    let flags = "--backend cpu --gpus 3 --epochs 6 --batch-size 16 --lr 0.03 --seed 42 \
                 --output runs/mnist --report r.json";
    assert_eq!(
        lines,
        [0, 1].map(|rank| format!("[{rank}] {rank} of 2 with 3: {flags}"))
    );
    let builds = fs::read_to_string(folder.path().join("builds")).unwrap();
    assert_eq!(
        builds,
        "--release --package examples --bin mnist --no-default-features --features flex \
         --message-format=json-render-diagnostics\n"
    );

    write("build", "exit 101");
    assert_eq!(train().status.code(), Some(101), "a build that fails");
    write("build", "exit 0");
    let output = train();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("named no file"), "{output:?}");
}
