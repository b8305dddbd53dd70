//! What goes wrong is an error on every rank, at once, and says who did what.
//!
//! Groups have their default timeout of 5 minutes unless a test is about timeouts: a test that ends at
//! all shows that nobody waited for it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::float_cmp, reason = "results are exact")]

mod support;

use std::time::Duration;

use burn_dist::{Departure, Error, ProcessGroup, ReduceOp, Result};
use support::on_ranks;

/// Runs one call per rank, all but the last rank's being `usual`, and returns the errors of all.
fn all_errors(
    ranks: usize,
    usual: impl Fn(&ProcessGroup) -> Result<()> + Sync,
    other: impl Fn(&ProcessGroup) -> Result<()> + Sync,
) -> Vec<Error> {
    on_ranks(ranks, |group| {
        // One call that all make alike, so that the sequence number counts.
        group.barrier().unwrap();
        let last = group.rank() + 1 == group.world_size();
        let error = if last { other(&group) } else { usual(&group) }.unwrap_err();
        let again = group.barrier().unwrap_err();
        assert_eq!(
            again.to_string(),
            error.to_string(),
            "a failed group stays failed"
        );
        let later = group.all_gather_async(vec![1_u8]).wait().unwrap_err();
        assert_eq!(
            later.to_string(),
            error.to_string(),
            "for asynchronous calls too"
        );
        error
    })
}

/// Every rank's error must be one mismatch with these two sides, whichever came first.
#[track_caller]
fn assert_mismatch(errors: &[Error], usual: &str, other: &str) {
    let last = errors.len() - 1;
    for error in errors {
        let text = error.to_string();
        assert!(matches!(error, Error::Mismatch { .. }), "{text}");
        assert_eq!(text, errors[0].to_string(), "all ranks tell the same story");
        assert!(
            text.contains(&format!("rank {last} called {other}")),
            "{text}"
        );
        assert!(text.contains(&format!("called {usual}")), "{text}");
    }
}

fn reduce_f32(length: usize, op: ReduceOp) -> impl Fn(&ProcessGroup) -> Result<()> {
    move |group| group.all_reduce(&mut vec![1.0_f32; length], op)
}

#[test]
fn another_operation_is_a_mismatch() {
    let errors = all_errors(3, reduce_f32(8, ReduceOp::Sum), |group| {
        group.broadcast(&mut [1.0_f32; 8], 1)
    });
    assert_mismatch(
        &errors,
        "all_reduce #1 f32[8] sum",
        "broadcast #1 f32[8] root 1",
    );
}

#[test]
fn another_shape_is_a_mismatch() {
    let errors = all_errors(
        4,
        reduce_f32(8, ReduceOp::Sum),
        reduce_f32(9, ReduceOp::Sum),
    );
    assert_mismatch(
        &errors,
        "all_reduce #1 f32[8] sum",
        "all_reduce #1 f32[9] sum",
    );
}

#[test]
fn another_type_is_a_mismatch() {
    let errors = all_errors(2, reduce_f32(8, ReduceOp::Sum), |group| {
        group.all_reduce(&mut [1_i32; 8], ReduceOp::Sum)
    });
    assert_mismatch(
        &errors,
        "all_reduce #1 f32[8] sum",
        "all_reduce #1 i32[8] sum",
    );
}

#[test]
fn another_reduction_is_a_mismatch() {
    let errors = all_errors(
        8,
        reduce_f32(8, ReduceOp::Sum),
        reduce_f32(8, ReduceOp::Mean),
    );
    assert_mismatch(
        &errors,
        "all_reduce #1 f32[8] sum",
        "all_reduce #1 f32[8] mean",
    );
}

#[test]
fn another_root_is_a_mismatch() {
    let errors = all_errors(
        3,
        |group| group.broadcast(&mut [0_u8; 4], 0),
        |group| group.broadcast(&mut [0_u8; 4], 2),
    );
    assert_mismatch(
        &errors,
        "broadcast #1 u8[4] root 0",
        "broadcast #1 u8[4] root 2",
    );
}

