//! Point to point: tags, order, and mismatches.

use crate::support::mismatches::message_mismatch;
use crate::support::on_ranks;
use burn_dist::ReduceOp;

#[test]
fn messages_of_one_tag_keep_their_order_and_tags_are_apart() {
    on_ranks(3, |group| {
        let next = (group.rank() + 1) % 3;
        let previous = (group.rank() + 2) % 3;
        for number in 0..10_i32 {
            group.send(&[number], next, 1).unwrap();
            group.send(&[f64::from(number), 0.5], next, 2).unwrap();
        }
        let mut pair = [0.0; 2];
        group.recv(&mut pair, previous, 2).unwrap();
        assert_eq!(pair, [0.0, 0.5]);
        for expected in 0..10 {
            let mut number = [-1_i32];
            group.recv(&mut number, previous, 1).unwrap();
            assert_eq!(number, [expected]);
        }
        for expected in 1..10 {
            group.recv(&mut pair, previous, 2).unwrap();
            assert_eq!(pair, [f64::from(expected), 0.5]);
        }
    });
}

#[test]
fn a_rank_may_write_to_itself_and_send_nothing() {
    on_ranks(2, |group| {
        group.send(&[7_u8], group.rank(), 0).unwrap();
        let mut word = [0_u8];
        group.recv(&mut word, group.rank(), 0).unwrap();
        assert_eq!(word, [7]);
        group.send(&[0.0_f32; 0], 1 - group.rank(), 0).unwrap();
        group.recv(&mut [0.0_f32; 0], 1 - group.rank(), 0).unwrap();
    });
}

#[test]
fn messages_do_not_count_in_the_order_of_collectives() {
    on_ranks(3, |group| {
        if group.rank() == 0 {
            group.send(&[1_u8], 1, 0).unwrap();
        } else if group.rank() == 1 {
            group.recv(&mut [0_u8], 0, 0).unwrap();
        }
        group.all_reduce(&mut [0_u8], ReduceOp::Sum).unwrap();
    });
}

#[test]
fn a_message_of_another_type_or_length_names_both_sides() {
    on_ranks(2, |group| message_mismatch(&group, &[0.0_f32; 3]));
    on_ranks(2, |group| message_mismatch(&group, &[0_i32; 4]));
}
