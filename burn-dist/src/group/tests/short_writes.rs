//! Groups over TCP in bad weather: every connection passes bytes in small pieces and late, takes few at a
//! time, and in half of the runs one is cut or stands still at some byte, in its handshake or later.
//! Every run ends, on every rank, in the right results or in an error, before the deadline.

use std::time::{Duration, Instant};

use super::faults::{Run, play};
use super::support::Random;
use crate::ProcessGroup;
use crate::seeds::try_seeds;
use crate::transport::tcp::tests::proxied::{Connected, connect_through};

const SEEDS: u64 = 160;

/// Long enough that a process of a busy machine is not taken for a frozen one.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Time that processes try to connect.
const CONNECT: Duration = Duration::from_secs(4);
/// For a machine that does other things too.
const GRACE: Duration = Duration::from_secs(2);
/// Far longer than a run takes, so that a rank that waits for its deadline shows.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The most values of an operation: more bytes than the connections hold, so that writes stop in the middle.
const LONGEST: usize = 50_000;

fn run(seed: u64) -> Result<bool, String> {
    let mut random = Random(seed);
    let processes = 2 + random.below(2);
    let ranks_per_process: Vec<usize> = (0..processes).map(|_| 1 + random.below(2)).collect();
    let harmful = seed % 2 == 1;
    let start = Instant::now();
    let Connected {
        networks,
        failures,
        weather,
        proxies,
    } = connect_through(
        seed,
        processes,
        harmful,
        HEARTBEAT,
        Instant::now() + CONNECT,
    );
    let story = format!("{weather}\nprocesses of {ranks_per_process:?} ranks, {failures:?}: ");
    // Who could not connect with all says goodbye to the others, for a heartbeat at most.
    if start.elapsed() > CONNECT + HEARTBEAT + GRACE {
        return Err(format!("{story}connecting took {:?}", start.elapsed()));
    }
    if !harmful && !failures.is_empty() {
        return Err(format!("{story}a failure without a fault"));
    }
    let groups: Vec<ProcessGroup> = networks
        .into_iter()
        .flat_map(|network| ProcessGroup::world(network, &ranks_per_process).unwrap())
        .collect();
    // Where a process is missing from the start, the others find out.
    let all_there = failures.is_empty();
    let run = Run {
        timeout: TIMEOUT,
        longest: LONGEST,
        breaks: harmful,
        aborts: None,
    };
    let outcome = play(groups, seed, run);
    let through = outcome.map_err(|wrong| format!("{story}{wrong}"))?;
    drop(proxies);
    Ok(through && all_there)
}

#[test]
fn every_run_ends_in_the_right_results_or_in_an_error() {
    let Some(came_through) = try_seeds(SEEDS, 32, run) else {
        return;
    };
    let range = SEEDS / 2..SEEDS * 9 / 10;
    assert!(
        range.contains(&came_through),
        "{came_through} of {SEEDS} came through"
    );
}
