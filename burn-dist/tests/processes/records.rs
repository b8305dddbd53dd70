//! What a job leaves whose ranks wait for one that hangs: a record of each rank, and on the standard error
//! of one process who is behind. (That of a process that stands still is in `faults`.)

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use burn_dist::ReduceOp;
use burn_dist::launch::Worker;
use rustix::process::Signal;
use serde_json::Value;

use crate::job::{Job, PATIENCE, Plan};
use crate::worker::{Failure, tell};

/// Averages until rank 3 hangs, for good.
pub(crate) fn hang(worker: &Worker) -> Result<(), Failure> {
    let group = worker.group().with_timeout(Duration::from_secs(1));
    for _ in 0..5 {
        group.all_reduce(&mut [1.0_f32; 1024], ReduceOp::Mean)?;
    }
    while worker.rank() == 3 {
        thread::park();
    }
    let error = group.all_reduce(&mut [1.0_f32; 1024], ReduceOp::Mean);
    tell("given up");
    Ok(error?)
}

/// Every one of these ranks left a file, with the operation that it was in.
#[track_caller]
pub(crate) fn assert_left_by(job: &Job, ranks: &[usize]) {
    for &rank in ranks {
        let file = job.records().join(format!("burn-dist-rank-{rank}.json"));
        let deadline = Instant::now() + PATIENCE;
        // A process whose rank hangs does not end, and writes on a thread.
        while !file.exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let bytes = fs::read(&file);
        let bytes =
            bytes.unwrap_or_else(|error| panic!("{}: {error}\n{}", file.display(), job.report()));
        let record: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(record["rank"], rank);
        let last = record["operations"].as_array().unwrap().last().unwrap();
        assert_eq!(last["operation"], "all_reduce", "{record}");
        assert_eq!(
            (&last["dtype"], &last["reduction"]),
            (&"f32".into(), &"mean".into())
        );
        assert_eq!(last["group"], "all ranks");
    }
}

/// Process 0 has said both on its standard error.
#[track_caller]
pub(crate) fn assert_compared(job: &Job, first: &str, second: &str) {
    let said = job.errors_of(0);
    assert!(
        said.contains("the ranks wait for one another in vain"),
        "{}",
        job.report()
    );
    assert!(
        said.contains(first) && said.contains(second),
        "{}",
        job.report()
    );
}

#[test]
fn a_rank_that_hangs_is_named_by_process_0() {
    let mut job = Plan::new("hang", &[2, 2]).start();
    job.wait_for_ends(&[0]);
    job.wait_until_told(1, "given up");
    assert_left_by(&job, &[0, 1, 2, 3]);
    assert_compared(
        &job,
        "rank 3 is behind: it last finished all_reduce #4 f32[1024] mean ",
        "and never came to all_reduce #5 f32[1024] mean, in which ranks 0, 1 and 2 have waited for ",
    );
    job.signal(1, Signal::KILL);
    job.wait_for_all();
}

#[test]
fn a_rank_that_hangs_in_process_0_is_named_too() {
    // Ranks 0 to 3 in process 0, which says so although it can't end.
    let mut job = Plan::new("hang", &[4, 1]).start();
    job.wait_for_ends(&[1]);
    assert_left_by(&job, &[0, 1, 2, 3, 4]);
    assert_compared(
        &job,
        "rank 3 is behind: it last finished all_reduce #4 f32[1024] mean ",
        "in which ranks 0, 1, 2 and 4 have waited for ",
    );
    job.signal(0, Signal::KILL);
    job.wait_for_all();
}
