//! Random training programs on device threads, against one replica without burn-dist: the same parameters, to
//! rounding, after every step of an optimizer, or the same error of a written list on all ranks.
//!
//! `cargo test` runs as many programs as take some seconds. For others, and for more:
//!
//! - `BURN_DIST_PROGRAMS=5000`: how many programs;
//! - `BURN_DIST_PROGRAMS_FROM=1000`: the first seed;
//! - `BURN_DIST_PROGRAM='{..}'`: this one program, as a failure prints it.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod shared;
#[path = "../support/mod.rs"]
mod support;

use burn::tensor::Device;
use burn_dist::launch::Launcher;
use shared::outcome::Outcome;
use shared::program::Program;
use shared::{check, check_one, reference, replica};
use std::sync::Mutex;
use std::time::Duration;

/// Runs a program on device threads.
fn on_threads(program: &Program) -> Outcome {
    let nothing = || Err("it did not end".to_owned());
    let ranks = Mutex::new((0..program.ranks).map(|_| nothing()).collect::<Vec<_>>());
    let job = Launcher::new(vec![Device::flex().autodiff(); program.ranks])
        .with_timeout(Duration::from_secs(30))
        .with_threads_per_replica(1)
        .run(|worker| {
            let outcome = replica::run(program, worker.group(), worker.device());
            let noted = outcome.clone().map_err(|error| error.to_string());
            ranks.lock().unwrap()[worker.rank()] = noted;
            outcome.map(drop)
        });
    Outcome {
        ranks: ranks.into_inner().unwrap(),
        job: job.map(drop).map_err(|error| error.to_string()),
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().unwrap())
}

#[test]
fn random_programs_come_to_what_one_replica_comes_to() {
    if let Ok(program) = std::env::var("BURN_DIST_PROGRAM") {
        let program: Program = serde_json::from_str(&program).unwrap();
        let expected = reference::run(&program);
        let found = on_threads(&program);
        println!("{expected:#?}\n{found:#?}");
        check_one(&program, &on_threads).unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    let first = number("BURN_DIST_PROGRAMS_FROM", 0);
    let seeds = first..first + number("BURN_DIST_PROGRAMS", 200);
    let counts = check(seeds, &on_threads).unwrap_or_else(|error| panic!("{error}"));
    println!("{counts}");
    assert!(
        counts.failed * 20 <= counts.programs,
        "more than 5 % of the programs end in an error: {counts}"
    );
}

/// Programs that came to something else once, each below what was wrong.
#[test]
fn programs_that_failed_once_come_to_what_one_replica_comes_to() {
    let lines = include_str!("found.txt").lines();
    let mut fault = "";
    for line in lines {
        if line.starts_with('#') {
            fault = line;
            continue;
        }
        let program: Program = serde_json::from_str(line).unwrap();
        check_one(&program, &on_threads).unwrap_or_else(|error| panic!("{fault}: {error}"));
    }
}
