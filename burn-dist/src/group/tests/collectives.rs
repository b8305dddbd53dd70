//! Every collective in every layout gives the bits of its definition, which are those of one process.

use std::time::Duration;

use half::f16;
use proptest::prelude::*;

use super::support::collectives::{
    check_all, check_all_types, check_blocking_among_asynchronous, check_dropped_work, check_moves,
    check_reductions, check_shared_results, split_by_parity,
};
use super::support::program::check_program;
use super::support::{OPS, Random, on_groups};
use super::{job_on, on_job};
use crate::transport::tcp;
use crate::{ProcessGroup, ReduceOp};

/// Number of ranks that each process hosts.
const LAYOUTS: [&[usize]; 11] = [
    &[4],
    &[2, 2],
    &[1, 1, 1, 1],
    &[3, 1],
    &[1, 2, 3],
    &[4, 4],
    &[2, 2, 2, 2],
    &[1; 8],
    &[1; 5],
    &[2, 1, 1, 3, 1, 1],
    &[3; 5],
];

/// Checks the exchange of bytes of unequal lengths, which this crate's own modules use.
fn check_bytes(group: &ProcessGroup, length: usize, seed: u64) {
    let (rank, ranks) = (group.rank(), group.world_size());
    let root = seed as usize % ranks;
    let own = vec![rank as u8; rank + length % 7];
    let all = group.all_gather_bytes(&own).unwrap();
    for (peer, bytes) in all.iter().enumerate() {
        assert_eq!(
            *bytes,
            vec![peer as u8; peer + length % 7],
            "all_gather_bytes of {length} on rank {rank} of {ranks}"
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
                check_all_types(&group, length, seed);
                check_bytes(&group, length, seed);
                check_shared_results(&group, length, seed);
            }
        });
    }
}

#[test]
fn random_programs_in_every_layout() {
    for (layout, seed) in LAYOUTS[..5].iter().zip(0..) {
        on_job(layout, |group| check_program::<f32>(&group, seed, 40));
    }
}

#[test]
fn large_buffers_in_every_layout() {
    for layout in LAYOUTS {
        on_job(layout, |group| {
            check_reductions::<f32>(&group, 20_003, 1, &[ReduceOp::Sum, ReduceOp::Mean]);
            check_reductions::<f16>(&group, 20_003, 2, &[ReduceOp::Mean]);
            check_reductions::<u8>(&group, 20_003, 3, &[ReduceOp::Mean, ReduceOp::Max]);
            check_moves::<f32>(&group, 20_003, 4);
            check_bytes(&group, 20_003, 4);
            check_shared_results(&group, 20_003, 5);
        });
    }
}

#[test]
fn sub_groups_lie_across_processes_in_any_order() {
    on_job(&[1, 2, 3], |group| {
        let rank = group.rank();
        // Every process is in both, and neither is in process order.
        let half = split_by_parity(&group);
        check_all::<f32>(&half, 100, 3);
        check_all::<f16>(&half, 3001, 4);
        check_bytes(&half, 3001, 4);
        // A group of another's ranks, a group of one, and a rank in none.
        let colour = [Some(0), Some(0), None][half.rank()];
        let pair = half.split(colour, 0).unwrap();
        assert_eq!(pair.is_none(), half.rank() == 2);
        if let Some(pair) = pair {
            check_all::<i64>(&pair, 10, 5);
            check_bytes(&pair, 10, 5);
        }
        let alone = group.split(Some(rank as u64), 0).unwrap().unwrap();
        check_all::<u8>(&alone, 10, 6);
        check_bytes(&alone, 10, 6);
        // Ranks 1 and 2, and 3 to 5, need no network.
        let process = [0, 1, 1, 2, 2, 2][rank];
        let local = group.split(Some(process), 0).unwrap().unwrap();
        assert!(local.core().state.layout().is_local());
        check_all::<f32>(&local, 2000, 7);
        check_bytes(&local, 2000, 7);
        let twin = group.duplicate().unwrap();
        check_all::<f64>(&twin, 20, 8);
        check_bytes(&twin, 20, 8);
        check_all::<f32>(&group, 20, 9);
        check_bytes(&group, 20, 9);
    });
}

#[test]
fn asynchronous_and_blocking_calls_follow_one_another() {
    on_job(&[2, 1, 1], |group| {
        check_blocking_among_asynchronous(&group, 4000);
    });
}

#[test]
fn a_work_that_is_dropped_is_done_before_its_rank_leaves() {
    on_job(&[1, 2], check_dropped_work);
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
                1 => {
                    check_moves::<u8>(&group, length, step);
                    check_bytes(&group, length, step);
                }
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
                check_bytes(&group, length, length as u64);
            }
            check_reductions::<f32>(&group, 300_007, 1, &[ReduceOp::Sum, ReduceOp::Mean]);
            check_moves::<f32>(&group, 300_007, 4);
            check_bytes(&group, 300_007, 4);
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
            check_bytes(&group, length, seed);
        });
    }
}

/// Returns the address of the data of a tensor on the CPU backend.
fn address(tensor: burn::tensor::Tensor<1>) -> usize {
    use burn::backend::Flex;
    let primitive = tensor.try_into_primitive::<Flex>().unwrap();
    primitive.bytes().as_ptr() as usize
}

#[test]
fn the_ranks_of_a_process_get_one_memory_which_is_used_again() {
    use burn::tensor::{Device, Tensor};
    for layout in [&[3][..], &[2, 2]] {
        let found = on_job(layout, |group| {
            let input = Tensor::<1>::ones([20_000], &Device::flex());
            let reduce = || group.all_reduce(input.clone(), ReduceOp::Sum);
            let first = reduce().unwrap();
            let second = reduce().unwrap();
            let free = [address(first), address(second)];
            // Both are, once all have dropped them.
            group.barrier().unwrap();
            (free, address(reduce().unwrap()))
        });
        let mut ranks = found.into_iter();
        for &here in layout {
            let all: Vec<_> = ranks.by_ref().take(here).collect();
            assert!(all.iter().all(|one| *one == all[0]), "{layout:?}: {all:?}");
            let (free, third) = all[0];
            assert!(free.contains(&third) && free[0] != free[1], "{all:?}");
        }
    }
}
