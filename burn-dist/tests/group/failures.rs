//! What goes wrong is an error on every rank, at once, and says who did what.
//!
//! Groups have their default timeout of 5 minutes unless a test is about timeouts: a test that ends at
//! all shows that nobody waited for it.

use std::time::Duration;

use crate::support::failures::{
    abort_a_twin, check_stayed_away, go_early, panic_in_rank_2, refusals, return_together,
    send_too_little, stay_away, wait_for_a_silent_sender,
};
use crate::support::mismatches::{self, Mismatch, check_one_story};
use crate::support::on_ranks;
use burn_dist::{Error, ProcessGroup, ReduceOp};

/// Ranks of one process, of which the last makes other calls, must all have the one error.
#[track_caller]
fn check(ranks: usize, mismatch: &Mismatch) {
    let errors = on_ranks(ranks, |group| mismatch.run(&group));
    mismatch.check(&errors);
    check_one_story(&errors);
}

#[test]
fn another_operation_is_a_mismatch() {
    check(3, &mismatches::another_operation());
    check(3, &mismatches::other_rounds());
}

#[test]
fn another_shape_is_a_mismatch() {
    check(4, &mismatches::another_shape());
}

#[test]
fn another_type_is_a_mismatch() {
    check(2, &mismatches::another_type());
}

#[test]
fn another_reduction_is_a_mismatch() {
    check(8, &mismatches::another_reduction());
}

#[test]
fn another_root_is_a_mismatch() {
    check(3, &mismatches::another_root(2));
}

#[test]
fn another_order_is_a_mismatch() {
    check(3, &mismatches::another_order());
}

#[test]
fn a_mismatch_of_asynchronous_calls_reaches_every_work() {
    let texts = on_ranks(3, |group| {
        let length = if group.rank() == 1 { 5 } else { 4 };
        let works: Vec<_> = (0..3)
            .map(|_| {
                group
                    .start()
                    .all_reduce(vec![0.0_f64; length], ReduceOp::Sum)
            })
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
    let errors = on_ranks(4, |group| stay_away(&group, &[1, 3], 3));
    check_stayed_away(&errors, &[1, 3], 3);
    check_one_story(&errors);
}

#[test]
fn a_receiver_times_out_on_a_silent_sender() {
    on_ranks(2, |group| wait_for_a_silent_sender(&group));
}

#[test]
fn a_rank_that_goes_early_is_an_error_for_those_who_need_it() {
    on_ranks(3, |group| go_early(&group));
}

#[test]
fn a_receiver_learns_at_once_that_its_sender_has_gone() {
    on_ranks(3, |group| send_too_little(&group));
}

#[test]
fn a_panic_is_told_to_the_others() {
    on_ranks(3, panic_in_rank_2);
}

#[test]
fn ranks_that_all_return_are_no_error() {
    for _ in 0..100 {
        on_ranks(4, |group| return_together(&group));
    }
}

#[test]
fn an_abort_reaches_all_and_only_its_group() {
    on_ranks(3, |group| abort_a_twin(&group));
}

#[test]
fn a_wrong_argument_of_one_rank_is_an_error_on_all() {
    for refused in refusals(3) {
        on_ranks(3, |group| refused.run(&group));
    }
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
