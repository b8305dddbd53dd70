//! Two nodes that are started by hand, on one machine.

use crate::launcher::{Launch, burn_dist, text};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

/// An address with a port of this machine that nobody listens on just now.
fn endpoint() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The launcher of one of two nodes.
fn node(number: &str, rdzv: &str, flags: &[&str]) -> Command {
    let mut command = burn_dist();
    command
        .args([
            "run",
            "--nnodes",
            "2",
            "--node-rank",
            number,
            "--rdzv",
            rdzv,
        ])
        .args(flags)
        .env("BURN_DIST_SECRET", "the secret of this test")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn two_nodes_join_one_job() {
    let rdzv = endpoint();
    let logs = tempfile::tempdir().unwrap();
    let bench = [
        "--nproc-per-node",
        "2",
        "--log-dir",
        logs.path().to_str().unwrap(),
        env!("CARGO_BIN_EXE_burn-dist"),
        "bench",
        "--sizes",
        "1024",
        "--budget",
        "0.01",
    ];
    let nodes = ["1", "0"].map(|number| node(number, &rdzv, &bench).spawn().unwrap());
    let [second, first] = nodes.map(|node| node.wait_with_output().unwrap());
    for output in [&first, &second] {
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let title = "[0] all_reduce of f32, sum: 4 ranks in 4 process(es)\n";
    assert!(text(&first.stdout).starts_with(title), "{first:?}");
    assert!(second.stdout.is_empty(), "{second:?}");
    for rank in 0..4 {
        assert!(logs.path().join(format!("rank-{rank}.log")).is_file());
    }
}

#[test]
fn processes_of_the_second_node_have_numbers_after_the_first_s() {
    let script = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $BURN_DIST_SECRET; \
                  [ $RANK = 3 ] && exit 9; exec sleep 1000";
    let output = node(
        "1",
        "h:1",
        &["--nproc-per-node", "2", "--", "/bin/sh", "-c", script],
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(9));
    let mut lines: Vec<_> = text(&output.stdout).lines().collect();
    lines.sort_unstable();
    let secret = "the secret of this test";
    let expected = [(2, 0), (3, 1)];
    let expected = expected.map(|(rank, local)| format!("[{rank}] {rank} {local} 4 2 1 {secret}"));
    assert_eq!(lines, expected);
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error: process 3 failed first (exit code 9)"),
        "{error}"
    );
    assert!(
        error.contains("the others: process 2: signal 15, SIGTERM"),
        "{error}"
    );
}

#[test]
fn each_mistake_is_an_error_that_says_what_to_give() {
    for (words, code, expected) in [
        ("--nproc-per-node 2", 2, "<PROGRAM>..."),
        ("--nnodes 2 --node-rank 0 -- true", 2, "--rdzv HOST:PORT"),
        (
            "--nnodes 2 --rdzv h:1 -- true",
            2,
            "--node-rank, from 0 to 1",
        ),
        (
            "--nnodes 2 --node-rank 2 --rdzv h:1 -- true",
            2,
            "a number from 0 to 1",
        ),
        (
            "--nnodes 2 --node-rank 0 --rdzv h:1 -- true",
            1,
            "openssl rand -hex 32",
        ),
        (
            "--nnodes 2 --node-rank 0 --rdzv h:x -- true",
            2,
            "expected HOST:PORT",
        ),
        ("--nproc-per-node 0 -- true", 2, "--nproc-per-node <N>"),
        ("-- no-such-program-on-the-path", 1, "put it on the PATH"),
    ] {
        let output = burn_dist()
            .arg("run")
            .args(words.split(' '))
            .output()
            .unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words}: {error}");
        assert!(error.contains(expected), "{words}: {error}");
        assert!(output.stdout.is_empty(), "{words}");
    }
}

#[test]
fn a_secret_file_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("script"),
        "echo ${BURN_DIST_SECRET-none} $BURN_DIST_SECRET_FILE",
    )
    .unwrap();
    let flags = ["--nnodes", "2", "--node-rank", "0", "--rdzv", "h"];
    let mut launch = Launch::of(folder, &flags);
    launch.command.env("BURN_DIST_SECRET_FILE", "file");
    assert_eq!(text(&launch.output().stdout), "[0] none file\n");
}