#[test]
fn another_order_is_a_mismatch() {
    let first = |group: &ProcessGroup| group.all_reduce(&mut [0_i64; 2], ReduceOp::Max);
    let second = |group: &ProcessGroup| group.all_reduce(&mut [0_i64; 3], ReduceOp::Max);
    let errors = all_errors(
        3,
        |group| first(group).and_then(|()| second(group)),
        |group| second(group).and_then(|()| first(group)),
    );
    assert_mismatch(
        &errors,
        "all_reduce #1 i64[2] max",
        "all_reduce #1 i64[3] max",
    );
}

#[test]
fn a_mismatch_of_asynchronous_calls_reaches_every_work() {
    let texts = on_ranks(3, |group| {
        let length = if group.rank() == 1 { 5 } else { 4 };
        let works: Vec<_> = (0..3)
            .map(|_| group.all_reduce_async(vec![0.0_f64; length], ReduceOp::Sum))
            .collect();
        let texts: Vec<String> = works
            .into_iter()
            .map(|work| work.wait().unwrap_err().to_string())
            .collect();
        assert_eq!(texts[0], texts[2]);
        texts[0].clone()
    });
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert!(
        texts[0].contains("rank 1 called all_reduce #0 f64[5] sum"),
        "{}",
        texts[0]
    );
}

#[test]
fn a_timeout_names_who_is_missing_on_every_rank_that_waits() {
    let errors = on_ranks(4, |group| {
        let group = group.with_timeout(Duration::from_millis(200));
        if group.rank() % 2 == 1 {
            // Stays a member, without a call, until the others have given up.
            let mut word = [0_u8];
            let error = group
                .with_timeout(Duration::from_mins(5))
                .recv(&mut word, 0, 9);
            return error.unwrap_err();
        }
        group
            .all_reduce(&mut [0.0_f32; 3], ReduceOp::Sum)
            .unwrap_err()
    });
    for error in &errors {
        assert_eq!(error.to_string(), errors[0].to_string());
    }
    let Error::Timeout {
        missing,
        call,
        after,
        ..
    } = &errors[0]
    else {
        panic!("{}", errors[0]);
    };
    assert_eq!(missing, &[1, 3]);
    assert_eq!(call.to_string(), "all_reduce #0 f32[3] sum");
    assert_eq!(*after, Duration::from_millis(200));
}

