//! Processes that die, stand still, fail or never come: all others end within a bound, and say why.
//!
//! The bounds are promises of the library. They are measured here, from the moment of the fault to the
//! end of the last process that has to end by itself.

use std::time::{Duration, Instant};

use burn_dist::launch::Worker;
use burn_dist::{ReduceOp, Result};
use rustix::process::Signal;

use crate::job::{Job, Plan};
use crate::records;
use crate::worker::{Failure, tell};

/// For what is noticed by itself: a broken connection, a failure that is told.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(2);
/// For what only silence shows, after the heartbeat.
pub(crate) const AFTER_SILENCE: Duration = Duration::from_secs(2);

/// Three processes with two ranks each; the middle one has ranks 2 and 3.
const LAYOUT: [usize; 3] = [2, 2, 2];
const STEPS_BEFORE: usize = 20;

fn step(worker: &Worker) -> Result<()> {
    let mut buffer = vec![1.0_f32; 1 << 18];
    worker.group().all_reduce(&mut buffer, ReduceOp::Mean)
}

/// Averages until it fails; tells when it is in the midst of it.
pub(crate) fn go_on_for_ever(worker: &Worker) -> Result<(), Failure> {
    for count in 0.. {
        step(worker)?;
        if count == STEPS_BEFORE {
            tell(format_args!("going {}", worker.rank()));
        }
    }
    Ok(())
}

/// As the others, until rank 3 does something else.
fn until_rank_3(
    worker: &Worker,
    then: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    if worker.rank() != 3 {
        return go_on_for_ever(worker);
    }
    for _ in 0..STEPS_BEFORE {
        step(worker)?;
    }
    tell("now");
    then()
}

pub(crate) fn panic_once(worker: &Worker) -> Result<(), Failure> {
    // As a graph of autodiff may do: the process is left in good order all the same.
    std::mem::forget(worker.group().clone());
    until_rank_3(worker, || panic!("index 7 is out of bounds"))
}

pub(crate) fn fail_once(worker: &Worker) -> Result<(), Failure> {
    until_rank_3(worker, || Err("the disk is full".into()))
}

pub(crate) fn abort_once(worker: &Worker) -> Result<(), Failure> {
    until_rank_3(worker, || {
        worker.group().abort("the data set is gone");
        Ok(step(worker)?)
    })
}

/// The error of every rank among these, which each told one.
#[track_caller]
pub(crate) fn errors(job: &Job, ranks: &[usize]) -> Vec<String> {
    let error = |rank: &usize| {
        let start = format!("rank {rank}: ");
        let mut told = job.all_told().filter_map(|line| line.strip_prefix(&start));
        match (told.next(), told.next()) {
            (Some(error), None) => error.to_owned(),
            other => panic!("rank {rank} told {other:?}\n{}", job.report()),
        }
    };
    ranks.iter().map(error).collect()
}

#[track_caller]
pub(crate) fn assert_within(bound: Duration, start: Instant, end: Instant, job: &Job) {
    let took = end.saturating_duration_since(start);
    assert!(took < bound, "took {took:?}\n{}", job.report());
}

#[track_caller]
fn wait_until_going(job: &mut Job, processes: usize) {
    for process in 0..processes {
        job.wait_until_told(process, "going");
    }
}

/// Every error names the ranks of the middle process, its address, and the operation with its number.
#[track_caller]
fn assert_lost(job: &Job, cause: &str) {
    for error in errors(job, &[0, 1, 4, 5]) {
        let rest = error.strip_prefix("ranks 2 and 3 of process 1 at 127.0.0.1:");
        let parts = rest.and_then(|rest| rest.split_once(" can't be reached in all_reduce #"));
        let Some((port, rest)) = parts else {
            panic!("{error}\n{}", job.report());
        };
        assert!(port.parse::<u16>().is_ok(), "{error}");
        let (number, rest) = rest.split_once(' ').unwrap();
        assert!(number.parse::<usize>().unwrap() >= STEPS_BEFORE, "{error}");
        let rest = rest.strip_prefix("f32[262144] mean: the process ");
        assert!(rest.unwrap().starts_with(cause), "{error}");
    }
}

#[test]
fn a_killed_process_is_missed_at_once() {
    for _ in 0..3 {
        let mut job = Plan::new("loop", &LAYOUT).start();
        wait_until_going(&mut job, 3);
        let start = Instant::now();
        job.signal(1, Signal::KILL);
        let end = job.wait_for_ends(&[0, 2]);
        assert_within(AT_ONCE, start, end, &job);
        assert_lost(&job, "broke its connection");
    }
}

