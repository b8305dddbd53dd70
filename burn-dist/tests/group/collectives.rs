//! Every collective against its definition: all types, operations and sizes, 1 to 8 ranks, blocking and
//! asynchronous. Results are compared bit by bit, because the order of a reduction is part of its
//! definition.

use crate::support::collectives::{
    check_all_types, check_blocking_among_asynchronous, check_dropped_work, check_moves,
    check_reductions,
};
use crate::support::program::check_program;
use crate::support::{OPS, on_ranks};
use burn_dist::{ProcessGroup, ReduceOp};
use half::{bf16, f16};
use proptest::prelude::*;

#[test]
fn random_programs_on_1_to_4_ranks() {
    for seed in 0..12 {
        on_ranks(1 + seed as usize % 4, |group| {
            check_program::<f32>(&group, seed, 40);
            check_program::<i64>(&group, !seed, 40);
        });
    }
}

#[test]
fn all_types_operations_and_small_sizes_on_1_to_8_ranks() {
    for ranks in 1..=8 {
        on_ranks(ranks, |group| {
            // Around a cache line of each type, and around a block of the narrowest.
            for length in [0, 1, 2, 7, 63, 64, 65, 1001] {
                check_all_types(&group, length, 31 * ranks as u64 + length as u64);
            }
        });
    }
}

#[test]
fn large_buffers_on_1_to_8_ranks() {
    for ranks in 1..=8 {
        on_ranks(ranks, |group| {
            let seed = ranks as u64;
            check_reductions::<f32>(&group, 100_003, seed, &[ReduceOp::Sum, ReduceOp::Mean]);
        });
    }
    for ranks in [2, 3] {
        on_ranks(ranks, |group| {
            check_reductions::<f16>(&group, 100_003, 1, &[ReduceOp::Mean, ReduceOp::Sum]);
            check_reductions::<i64>(&group, 100_003, 2, &[ReduceOp::Mean, ReduceOp::Max]);
            check_reductions::<u8>(&group, 100_003, 3, &OPS);
            check_moves::<f64>(&group, 100_003, 4);
        });
    }
}

#[test]
fn a_nan_and_a_signed_zero_come_through_min_and_max() {
    on_ranks(5, |group| {
        for odd_one in 0..5 {
            let mine = if group.rank() == odd_one {
                f32::NAN
            } else {
                group.rank() as f32
            };
            for op in [ReduceOp::Min, ReduceOp::Max] {
                let mut buffer = [mine];
                group.all_reduce(&mut buffer, op).unwrap();
                assert!(buffer[0].is_nan(), "{op:?}");
            }
        }
        let mut buffer = [if group.rank() == 0 { -0.0_f32 } else { 0.0 }];
        group.all_reduce(&mut buffer, ReduceOp::Max).unwrap();
        assert!(
            buffer[0].is_sign_negative(),
            "the lower rank's of two equal values"
        );
    });
}

#[test]
fn a_mean_keeps_the_range_and_the_precision_of_its_type() {
    on_ranks(4, |group| {
        let mut bytes = [255_u8, 1 + group.rank() as u8];
        group.all_reduce(&mut bytes, ReduceOp::Mean).unwrap();
        assert_eq!(bytes, [255, 2]);
        let mut long = [i64::MIN, i64::MAX];
        group.all_reduce(&mut long, ReduceOp::Mean).unwrap();
        assert_eq!(long, [i64::MIN, i64::MAX]);
        let mut half = [f16::MAX];
        group.all_reduce(&mut half, ReduceOp::Mean).unwrap();
        assert_eq!(half, [f16::MAX]);
    });
}

#[test]
fn blocking_and_asynchronous_calls_may_follow_one_another() {
    on_ranks(3, |group| check_blocking_among_asynchronous(&group, 40));
}

#[test]
fn dropping_a_work_does_not_cancel_it() {
    on_ranks(2, check_dropped_work);
}

#[test]
fn a_work_says_when_it_is_done() {
    on_ranks(2, |group| {
        if group.rank() == 1 {
            let mut go = [0_u8];
            group.recv(&mut go, 0, 0).unwrap();
            group.barrier().unwrap();
            return;
        }
        let work = group.start().barrier();
        assert!(!work.is_done(), "rank 1 comes only when it is told to");
        group.send(&[1_u8], 1, 0).unwrap();
        while !work.is_done() {
            std::thread::yield_now();
        }
        work.wait().unwrap();
    });
}

#[test]
fn a_group_of_one_answers_itself() {
    let group = ProcessGroup::single();
    assert_eq!(
        (group.rank(), group.world_size(), group.ranks()),
        (0, 1, &[0][..])
    );
    check_all_types(&group, 100, 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_size_any_ranks_any_root(ranks in 1_usize..9, length in 0_usize..3000, seed: u64) {
        on_ranks(ranks, |group| {
            check_reductions::<f32>(&group, length, seed, &[ReduceOp::Sum, ReduceOp::Mean]);
            check_reductions::<u8>(&group, length, seed, &[ReduceOp::Min]);
            check_moves::<bf16>(&group, length, seed);
        });
    }
}
