//! What goes wrong in one process is an error on every rank of all, at once, and says who did what.
//!
//! Groups have their default timeout of 5 minutes unless a test is about timeouts: a test that ends at
//! all shows that nobody waited for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::support::failures::{
    abort_a_twin, check_stayed_away, go_early, panic_in_rank_2, refusals, return_together,
    send_too_little, stay_away, wait_for_a_silent_sender,
};
use super::support::on_groups;
use super::{HEARTBEAT, LAYOUTS, job, job_on, on_job};
use crate::transport::memory::networks;
use crate::transport::network::{Lost, Network, Tag, Watcher};
use crate::transport::processes::{Failure, Notice, Spans};
use crate::{Departure, Error, ProcessGroup, ReduceOp, Result};

#[test]
fn a_timeout_names_the_ranks_of_the_process_that_is_missing() {
    let errors = on_job(&[2, 1, 2], |group| stay_away(&group, &[3, 4], 3));
    check_stayed_away(&errors, &[3, 4], 3);
}

#[test]
fn a_timeout_names_the_missing_rank_also_where_ranks_wait_for_ranks_that_wait_for_it() {
    // Of these, each exchanges what it has with one other at a time.
    for (processes, missing) in [(4, 3), (4, 0), (8, 5)] {
        let errors = on_job(&vec![1; processes], |group| {
            stay_away(&group, &[missing], 500)
        });
        check_stayed_away(&errors, &[missing], 500);
    }
}

#[test]
fn a_timeout_names_the_missing_ranks_also_where_several_wait_in_a_process() {
    // Process 0 waits for process 3, which waits for process 2, whose ranks don't come.
    let errors = on_job(&[2; 5], |group| {
        let rank = group.rank();
        if [4, 5].contains(&rank) {
            return group.recv(&mut [0_u8], 0, 9).unwrap_err();
        }
        let timeout = if rank < 2 { 50 } else { 200 };
        let group = group.with_timeout(Duration::from_millis(timeout));
        group.barrier().unwrap_err()
    });
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("ranks 4 and 5 did not come"), "{text}");
    }
}

#[test]
fn a_rank_that_is_missing_in_another_process_is_named_there() {
    let errors = on_job(&[1, 2], |group| {
        let short = Duration::from_millis([2000, 100, 0][group.rank()]);
        match group.rank() {
            2 => group.recv(&mut [0_u8], 0, 9).unwrap_err(),
            _ => group.with_timeout(short).barrier().unwrap_err(),
        }
    });
    for error in errors {
        let text = error.to_string();
        assert!(
            text.starts_with("rank 1 waited 0.1 s in barrier #0: rank 2 did not come"),
            "{text}"
        );
    }
}

#[test]
fn a_receiver_times_out_on_a_silent_sender() {
    on_job(&[1, 1], |group| wait_for_a_silent_sender(&group));
}

#[test]
fn a_rank_that_goes_early_is_an_error_for_those_who_need_it() {
    for layout in LAYOUTS {
        on_job(layout, |group| go_early(&group));
    }
}

#[test]
fn a_receiver_learns_at_once_that_its_sender_has_gone() {
    on_job(&[1, 1, 1], |group| send_too_little(&group));
}

#[test]
fn a_sender_learns_that_its_receiver_has_gone() {
    on_job(&[1, 1], |group| {
        if group.rank() == 1 {
            return;
        }
        let error = loop {
            if let Err(error) = group.send(&[1_u8], 1, 0) {
                break error;
            }
            thread::yield_now();
        };
        assert!(matches!(error, Error::PeerLeft { peer: 1, .. }), "{error}");
    });
}

#[test]
fn ranks_that_all_return_are_no_error() {
    for _ in 0..50 {
        on_job(&[2, 1, 1], |group| return_together(&group));
    }
}

#[test]
fn a_panic_is_told_to_the_other_processes() {
    on_job(&[1, 2], panic_in_rank_2);
}

#[test]
fn an_abort_reaches_all_and_only_its_group() {
    on_job(&[1, 2, 1], |group| abort_a_twin(&group));
}

#[test]
fn an_abort_ends_a_wait_for_the_network() {
    on_job(&[1, 1], |group| {
        if group.rank() == 1 {
            // The other is certainly on its way into the barrier, and most likely in it.
            group.recv(&mut [0_u8], 0, 0).unwrap();
            group.abort("enough");
            return;
        }
        group.send(&[0_u8], 1, 0).unwrap();
        let error = group.barrier().unwrap_err();
        assert!(matches!(error, Error::Aborted { rank: 1, .. }), "{error}");
    });
}

