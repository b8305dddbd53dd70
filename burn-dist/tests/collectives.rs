//! Every collective against its definition: all types, operations and sizes, 1 to 8 ranks, blocking and
//! asynchronous. Results are compared bit by bit, because the order of a reduction is part of its
//! definition.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::float_cmp, reason = "results are exact")]

mod support;

use burn_dist::{ProcessGroup, ReduceOp};
use half::{bf16, f16};
use proptest::prelude::*;
use support::{OPS, Reference, all_values, assert_same, on_ranks, reduced, values};

/// Runs all collectives on one group with inputs of `length` elements a rank.
fn check_all<T: Reference>(group: &ProcessGroup, length: usize, seed: u64) {
    check_reductions::<T>(group, length, seed, &OPS);
    check_moves::<T>(group, length, seed);
}

fn check_reductions<T: Reference>(
    group: &ProcessGroup,
    length: usize,
    seed: u64,
    ops: &[ReduceOp],
) {
    let (rank, ranks) = (group.rank(), group.world_size());
    let root = seed as usize % ranks;
    for &op in ops {
        let what = format!("{} {op:?} of {length} on rank {rank} of {ranks}", T::NAME);
        let inputs = all_values::<T>(seed, ranks, length);
        let expected = reduced(&inputs, op);

        let mut buffer = inputs[rank].clone();
        group.all_reduce(&mut buffer, op).unwrap();
        assert_same(&buffer, &expected, &format!("all_reduce {what}"));
        let buffer = group
            .all_reduce_async(inputs[rank].clone(), op)
            .wait()
            .unwrap();
        assert_same(&buffer, &expected, &format!("all_reduce_async {what}"));

        let kept = if rank == root {
            &expected
        } else {
            &inputs[rank]
        };
        let mut buffer = inputs[rank].clone();
        group.reduce(&mut buffer, op, root).unwrap();
        assert_same(&buffer, kept, &format!("reduce {what}"));
        let buffer = group
            .reduce_async(inputs[rank].clone(), op, root)
            .wait()
            .unwrap();
        assert_same(&buffer, kept, &format!("reduce_async {what}"));

        let inputs = all_values::<T>(seed, ranks, length * ranks);
        let expected = reduced(&inputs, op);
        let part = &expected[rank * length..(rank + 1) * length];
        let mut output = values::<T>(!seed, 0, length);
        group
            .reduce_scatter(&inputs[rank], &mut output, op)
            .unwrap();
        assert_same(&output, part, &format!("reduce_scatter {what}"));
        let output = group
            .reduce_scatter_async(inputs[rank].clone(), op)
            .wait()
            .unwrap();
        assert_same(&output, part, &format!("reduce_scatter_async {what}"));
    }
}

fn check_moves<T: Reference>(group: &ProcessGroup, length: usize, seed: u64) {
    let (rank, ranks) = (group.rank(), group.world_size());
    let root = seed as usize % ranks;
    let inputs = all_values::<T>(seed, ranks, length);
    let what = format!("{} of {length} on rank {rank} of {ranks}", T::NAME);
    let junk = |length| values::<T>(!seed, 0, length);

    let mut buffer = inputs[rank].clone();
    group.broadcast(&mut buffer, root).unwrap();
    assert_same(&buffer, &inputs[root], &format!("broadcast {what}"));
    let buffer = group
        .broadcast_async(inputs[rank].clone(), root)
        .wait()
        .unwrap();
    assert_same(&buffer, &inputs[root], &format!("broadcast_async {what}"));

    let joined = inputs.concat();
    let mut output = junk(length * ranks);
    group.all_gather(&inputs[rank], &mut output).unwrap();
    assert_same(&output, &joined, &format!("all_gather {what}"));
    let output = group.all_gather_async(inputs[rank].clone()).wait().unwrap();
    assert_same(&output, &joined, &format!("all_gather_async {what}"));

    let mut output = (rank == root).then(|| junk(length * ranks));
    group
        .gather(&inputs[rank], output.as_deref_mut(), root)
        .unwrap();
    let again = group
        .gather_async(inputs[rank].clone(), root)
        .wait()
        .unwrap();
    assert_eq!(
        (output.is_some(), again.is_some()),
        (rank == root, rank == root)
    );
    for output in [output, again].into_iter().flatten() {
        assert_same(&output, &joined, &format!("gather {what}"));
    }

    let whole = (rank == root).then(|| joined.clone());
    let mut output = junk(length);
    group.scatter(whole.as_deref(), &mut output, root).unwrap();
    assert_same(&output, &inputs[rank], &format!("scatter {what}"));
    let output = group.scatter_async(whole, length, root).wait().unwrap();
    assert_same(&output, &inputs[rank], &format!("scatter_async {what}"));

    let sent = all_values::<T>(seed, ranks, length * ranks);
    let expected: Vec<T> = sent
        .iter()
        .flat_map(|all| all[rank * length..(rank + 1) * length].to_vec())
        .collect();
    let mut output = junk(length * ranks);
    group.all_to_all(&sent[rank], &mut output).unwrap();
    assert_same(&output, &expected, &format!("all_to_all {what}"));
    let output = group.all_to_all_async(sent[rank].clone()).wait().unwrap();
    assert_same(&output, &expected, &format!("all_to_all_async {what}"));

    group.barrier().unwrap();
    group.barrier_async().wait().unwrap();
}

fn check_all_types(group: &ProcessGroup, length: usize, seed: u64) {
    check_all::<f32>(group, length, seed);
    check_all::<f64>(group, length, seed);
    check_all::<f16>(group, length, seed);
    check_all::<bf16>(group, length, seed);
    check_all::<i32>(group, length, seed);
    check_all::<i64>(group, length, seed);
    check_all::<u8>(group, length, seed);
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
    on_ranks(3, |group| {
        let mut works = Vec::new();
        for step in 0..50_u64 {
            let input = values::<f32>(step, group.rank(), 40);
            works.push((step, group.all_reduce_async(input, ReduceOp::Sum)));
            let mut now = values::<i32>(step, group.rank(), 9);
            group.all_reduce(&mut now, ReduceOp::Max).unwrap();
            assert_same(
                &now,
                &reduced(&all_values(step, 3, 9), ReduceOp::Max),
                "blocking",
            );
        }
        for (step, work) in works {
            let expected = reduced(&all_values::<f32>(step, 3, 40), ReduceOp::Sum);
            assert_same(&work.wait().unwrap(), &expected, "asynchronous");
        }
    });
}

#[test]
fn dropping_a_work_does_not_cancel_it() {
    on_ranks(2, |group| {
        if group.rank() == 0 {
            drop(group.all_reduce_async(vec![1.0_f32], ReduceOp::Sum));
            // The last handle goes too, and takes the operation to its end.
            drop(group);
        } else {
            let sum = group
                .all_reduce_async(vec![2.0_f32], ReduceOp::Sum)
                .wait()
                .unwrap();
            assert_eq!(sum, [3.0]);
        }
    });
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
        let work = group.barrier_async();
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
