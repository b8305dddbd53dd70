//! Jobs of 16 processes, of which each has a connection with few others: deaths and freezes are known to all, and the
//! network of a process has three threads.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use burn_dist::ReduceOp;
use burn_dist::launch::Worker;
use rustix::process::Signal;

use crate::faults::{AFTER_SILENCE, AT_ONCE, assert_within, errors};
use crate::job::{Job, PATIENCE, Plan};
use crate::worker::{Failure, tell};

const PROCESSES: usize = 16;
/// The process that a fault befalls.
const VICTIM: usize = 5;
/// Threads of a network: the port's, the reader and the heartbeat thread.
const THREADS: usize = 3;

/// Sums until it fails.
pub(crate) fn sum_for_ever(worker: &Worker) -> Result<(), Failure> {
    for count in 0.. {
        worker
            .group()
            .all_reduce(&mut [1.0_f32; 256], ReduceOp::Sum)?;
        if count == 20 {
            tell("going");
        }
    }
    Ok(())
}

/// Waits for one another, and tells the threads of the network meanwhile.
pub(crate) fn count_threads(worker: &Worker) -> Result<(), Failure> {
    worker.group().barrier()?;
    let deadline = Instant::now() + PATIENCE;
    let mut threads = network_threads()?;
    // Those of connections that were just made end by themselves, and one that has just started has no name yet.
    while threads.len() != THREADS && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
        threads = network_threads()?;
    }
    tell(format_args!("threads {}: {threads:?}", threads.len()));
    worker.group().barrier()?;
    Ok(())
}

/// The names of this process's threads that serve the network, as long as the system keeps them.
fn network_threads() -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile.
        let name = fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        let kinds = ["burn-dist-net", "burn-dist-acc", "burn-dist-con"];
        if kinds.iter().any(|kind| name.starts_with(kind)) {
            names.push(name.trim().to_owned());
        }
    }
    Ok(names)
}

fn others() -> Vec<usize> {
    let all = 0..PROCESSES;
    all.filter(|&process| process != VICTIM).collect()
}

fn start(heartbeat: Option<Duration>) -> Job {
    let mut plan = Plan::new("sums", &[1; PROCESSES]);
    if let Some(heartbeat) = heartbeat {
        plan = plan.heartbeat(heartbeat);
    }
    let mut job = plan.start();
    for process in 0..PROCESSES {
        job.wait_until_told(process, "going");
    }
    job
}

#[track_caller]
fn assert_lost(job: &Job, cause: &str) {
    for error in errors(job, &others()) {
        assert!(
            error.starts_with("rank 5 of process 5 at 127.0.0.1:") && error.contains(cause),
            "{error}\n{}",
            job.report()
        );
    }
}

#[test]
fn a_killed_process_is_missed_by_all() {
    let mut job = start(None);
    let start = Instant::now();
    job.signal(VICTIM, Signal::KILL);
    let end = job.wait_for_ends(&others());
    assert_within(AT_ONCE, start, end, &job);
    assert_lost(&job, "the process broke its connection");
}

#[test]
fn a_stopped_process_is_missed_by_all() {
    let heartbeat = Duration::from_secs(1);
    let mut job = start(Some(heartbeat));
    let start = Instant::now();
    job.signal(VICTIM, Signal::STOP);
    let end = job.wait_for_ends(&others());
    assert_within(heartbeat + AFTER_SILENCE, start, end, &job);
    assert_lost(&job, "the process was silent for 1.");
    job.signal(VICTIM, Signal::KILL);
    job.wait_for_all();
}

#[test]
fn a_network_has_three_threads_however_many_processes_there_are() {
    for processes in [2, PROCESSES] {
        let told = Plan::new("threads", &vec![1; processes]).run();
        let told: Vec<_> = told
            .iter()
            .filter(|line| line.starts_with("threads"))
            .collect();
        assert_eq!(told.len(), processes);
        let due = format!("threads {THREADS}:");
        assert!(told.iter().all(|line| line.starts_with(&due)), "{told:#?}");
    }
}
