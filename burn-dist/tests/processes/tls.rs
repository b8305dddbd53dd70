//! Jobs that encrypt: the same results, and the same promises when a process dies or stands still.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::collectives::{results, told_by_threads};
use crate::faults::{AFTER_SILENCE, AT_ONCE, assert_within, errors};
use crate::job::Plan;

#[test]
fn encrypted_processes_give_what_threads_do() {
    for layout in [&[1, 1][..], &[1, 1, 1, 1], &[2, 1, 2]] {
        let found = results(Plan::new("collectives", layout).tls().run());
        let expected = told_by_threads(layout.iter().sum());
        assert!(!expected.is_empty());
        assert_eq!(found, expected, "layout {layout:?}");
    }
}

#[test]
fn an_encrypted_process_that_dies_or_stops_is_missed_in_time() {
    let heartbeat = Duration::from_secs(1);
    for (signal, bound, words) in [
        (Signal::KILL, AT_ONCE, "broke its connection"),
        (Signal::STOP, heartbeat + AFTER_SILENCE, "was silent for 1."),
    ] {
        let plan = Plan::new("loop", &[1, 1, 1]).tls().heartbeat(heartbeat);
        let mut job = plan.start();
        for process in 0..3 {
            job.wait_until_told(process, "going");
        }
        let start = Instant::now();
        job.signal(1, signal);
        let end = job.wait_for_ends(&[0, 2]);
        assert_within(bound, start, end, &job);
        for error in errors(&job, &[0, 2]) {
            assert!(error.starts_with("rank 1 of process 1"), "{error}");
            assert!(error.contains(words), "{error}");
        }
    }
}
