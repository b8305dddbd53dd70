//! Groups whose ranks lie in several processes: threads stand for the processes, and a network in
//! memory connects them.
#![allow(clippy::float_cmp, reason = "results are exact")]

mod collectives;
mod failures;
mod faults;
mod losses;
mod mismatches;
mod records;
mod short_writes;
#[path = "../../../tests/support/mod.rs"]
pub(crate) mod support;

use std::sync::Arc;
use std::time::Duration;

use self::support::on_groups;
use super::ProcessGroup;
use crate::transport::memory::networks;
use crate::transport::network::Network;

/// Number of ranks that each process hosts, for tests that depend little on it.
const LAYOUTS: [&[usize]; 5] = [&[1, 1], &[2, 1], &[1, 2], &[1, 1, 1], &[2, 2]];

/// Time after which a frozen process is found out.
const HEARTBEAT: Duration = Duration::from_millis(300);

/// The ranks of a job whose processes host so many ranks each, in rank order.
fn job(ranks_per_process: &[usize]) -> Vec<ProcessGroup> {
    job_on(
        networks(ranks_per_process.len(), HEARTBEAT),
        ranks_per_process,
    )
}

/// The same on given networks, one for each process.
fn job_on<N: Network + 'static>(
    networks: Vec<Arc<N>>,
    ranks_per_process: &[usize],
) -> Vec<ProcessGroup> {
    networks
        .into_iter()
        .flat_map(|network| ProcessGroup::world(network, ranks_per_process).unwrap())
        .collect()
}

/// Runs `work` as every rank of a job, and returns the results in rank order.
pub(crate) fn on_job<R: Send>(
    ranks_per_process: &[usize],
    work: impl Fn(ProcessGroup) -> R + Sync,
) -> Vec<R> {
    on_groups(job(ranks_per_process), work)
}
