//! `burn-dist bench`.

use crate::launcher::{burn_dist, text};

const FAST: [&str; 4] = ["--sizes", "1024,4096", "--budget", "0.01"];

/// Checks the table that rank 0 writes.
fn assert_table(said: &str, title: &str) {
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!(lines[0], format!("all_reduce of f32, sum: {title}"));
    for (line, bytes) in lines[2..].iter().zip(["1024", "4096"]) {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!((words.len(), words[0]), (4, bytes), "{said}");
        assert!(words[1].parse::<f64>().unwrap() > 0.0, "{said}");
        assert!(words[3].parse::<f64>().unwrap() >= 0.0, "{said}");
    }
}

#[test]
fn threads_are_timed() {
    let output = burn_dist()
        .args(["bench", "--local-ranks", "3"])
        .args(FAST)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_table(text(&output.stdout), "3 ranks in 1 process(es)");
}

#[test]
fn the_processes_of_a_job_are_timed() {
    let output = burn_dist()
        .args(["run", "--nproc-per-node", "2", "--"])
        .arg(env!("CARGO_BIN_EXE_burn-dist"))
        .args(["bench", "--local-ranks", "2"])
        .args(FAST)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout).replace("[0] ", "");
    assert_table(&said, "4 ranks in 2 process(es)");
}

#[test]
fn crossovers_are_measured_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("crossovers.json");
    let output = burn_dist()
        .args(["bench", "tune", "--nproc-per-node", "2", "--rounds", "1"])
        .args(["--budget", "0.001", "--output"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("2 ranks in 2 processes"), "{said}");
    // One algorithm is chosen at each of 13 sizes of two operations.
    assert_eq!(said.matches("s*").count(), 26, "{said}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("\"processes\": 2"), "{written}");
    let doctor = |processes: &str| {
        burn_dist()
            .args(["run", "--nproc-per-node", processes, "--"])
            .arg(env!("CARGO_BIN_EXE_burn-dist"))
            .args(["doctor", "--backend", "cpu", "--crossovers"])
            .arg(&file)
            .output()
            .unwrap()
    };
    let used = doctor("2");
    assert_ne!(used.status.code(), Some(2), "{}", text(&used.stderr));
    let refused = doctor("3");
    assert!(!refused.status.success());
    let error = text(&refused.stderr);
    assert!(error.contains("measured with 2 processes"), "{error}");
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_before_the_measurement() {
    let output = burn_dist()
        .args(["bench", "tune", "--nproc-per-node", "2"])
        .args(["--output", "/no/such/folder/crossovers.json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("can't write /no/such/folder"), "{error}");
}

#[test]
fn one_rank_is_an_error_that_says_what_to_do() {
    let output = burn_dist()
        .args(["bench", "--local-ranks", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("--local-ranks 2") && error.contains("burn-dist run"),
        "{error}"
    );
}
