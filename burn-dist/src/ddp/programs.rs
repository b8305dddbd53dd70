//! Random training programs whose ranks lie in several processes, which a network in memory connects. See
//! `tests/programs`, which runs the same on device threads.

#[path = "../../tests/programs/shared/mod.rs"]
mod shared;

use crate::group::ProcessGroup;
use crate::group::tests::support;
use crate::transport::memory::networks;
use burn::tensor::Device;
use shared::outcome::Outcome;
use shared::program::Program;
use shared::{check, replica};
use std::time::Duration;

/// The numbers of ranks that processes host, for each number of ranks.
const LAYOUTS: [&[&[usize]]; 4] = [
    &[&[1]],
    &[&[1, 1]],
    &[&[2, 1], &[1, 2], &[1, 1, 1]],
    &[&[2, 2], &[1, 3], &[1, 1, 2]],
];

/// Runs a program on several processes.
fn over_processes(program: &Program) -> Outcome {
    let layouts = LAYOUTS[program.ranks - 1];
    let layout = layouts[program.body.len() % layouts.len()];
    let groups = networks(layout.len(), Duration::from_secs(5))
        .into_iter()
        .flat_map(|network| ProcessGroup::world(network, layout).unwrap())
        .map(|group| group.with_timeout(Duration::from_secs(30)))
        .collect();
    let device = Device::flex().autodiff();
    let ended = support::on_groups(groups, |group| {
        let found = replica::run(program, &group, &device);
        if let Err(error) = &found {
            // As a launcher does.
            group.abort(&error.to_string());
        }
        let end = group.barrier();
        let words = |error: crate::Error| error.to_string();
        (found.map_err(words), end.map_err(words))
    });
    let (ranks, ends): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
    let errors = ranks.iter().filter_map(|found| found.as_ref().err());
    let first = errors.chain(ends.iter().filter_map(|end| end.as_ref().err()));
    let job = first.min_by_key(|error| error.contains("aborted"));
    Outcome {
        job: job.cloned().map_or(Ok(()), Err),
        ranks,
    }
}

#[test]
fn random_programs_over_processes_come_to_what_one_replica_comes_to() {
    let count = std::env::var("BURN_DIST_PROGRAMS").map_or(100, |count| count.parse().unwrap());
    // Other programs than those on threads.
    let counts = check(1 << 32..(1 << 32) + count, &over_processes);
    println!("{}", counts.unwrap_or_else(|error| panic!("{error}")));
}
