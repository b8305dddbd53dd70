//! Every collective in every layout gives the bits of its definition, which are those of one process.

use std::time::Duration;

use half::f16;
use proptest::prelude::*;

use super::support::{OPS, Random, Reference, all_values, assert_same, on_groups, reduced, values};
use super::{job_on, on_job};
use crate::transport::tcp;
use crate::{ProcessGroup, ReduceOp};

/// How many ranks each process hosts.
const LAYOUTS: [&[usize]; 8] = [
    &[4],
    &[2, 2],
    &[1, 1, 1, 1],
    &[3, 1],
    &[1, 2, 3],
    &[4, 4],
    &[2, 2, 2, 2],
    &[1; 8],
];

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
        let work = group.all_reduce_async(inputs[rank].clone(), op);

        let kept = if rank == root {
            &expected
        } else {
            &inputs[rank]
        };
        let mut buffer = inputs[rank].clone();
        group.reduce(&mut buffer, op, root).unwrap();
        assert_same(&buffer, kept, &format!("reduce {what}"));
        assert_same(
            &work.wait().unwrap(),
            &expected,
            &format!("all_reduce_async {what}"),
        );

        let inputs = all_values::<T>(seed, ranks, length * ranks);
        let expected = reduced(&inputs, op);
        let part = &expected[rank * length..(rank + 1) * length];
        let mut output = values::<T>(!seed, 0, length);
        group
            .reduce_scatter(&inputs[rank], &mut output, op)
            .unwrap();
        assert_same(&output, part, &format!("reduce_scatter {what}"));
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

    let joined = inputs.concat();
    let mut output = junk(length * ranks);
    group.all_gather(&inputs[rank], &mut output).unwrap();
    assert_same(&output, &joined, &format!("all_gather {what}"));

    let mut output = (rank == root).then(|| junk(length * ranks));
    group
        .gather(&inputs[rank], output.as_deref_mut(), root)
        .unwrap();
    if let Some(output) = output {
        assert_same(&output, &joined, &format!("gather {what}"));
    }

    let whole = (rank == root).then_some(&joined[..]);
    let mut output = junk(length);
    group.scatter(whole, &mut output, root).unwrap();
    assert_same(&output, &inputs[rank], &format!("scatter {what}"));

    let sent = all_values::<T>(seed, ranks, length * ranks);
    let expected: Vec<T> = sent
        .iter()
        .flat_map(|all| all[rank * length..(rank + 1) * length].to_vec())
        .collect();
    let mut output = junk(length * ranks);
    group.all_to_all(&sent[rank], &mut output).unwrap();
    assert_same(&output, &expected, &format!("all_to_all {what}"));

    let next = (rank + 1) % ranks;
    let previous = (rank + ranks - 1) % ranks;
    let mut output = junk(length);
    group.send(&inputs[rank], next, seed).unwrap();
    group.recv(&mut output, previous, seed).unwrap();
    assert_same(&output, &inputs[previous], &format!("send and recv {what}"));

    let lengths: Vec<u8> = vec![rank as u8; rank + length % 7];
    let all = group.all_gather_bytes(&lengths).unwrap();
    for (peer, bytes) in all.iter().enumerate() {
        assert_eq!(
            *bytes,
            vec![peer as u8; peer + length % 7],
            "all_gather_bytes {what}"
        );
    }
    let bytes = (rank == root).then_some(&b"from the root"[..]);
    assert_eq!(
        group.broadcast_bytes(bytes, root).unwrap(),
        b"from the root"
    );
    group.barrier().unwrap();
}

#[test]
fn small_sizes_of_several_types_in_every_layout() {
    for layout in LAYOUTS {
        on_job(layout, |group| {
            for length in [0, 1, 7, 65, 1001] {
                let seed = 31 * layout.len() as u64 + length as u64;
                check_all::<f32>(&group, length, seed);
                check_all::<f64>(&group, length, seed);
                check_all::<f16>(&group, length, seed);
                check_all::<i64>(&group, length, seed);
                check_all::<u8>(&group, length, seed);
            }
        });
    }
}

#[test]
fn large_buffers_in_every_layout() {
    for layout in LAYOUTS {
        on_job(layout, |group| {
            check_reductions::<f32>(&group, 50_003, 1, &[ReduceOp::Sum, ReduceOp::Mean]);
            check_reductions::<f16>(&group, 50_003, 2, &[ReduceOp::Mean]);
            check_reductions::<u8>(&group, 50_003, 3, &[ReduceOp::Mean, ReduceOp::Max]);
            check_moves::<f32>(&group, 50_003, 4);
        });
    }
}