#[test]
fn a_group_that_fails_before_another_process_has_made_it() {
    on_job(&[1, 1], |group| {
        // Most likely one of the two has not yet made the group when the other's abort comes.
        let twin = group.duplicate().unwrap();
        if group.rank() == 1 {
            twin.abort("at once");
        }
        let error = twin.barrier().unwrap_err();
        assert!(matches!(error, Error::Aborted { rank: 1, .. }), "{error}");
    });
}

#[test]
fn a_wrong_argument_of_one_rank_is_an_error_on_all() {
    for layout in LAYOUTS {
        for refused in refusals(layout.iter().sum()) {
            on_job(layout, |group| refused.run(&group));
        }
    }
}

#[test]
fn the_network_closes_with_the_last_seat() {
    let networks = networks(2, HEARTBEAT);
    let first = networks[0].clone();
    let mut groups = job_on(networks, &[2, 1]);
    let reachable = || {
        let tag = crate::transport::network::Tag {
            group: 9,
            sequence: 9,
            part: 9,
        };
        first.send(1, tag, &[], &[], Instant::now()).is_ok()
    };
    let work = groups[0].start().barrier();
    drop(groups.remove(1));
    assert!(work.wait().is_err());
    assert!(reachable(), "one seat of the process is left");
    drop(groups.remove(0));
    assert!(!reachable());
}

#[test]
fn ranks_that_do_not_fit_the_network_are_refused() {
    for wrong in [&[1, 1, 1][..], &[1], &[2, 0]] {
        let network = networks(2, HEARTBEAT).remove(0);
        let error = ProcessGroup::world(network, wrong).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    assert_eq!(job(&[2, 3]).len(), 5);
}

/// Rank 0 of two has an asynchronous call that its busy communication thread has not come to when it ends the
/// group; rank 1 must not wait for it.
fn end_before_an_asynchronous_call(end: impl Fn(&ProcessGroup) + Sync, expected: &str) {
    let told = Barrier::new(2);
    on_job(&[1, 1], |group| {
        let sum = || group.start().all_reduce(vec![1.0_f32; 3], ReduceOp::Sum);
        if group.rank() == 1 {
            let work = sum();
            group.barrier().unwrap();
            let error = work.wait().unwrap_err();
            told.wait();
            assert!(error.to_string().contains(expected), "{error}");
            return;
        }
        let (release, busy) = mpsc::channel::<()>();
        let job = Box::new(move || assert!(busy.recv().is_err()));
        group.member.submit(job).unwrap();
        let work = sum();
        group.barrier().unwrap();
        end(&group);
        // It stays, and does not come to the call, until the other has been told.
        told.wait();
        drop(release);
        assert!(work.wait().is_err());
    });
}

#[test]
fn an_abort_ends_an_asynchronous_call_that_its_rank_has_not_come_to() {
    end_before_an_asynchronous_call(|group| group.abort("enough"), "enough");
}

#[test]
fn a_failed_rank_ends_an_asynchronous_call_that_it_has_not_come_to() {
    let reason = Departure::Failed("no batch is left".into());
    end_before_an_asynchronous_call(|group| group.leave(&reason), "no batch is left");
}

#[test]
fn a_failure_elsewhere_ends_an_operation_that_was_to_come_to_its_end() {
    let networks = networks(3, HEARTBEAT);
    let fail = |process: usize, done: &Spans| {
        let message = "enough".into();
        let rank = process;
        let failure = Failure::new(&Error::Aborted { rank, message }, rank);
        let notice = Notice::failed(failure, done, false).encode(0).unwrap();
        networks[process].notify(&notice);
    };
    let groups = ProcessGroup::world(networks[1].clone(), &[1, 1, 1]).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| groups[0].barrier().unwrap_err());
        // It waits for the others once it has sent what is theirs.
        let tag = Tag {
            group: 0,
            sequence: 0,
            part: 0,
        };
        let soon = Instant::now() + Duration::from_mins(1);
        networks[2].receive(1, tag, soon).unwrap();
        // Process 0 has done the barrier, so process 2 has come to it; then that failed on its own.
        let mut done = Spans::default();
        done.insert(0);
        fail(0, &done);
        fail(2, &Spans::default());
        let error = waits.join().unwrap();
        assert!(matches!(error, Error::Aborted { rank: 0, .. }), "{error}");
    });
}

