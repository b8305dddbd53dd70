//! What goes wrong in one process is an error on every rank of all, at once, and says who did what.
//!
//! Groups have their default timeout of 5 minutes unless a test is about timeouts: a test that ends at
//! all shows that nobody waited for it.

use std::thread;
use std::time::{Duration, Instant};

use super::support::failures::{
    abort_a_twin, check_stayed_away, go_early, panic_in_rank_2, refusals, return_together,
    send_too_little, stay_away, wait_for_a_silent_sender,
};
use super::{HEARTBEAT, LAYOUTS, job, job_on, on_job};
use crate::transport::memory::networks;
use crate::transport::network::Network;
use crate::{Error, ProcessGroup};

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
    let work = groups[0].barrier_async();
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
