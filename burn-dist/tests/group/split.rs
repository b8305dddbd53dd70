//! Sub-groups: who is in which, in what order, and what they know of one another.

use crate::support::collectives::split_by_parity;
use crate::support::on_ranks;
use burn_dist::{Error, ReduceOp};

#[test]
fn ranks_of_a_colour_form_a_group_ordered_by_key() {
    on_ranks(6, |group| {
        let (rank, half) = (group.rank(), split_by_parity(&group));
        let mut sum = [rank as i32];
        half.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        assert_eq!(sum[0], if rank % 2 == 1 { 9 } else { 6 });
        // The first group goes on as before.
        group.barrier().unwrap();
    });
}

#[test]
fn a_rank_without_a_colour_is_in_no_group() {
    on_ranks(4, |group| {
        let colour = (group.rank() != 2).then_some(u64::MAX);
        let rest = group.split(colour, 0).unwrap();
        assert_eq!(rest.is_none(), group.rank() == 2);
        if let Some(rest) = rest {
            assert_eq!(rest.ranks(), [0, 1, 3]);
            let mut from = [rest.rank() as u8];
            rest.broadcast(&mut from, 2).unwrap();
            assert_eq!(from, [2]);
        }
    });
}

#[test]
fn groups_split_from_groups_name_global_ranks() {
    on_ranks(8, |group| {
        let half = group
            .split(Some(group.rank() as u64 / 4), 0)
            .unwrap()
            .unwrap();
        let pair = half
            .split(Some(half.rank() as u64 / 2), 0)
            .unwrap()
            .unwrap();
        let first = group.rank() / 2 * 2;
        assert_eq!(pair.ranks(), [first, first + 1]);
        let mut sum = [group.rank()].map(|rank| rank as i64);
        pair.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        half.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        group.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        // Each of 28 was counted once per pair, half and whole it is in.
        assert_eq!(sum, [28 * 2 * 4]);
        if group.ranks()[group.rank()] == 7 {
            pair.abort("enough");
        }
        if pair.ranks().contains(&7) {
            let error = loop {
                if let Err(error) = pair.barrier() {
                    break error;
                }
            };
            assert!(matches!(error, Error::Aborted { rank: 7, .. }), "{error}");
        }
        // The failure of one group is not another's.
        half.barrier().unwrap();
        group.barrier().unwrap();
    });
}

#[test]
fn many_splits_at_different_calls_do_not_meet() {
    on_ranks(4, |group| {
        for round in 0..50_u64 {
            let colour = (group.rank() as u64 + round) % 3;
            let part = group.split(Some(colour), 0).unwrap().unwrap();
            let mut colours = vec![0_i64; part.world_size()];
            part.all_gather((&[colour as i64], &mut colours)).unwrap();
            assert!(colours.iter().all(|&other| other == colour as i64));
        }
    });
}