#[test]
fn a_stopped_process_is_missed_after_a_heartbeat() {
    let heartbeat = Duration::from_secs(1);
    let mut job = Plan::new("loop", &LAYOUT).heartbeat(heartbeat).start();
    wait_until_going(&mut job, 3);
    let start = Instant::now();
    job.signal(1, Signal::STOP);
    let end = job.wait_for_ends(&[0, 2]);
    assert_within(heartbeat + AFTER_SILENCE, start, end, &job);
    assert_lost(&job, "was silent for 1.");
    records::assert_left_by(&job, &[0, 1, 4, 5]);
    let words = "in all_reduce #";
    records::assert_compared(&job, words, "ranks 2 and 3 sent no record");
    job.signal(1, Signal::KILL);
    job.wait_for_all();
}

#[test]
fn a_process_that_comes_to_itself_too_late_ends_too() {
    let heartbeat = Duration::from_secs(1);
    let mut job = Plan::new("loop", &[1, 1]).heartbeat(heartbeat).start();
    wait_until_going(&mut job, 2);
    job.signal(1, Signal::STOP);
    job.wait_for_ends(&[0]);
    let start = Instant::now();
    job.signal(1, Signal::CONT);
    let end = job.wait_for_all();
    assert_within(AT_ONCE, start, end, &job);
    errors(&job, &[0, 1]);
}

/// Runs a job whose rank 3 ends it, and looks at what the others are told.
#[track_caller]
fn assert_ended_by_rank_3(role: &'static str, error: &str, failure: &str) {
    let mut job = Plan::new(role, &LAYOUT).start();
    let start = job.wait_until_told(1, "now");
    let end = job.wait_for_all();
    assert_within(AT_ONCE, start, end, &job);
    for found in errors(&job, &[0, 1, 2, 4, 5]) {
        assert!(found.starts_with(error), "{found}\n{}", job.report());
    }
    // The launcher of the process that it began in tells the cause.
    let mut told = job.told(1);
    let failed = told.find(|line| line.starts_with("failed: ")).unwrap();
    assert_eq!(failed, &format!("failed: {failure}"));
}

#[test]
fn a_panic_of_one_rank_reaches_all() {
    assert_ended_by_rank_3(
        "panic",
        "rank 3 panicked: index 7 is out of bounds; the other ranks stop in all_reduce #",
        "rank 3 panicked: index 7 is out of bounds",
    );
}

#[test]
fn a_failure_of_one_rank_reaches_all() {
    assert_ended_by_rank_3(
        "fail",
        "rank 3 failed: the disk is full; the other ranks stop in all_reduce #",
        "rank 3 failed: the disk is full",
    );
}

#[test]
fn an_abort_reaches_all() {
    let message = "rank 3 aborted the group: the data set is gone";
    assert_ended_by_rank_3("abort", message, message);
}

#[test]
fn a_process_that_never_starts_is_named() {
    let timeout = Duration::from_secs(1);
    let plan = || Plan::new("loop", &LAYOUT).join_timeout(timeout);
    for (absent, present, words) in [
        (2, [0, 1], "waited 1 s: process 2 of 3 did not come"),
        (0, [1, 2], "tried for 1.0 s to reach process 0"),
    ] {
        let start = Instant::now();
        let mut job = plan().without(absent).start();
        let end = job.wait_for_all();
        assert_within(timeout + AT_ONCE, start, end, &job);
        for process in present {
            let failed = job.told(process).find(|line| line.starts_with("failed: "));
            let failed = failed.unwrap_or_else(|| panic!("{}", job.report()));
            assert!(failed.contains(words), "{failed}");
        }
    }
}

#[test]
fn a_process_that_is_killed_while_others_join_is_told_to_them_at_once() {
    // Process 2 never comes, and the others would wait for it for a minute.
    let mut job = Plan::new("loop", &LAYOUT).without(2).start();
    for process in [0, 1] {
        job.wait_until_told_with(process, "entered the job");
    }
    let start = Instant::now();
    job.signal(1, Signal::KILL);
    let end = job.wait_for_ends(&[0]);
    // Process 0 stays for a few seconds, so that process 2 would hear of it if it came now.
    assert_within(AT_ONCE + Duration::from_secs(6), start, end, &job);
    let failed = job.told(0).find(|line| line.starts_with("failed: "));
    let failed = failed.unwrap_or_else(|| panic!("{}", job.report()));
    let expected = "process 1 ended before all processes had joined";
    assert!(failed.contains(expected), "{failed}");
}
