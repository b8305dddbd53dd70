//! What the processes are told, and what is made of what they write.

use crate::launcher::{Launch, burn_dist, text};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

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
    let script = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR \
                  $MASTER_PORT $BURN_DIST_SECRET $1";
    let output = Launch::new(2, script).output();
    let mut lines: Vec<_> = text(&output.stdout).lines().collect();
    lines.sort_unstable();
    let words: Vec<Vec<_>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    assert_eq!(words[0][..7], ["[0]", "0", "0", "2", "2", "0", "127.0.0.1"]);
    assert_eq!(words[1][..7], ["[1]", "1", "1", "2", "2", "0", "127.0.0.1"]);
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
fn the_address_can_be_chosen() {
    let output = burn_dist()
        .args(["run", "--rdzv", "localhost:29501", "--", "/bin/sh", "-c"])
        .arg("echo $MASTER_ADDR $MASTER_PORT ${TORCHELASTIC_RUN_ID-none}")
        .env("TORCHELASTIC_RUN_ID", "an outer launcher's")
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "[0] localhost 29501 none\n");
}

#[test]
fn each_rank_has_a_log_file() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo out $RANK; echo err $RANK >&2; printf '1%%\\r2%%'";
    fs::write(folder.path().join("script"), script).unwrap();
    let flags = ["--nproc-per-node", "2", "--log_dir", "new/logs"];
    let mut launch = Launch::of(folder, &flags);
    let logs = launch.folder.path().join("new/logs");
    fs::create_dir_all(&logs).unwrap();
    fs::write(
        logs.join("rank-0.log"),
        "of an earlier run, and longer than what follows\n",
    )
    .unwrap();
    let output = launch.output();
    assert!(output.status.success(), "{output:?}");
    for rank in 0..2 {
        let log = fs::read_to_string(logs.join(format!("rank-{rank}.log"))).unwrap();
        let mut lines: Vec<_> = log.lines().collect();
        lines.sort_unstable();
        let expected = [
            "1%".to_owned(),
            "2%".to_owned(),
            format!("err {rank}"),
            format!("out {rank}"),
        ];
        assert_eq!(lines, expected);
        assert!(text(&output.stdout).contains(&format!("[{rank}] out {rank}\n")));
    }
    assert_eq!(fs::read_dir(logs).unwrap().count(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_file_that_can_not_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("script"), "echo out; echo more").unwrap();
    let full = folder.path().join("rank-0.log");
    std::os::unix::fs::symlink("/dev/full", full).unwrap();
    let output = Launch::of(folder, &["--log-dir", "."]).output();
    assert!(output.status.success(), "the job goes on: {output:?}");
    assert_eq!(text(&output.stdout), "[0] out\n[0] more\n");
    let error = text(&output.stderr);
    assert!(
        error.starts_with("warning: cannot write the log file ./rank-0.log: No space left"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");

    // Before anything is started where the folder can't be made.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("script"), "echo out").unwrap();
    let output = Launch::of(folder, &["--log-dir", "script"]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(
        text(&output.stderr).contains("give another to --log-dir"),
        "{output:?}"
    );
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
