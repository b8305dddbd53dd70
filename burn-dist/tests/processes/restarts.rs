//! A job can be started again at once, on the same port, however it ended.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use burn_dist::launch::Worker;
use burn_dist::{ReduceOp, Result};
use rustix::process::Signal;

use crate::job::Plan;
use crate::worker::{Failure, tell};

/// A small job: one sum, and nobody goes before all have it.
pub(crate) fn work(worker: &Worker) -> Result<(), Failure> {
    let mut ranks = [worker.rank() as i64 + 1];
    worker.group().all_reduce(&mut ranks, ReduceOp::Sum)?;
    tell(format_args!("sum {}", ranks[0]));
    worker.group().barrier()?;
    Ok(())
}

/// A port that is free, and that the system gives to nobody who does not name it: those that it gives
/// out itself begin at 32768.
pub(crate) fn free_port() -> u16 {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    (first..32_768)
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .unwrap()
}

#[test]
fn fifty_jobs_in_a_row_on_one_port() {
    let address = format!("127.0.0.1:{}", free_port());
    let start = Instant::now();
    for round in 0..50 {
        if round % 5 == 4 {
            // A job that is killed, and leaves its connections to the system.
            let mut job = Plan::new("loop", &[1, 1]).master(&*address).start();
            job.wait_until_told(1, "going");
            job.signal(0, Signal::KILL);
            job.wait_for_all();
        } else {
            let told = Plan::new("small", &[1, 1]).master(&*address).run();
            let sums = told.iter().filter(|line| *line == "sum 3").count();
            assert_eq!(sums, 2, "round {round}: {told:?}");
        }
    }
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(20), "took {elapsed:?}");
}