#[test]
fn sub_groups_lie_across_processes_in_any_order() {
    on_job(&[1, 2, 3], |group| {
        let rank = group.rank();
        // Ranks 5 3 1 and 0 2 4: every process is in both, and neither is in process order.
        let key = if rank % 2 == 1 { -(rank as i64) } else { 0 };
        let half = group.split(Some(rank as u64 % 2), key).unwrap().unwrap();
        let members: &[usize] = if rank % 2 == 1 {
            &[5, 3, 1]
        } else {
            &[0, 2, 4]
        };
        assert_eq!(half.ranks(), members);
        check_all::<f32>(&half, 100, 3);
        check_all::<f16>(&half, 3001, 4);
        // A group of another's ranks, a group of one, and a rank in none.
        let colour = [Some(0), Some(0), None][half.rank()];
        let pair = half.split(colour, 0).unwrap();
        assert_eq!(pair.is_none(), half.rank() == 2);
        if let Some(pair) = pair {
            check_all::<i64>(&pair, 10, 5);
        }
        let alone = group.split(Some(rank as u64), 0).unwrap().unwrap();
        check_all::<u8>(&alone, 10, 6);
        // Ranks 1 and 2, and 3 to 5, need no network.
        let process = [0, 1, 1, 2, 2, 2][rank];
        let local = group.split(Some(process), 0).unwrap().unwrap();
        assert!(local.core().meeting.is_local());
        check_all::<f32>(&local, 2000, 7);
        let twin = group.duplicate().unwrap();
        check_all::<f64>(&twin, 20, 8);
        check_all::<f32>(&group, 20, 9);
    });
}

#[test]
fn asynchronous_and_blocking_calls_follow_one_another() {
    on_job(&[2, 1, 1], |group| {
        let mut works = Vec::new();
        for step in 0..50_u64 {
            let input = values::<f32>(step, group.rank(), 4000);
            works.push((step, group.all_reduce_async(input, ReduceOp::Sum)));
            let mut now = values::<i32>(step, group.rank(), 9);
            group.all_reduce(&mut now, ReduceOp::Max).unwrap();
            assert_same(
                &now,
                &reduced(&all_values(step, 4, 9), ReduceOp::Max),
                "blocking",
            );
        }
        for (step, work) in works {
            let expected = reduced(&all_values::<f32>(step, 4, 4000), ReduceOp::Sum);
            assert_same(&work.wait().unwrap(), &expected, "asynchronous");
        }
    });
}

#[test]
fn messages_of_one_tag_keep_their_order_and_tags_are_apart() {
    on_job(&[1, 2], |group| {
        let (next, previous) = ((group.rank() + 1) % 3, (group.rank() + 2) % 3);
        for number in 0..10_i32 {
            group.send(&[number], next, 1).unwrap();
            group.send(&[f64::from(number), 0.5], next, 2).unwrap();
        }
        // Two threads of one rank wait for messages of one sender.
        std::thread::scope(|scope| {
            let other = group.clone();
            scope.spawn(move || {
                for expected in 0..10 {
                    let mut pair = [0.0; 2];
                    other.recv(&mut pair, previous, 2).unwrap();
                    assert_eq!(pair, [f64::from(expected), 0.5]);
                }
            });
            for expected in 0..10 {
                let mut number = [-1_i32];
                group.recv(&mut number, previous, 1).unwrap();
                assert_eq!(number, [expected]);
            }
        });
    });
}

#[test]
fn many_mixed_calls_in_one_order() {
    on_job(&[3, 1, 2], |group| {
        let mut random = Random(7);
        for step in 0..300_u64 {
            let length = random.below(40);
            match random.below(3) {
                0 => check_reductions::<f32>(&group, length, step, &[OPS[random.below(5)]]),
                1 => check_moves::<u8>(&group, length, step),
                _ => {
                    let colour = Some((group.rank() % 2) as u64);
                    let half = group.split(colour, 0).unwrap().unwrap();
                    check_reductions::<f64>(&half, length, step, &[ReduceOp::Sum]);
                }
            }
        }
    });
}

#[test]
fn the_same_over_tcp() {
    for layout in [&[1, 1][..], &[2, 2], &[1, 2, 3]] {
        let networks = tcp::tests::job(layout.len(), Duration::from_secs(30));
        on_groups(job_on(networks, layout), |group| {
            for length in [0, 7, 1001] {
                check_all::<f32>(&group, length, length as u64);
                check_all::<f16>(&group, length, length as u64);
            }
            check_reductions::<f32>(&group, 300_007, 1, &[ReduceOp::Sum, ReduceOp::Mean]);
            check_moves::<f32>(&group, 300_007, 4);
            // More sub-groups come and go than notices would be kept.
            for round in 0..100 {
                let half = group.split(Some((group.rank() % 2) as u64), 0).unwrap();
                check_reductions::<u8>(&half.unwrap(), 5, round, &[ReduceOp::Sum]);
            }
        });
    }
}

#[test]
fn groups_that_go_by_the_thousand_disturb_nobody() {
    let networks = tcp::tests::job(3, Duration::from_secs(30));
    on_groups(job_on(networks, &[2, 2, 2]), |group| {
        let twins: Vec<_> = (0..500).map(|_| group.duplicate().unwrap()).collect();
        // Every process is told of each, faster than it tells its own groups.
        drop(twins);
        check_reductions::<f32>(&group, 1001, 1, &[ReduceOp::Sum]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_layout_any_size_any_root(
        layout in prop::collection::vec(1_usize..4, 1..5),
        length in 0_usize..5000,
        seed: u64,
    ) {
        on_job(&layout, |group| {
            check_reductions::<f32>(&group, length, seed, &[ReduceOp::Sum, ReduceOp::Mean]);
            check_reductions::<u8>(&group, length, seed, &[ReduceOp::Min, ReduceOp::Mean]);
            check_moves::<f16>(&group, length, seed);
        });
    }
}
