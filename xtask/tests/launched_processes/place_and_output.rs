//! What the processes are told, and what is made of what they write.

use crate::launcher::{Launch, make_program, text};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::Command;

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
