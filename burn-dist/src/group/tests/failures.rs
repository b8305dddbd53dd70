//! What goes wrong in one process is an error on every rank of all, at once, and says who did what.
//!
//! Groups have their default timeout of 5 minutes unless a test is about timeouts: a test that ends at
//! all shows that nobody waited for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use super::{HEARTBEAT, LAYOUTS, job, job_on, on_job};
use crate::transport::memory::networks;
use crate::transport::network::Network;
use crate::{Departure, Error, ProcessGroup, ReduceOp};

#[test]
fn a_timeout_names_the_ranks_of_the_process_that_is_missing() {
    let errors = on_job(&[2, 1, 2], |group| {
        if group.rank() >= 3 {
            // Stays a member, without a call, until the others have given up.
            return group.recv(&mut [0_u8], 0, 9).unwrap_err();
        }
        let group = group.with_timeout(Duration::from_millis(200));
        group
            .all_reduce(&mut [0.0_f32; 3], ReduceOp::Sum)
            .unwrap_err()
    });
    for error in errors {
        let Error::Timeout {
            missing,
            call,
            after,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(missing, &[3, 4]);
        assert_eq!(call.to_string(), "all_reduce #0 f32[3] sum");
        assert_eq!(*after, Duration::from_millis(200));
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
    on_job(&[1, 1], |group| {
        if group.rank() == 0 {
            let group = group.with_timeout(Duration::from_millis(50));
            let text = group.recv(&mut [0_i32; 4], 1, 3).unwrap_err().to_string();
            assert!(
                text.contains("recv #0 i32[4] from rank 1 tag 3: rank 1 did not come"),
                "{text}"
            );
        } else {
            let error = group.barrier().unwrap_err();
            assert!(matches!(error, Error::Timeout { rank: 0, .. }), "{error}");
        }
    });
}

#[test]
fn a_rank_that_goes_early_is_an_error_for_those_who_need_it() {
    for layout in LAYOUTS {
        let errors = on_job(layout, |group| {
            group.barrier().unwrap();
            if group.rank() == 1 {
                return None;
            }
            Some(group.all_reduce(&mut [0_u8; 2], ReduceOp::Min).unwrap_err())
        });
        for error in errors.into_iter().flatten() {
            let Error::PeerLeft {
                peer: 1,
                reason: Departure::Returned,
                call: Some(call),
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!(call.to_string(), "all_reduce #1 u8[2] min");
        }
    }
}

#[test]
fn a_receiver_learns_at_once_that_its_sender_has_gone() {
    on_job(&[1, 1, 1], |group| {
        if group.rank() == 1 {
            group.send(&[1_u8], 0, 0).unwrap();
            group.send(&[2_u8], 0, 0).unwrap();
            return;
        }
        if group.rank() == 2 {
            let error = group.recv(&mut [0_u8], 0, 0).unwrap_err();
            assert!(matches!(error, Error::PeerLeft { peer: 1, .. }), "{error}");
            return;
        }
        for expected in [1, 2] {
            let mut word = [0_u8];
            group.recv(&mut word, 1, 0).unwrap();
            assert_eq!(
                word,
                [expected],
                "what was sent before it went is still there"
            );
        }
        let error = group.recv(&mut [0_u8], 1, 0).unwrap_err();
        assert!(matches!(error, Error::PeerLeft { peer: 1, .. }), "{error}");
    });
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
        on_job(&[2, 1, 1], |group| {
            let half = group.split(Some(group.rank() as u64 / 3), 0).unwrap();
            let work = group.all_reduce_async(vec![1_i32], ReduceOp::Sum);
            group.barrier().unwrap();
            assert_eq!(work.wait().unwrap(), [4]);
            half.unwrap().barrier().unwrap();
        });
    }
}

#[test]
fn a_panic_is_told_to_the_other_processes() {
    on_job(&[1, 2], |group| {
        let rank = group.rank();
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            assert_ne!(rank, 2, "rank 2 has a defect");
            group.barrier().unwrap_err()
        }));
        let Ok(error) = outcome else {
            assert_eq!(rank, 2);
            return;
        };
        let panicked = matches!(
            error,
            Error::PeerLeft {
                peer: 2,
                reason: Departure::Panicked(_),
                ..
            }
        );
        assert!(panicked, "{error}");
    });
}

#[test]
fn an_abort_reaches_all_and_only_its_group() {
    let errors = on_job(&[1, 2, 1], |group| {
        let twin = group.duplicate().unwrap();
        if group.rank() == 2 {
            twin.abort("the data set is gone");
        }
        let error = twin.barrier().unwrap_err().to_string();
        group.barrier().unwrap();
        error
    });
    for error in errors {
        assert_eq!(error, "rank 2 aborted the group: the data set is gone");
    }
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
        let errors = on_job(layout, |group| {
            let root = if group.rank() == 1 { 9 } else { 1 };
            group.broadcast(&mut [0_u8; 2], root).unwrap_err()
        });
        for (rank, error) in errors.iter().enumerate() {
            assert!(error.to_string().contains("there is no rank 9"), "{error}");
            match error {
                Error::InvalidArgument { rank: 1, .. } => assert_eq!(rank, 1),
                Error::PeerLeft { peer: 1, .. } => assert_ne!(rank, 1),
                other => panic!("{other}"),
            }
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