#[test]
fn a_receiver_times_out_on_a_silent_sender() {
    on_ranks(2, |group| {
        if group.rank() == 0 {
            let group = group.with_timeout(Duration::from_millis(50));
            let error = group.recv(&mut [0_i32; 4], 1, 3).unwrap_err();
            let text = error.to_string();
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
    let errors = on_ranks(3, |group| {
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

#[test]
fn a_receiver_learns_at_once_that_its_sender_has_gone() {
    on_ranks(2, |group| {
        if group.rank() == 1 {
            group.send(&[1_u8], 0, 0).unwrap();
            return;
        }
        let mut word = [0_u8];
        group.recv(&mut word, 1, 0).unwrap();
        assert_eq!(word, [1], "what was sent before it went is still there");
        let error = group.recv(&mut word, 1, 0).unwrap_err();
        assert!(matches!(error, Error::PeerLeft { peer: 1, .. }), "{error}");
    });
}

#[test]
fn a_panic_of_a_thread_is_told_to_the_others() {
    let groups = ProcessGroup::threads(3).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = groups
            .into_iter()
            .map(|group| {
                scope.spawn(move || {
                    assert_ne!(group.rank(), 2, "rank 2 has a defect");
                    group.barrier().unwrap_err()
                })
            })
            .collect();
        for (rank, thread) in threads.into_iter().enumerate() {
            match (rank, thread.join()) {
                (2, outcome) => assert!(outcome.is_err()),
                (_, outcome) => {
                    let error = outcome.unwrap();
                    let panicked = matches!(
                        error,
                        Error::PeerLeft {
                            peer: 2,
                            reason: Departure::Panicked(_),
                            ..
                        }
                    );
                    assert!(panicked, "{error}");
                }
            }
        }
    });
}

#[test]
fn ranks_that_all_return_are_no_error() {
    for _ in 0..100 {
        on_ranks(4, |group| {
            let work = group.all_reduce_async(vec![1_i32], ReduceOp::Sum);
            group.barrier().unwrap();
            assert_eq!(work.wait().unwrap(), [4]);
        });
    }
}

#[test]
fn an_abort_reaches_all() {
    let errors = on_ranks(3, |group| {
        if group.rank() == 2 {
            group.abort("the data set is gone");
        }
        group.barrier().unwrap_err().to_string()
    });
    for error in errors {
        assert_eq!(error, "rank 2 aborted the group: the data set is gone");
    }
}

/// A wrong argument on one rank: that rank is told what is wrong, the others who was wrong.
#[track_caller]
fn assert_refused(
    wrong: impl Fn(&ProcessGroup) -> Result<()> + Sync,
    right: impl Fn(&ProcessGroup) -> Result<()> + Sync,
    message: &str,
) {
    let errors = on_ranks(3, |group| {
        if group.rank() == 1 {
            wrong(&group)
        } else {
            right(&group)
        }
        .unwrap_err()
    });
    for (rank, error) in errors.iter().enumerate() {
        let text = error.to_string();
        assert!(text.contains(message), "{text}");
        if rank == 1 {
            assert!(
                matches!(error, Error::InvalidArgument { rank: 1, .. }),
                "{text}"
            );
        } else {
            let left = matches!(
                error,
                Error::PeerLeft {
                    peer: 1,
                    reason: Departure::Failed(_),
                    ..
                }
            );
            assert!(left, "{text}");
        }
    }
}

#[test]
fn a_wrong_argument_of_one_rank_is_an_error_on_all() {
    assert_refused(
        |group| group.broadcast(&mut [0_u8; 2], 3),
        |group| group.broadcast(&mut [0_u8; 2], 2),
        "there is no rank 3 in a group of 3",
    );
    assert_refused(
        |group| group.all_gather(&[0_u8; 2], &mut [0; 5]),
        |group| group.all_gather(&[0_u8; 2], &mut [0; 6]),
        "the output has 5 elements where 3 ranks with 2 each need 6",
    );
    assert_refused(
        |group| group.gather(&[0_u8; 2], None, 1),
        |group| group.gather(&[0_u8; 2], None, 1),
        "the root must give an output",
    );
    assert_refused(
        |group| group.scatter(Some(&[0_u8; 6]), &mut [0; 2], 0),
        |group| {
            let whole = [0_u8; 6];
            group.scatter((group.rank() == 0).then_some(&whole[..]), &mut [0; 2], 0)
        },
        "only the root has an input",
    );
    assert_refused(
        |group| group.reduce_scatter(&[0_u8; 7], &mut [0; 2], ReduceOp::Sum),
        |group| group.reduce_scatter(&[0_u8; 6], &mut [0; 2], ReduceOp::Sum),
        "the input has 7 elements",
    );
    assert_refused(
        |group| group.all_to_all(&[0_u8; 4], &mut [0; 4]),
        |group| group.all_to_all(&[0_u8; 3], &mut [0; 3]),
        "3 ranks can't share evenly",
    );
    assert_refused(
        |group| {
            group
                .reduce_scatter_async(vec![0_u8; 4], ReduceOp::Sum)
                .wait()
                .map(drop)
        },
        |group| {
            group
                .reduce_scatter_async(vec![0_u8; 3], ReduceOp::Sum)
                .wait()
                .map(drop)
        },
        "3 ranks can't share evenly",
    );
    assert_refused(
        |group| group.send(&[0_u8], 7, 0),
        |group| group.recv(&mut [0_u8], 1, 0),
        "there is no rank 7",
    );
}

#[test]
fn a_group_needs_a_rank() {
    let error = ProcessGroup::threads(0).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[test]
fn an_endless_timeout_does_not_overflow() {
    on_ranks(2, |group| {
        group.with_timeout(Duration::MAX).barrier().unwrap();
    });
}