/// The ranks of a job that has a launcher.
fn launched(ranks_per_process: &[usize]) -> Vec<ProcessGroup> {
    let networks = networks(ranks_per_process.len(), HEARTBEAT).into_iter();
    let begin = |network| {
        ProcessGroup::begin(
            network,
            ranks_per_process,
            None,
            crate::Crossovers::default(),
            true,
        )
    };
    networks
        .flat_map(|network| begin(network).unwrap())
        .collect()
}

/// Rank 1 drops a group that the others still use, and does `next`; they must be told `expected`.
fn drop_early(
    needed: fn(&ProcessGroup) -> Result<()>,
    next: impl Fn(&ProcessGroup) + Sync,
    expected: &str,
) {
    for layout in [&[2][..], &[1, 1], &[2, 1], &[1, 2]] {
        on_groups(launched(layout), |group| {
            let twin = group.duplicate().unwrap();
            if group.rank() == 1 {
                drop(twin);
                next(&group);
                return;
            }
            let error = needed(&twin).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(expected), "{layout:?}: {text}");
            // Rank 1 may wait here.
            let _ = group.barrier();
        });
    }
}

const NEEDS: [fn(&ProcessGroup) -> Result<()>; 3] = [
    |twin| twin.barrier(),
    |twin| twin.recv(&mut [0_u8], 1, 0),
    // What was sent before it is known that nobody receives it is lost.
    |twin| (0..).try_for_each(|tag| twin.send(&[0_u8], 1, tag)),
];

#[test]
fn a_group_that_a_launched_rank_drops_is_told_while_the_rank_goes_on() {
    for needed in NEEDS {
        drop_early(
            needed,
            |group| group.barrier().unwrap(),
            "rank 1 left the group before the others were done",
        );
    }
}

#[test]
fn a_reason_that_comes_after_a_drop_is_the_one_that_is_told() {
    let reason = Departure::Failed("no batch is left".into());
    for needed in NEEDS {
        let leave = |group: &ProcessGroup| group.leave(&reason);
        drop_early(needed, leave, "rank 1 failed: no batch is left");
    }
}

#[test]
fn operations_that_were_started_before_a_drop_come_to_their_end() {
    for layout in [&[2][..], &[1, 1]] {
        on_groups(launched(layout), |group| {
            let twin = group.duplicate().unwrap();
            let works: Vec<_> = (0..10)
                .map(|_| twin.start().all_reduce(vec![1_i32; 10], ReduceOp::Sum))
                .collect();
            if group.rank() == 1 {
                drop((twin, works));
            } else {
                let sums = works.into_iter().map(|work| work.wait().unwrap());
                assert!(sums.into_iter().all(|sum| sum == [2; 10]));
            }
            group.barrier().unwrap();
        });
    }
}

#[test]
fn messages_of_a_group_that_is_gone_are_dropped() {
    let networks = networks(2, HEARTBEAT);
    let kept = networks[0].clone();
    on_groups(job_on(networks, &[1, 1]), |group| {
        let twin = group.duplicate().unwrap();
        if group.rank() == 0 {
            twin.send(&[1_u8; 1000], 1, 7).unwrap();
        }
        group.barrier().unwrap();
        drop(twin);
        group.barrier().unwrap();
        assert_eq!(kept.unasked(1000), 0);
        group.barrier().unwrap();
    });
}

#[test]
fn the_end_of_a_group_is_told_to_its_processes_alone() {
    let networks = networks(3, HEARTBEAT);
    let heard = Arc::new(Heard::default());
    networks[2].watch(heard.clone());
    on_groups(job_on(networks, &[1, 1, 1]), |group| {
        let part = group.split(Some(u64::from(group.rank() < 2)), 0).unwrap();
        let part = part.unwrap();
        if group.rank() == 0 {
            part.abort("enough");
        }
        if group.rank() < 2 {
            assert!(part.barrier().is_err());
        }
        drop(part);
        // A notice would have come before what was sent after it.
        group.barrier().unwrap();
        assert_eq!(heard.0.load(Ordering::Relaxed), 0);
        group.barrier().unwrap();
    });
}

/// Counts notices.
#[derive(Default)]
struct Heard(AtomicUsize);

impl Watcher for Heard {
    fn lost(&self, _: &Lost) {}

    fn notice(&self, _: usize, _: &[u8]) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
