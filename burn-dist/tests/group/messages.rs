//! Point to point: tags, order, and mismatches.

use crate::support::mismatches::message_mismatch;
use crate::support::on_ranks;
use burn_dist::{AnyRank, Departure, Error, P2p, ReduceOp};

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

#[test]
fn a_receive_from_any_rank_takes_what_came_first() {
    on_ranks(3, |group| {
        if group.rank() > 0 {
            // Rank 2 sends after rank 1.
            if group.rank() == 2 {
                group.recv(&mut [0_u8], 1, 1).unwrap();
            }
            for number in 0..3 {
                group
                    .send(&[10 * group.rank() as i32 + number], 0, 0)
                    .unwrap();
            }
            group.send(&[0_u8], (group.rank() + 1) % 3, 1).unwrap();
            return;
        }
        group.recv(&mut [0_u8], 2, 1).unwrap();
        // The receives of one sender take from the same messages.
        assert_eq!(group.recv(vec![0_i32], 2, 0).unwrap(), [20]);
        let all: Vec<_> = (0..5)
            .map(|_| group.recv(vec![0_i32], AnyRank, 0).unwrap())
            .collect();
        let due = [(1, 10), (1, 11), (1, 12), (2, 21), (2, 22)];
        assert!(
            all.iter().map(|(from, word)| (*from, word[0])).eq(due),
            "{all:?}"
        );
        // Both have gone, and nothing is on its way.
        let error = group.recv(vec![0_i32], AnyRank, 0).unwrap_err();
        let left = matches!(
            error,
            Error::PeerLeft {
                peer: 1 | 2,
                reason: Departure::Returned,
                ..
            }
        );
        assert!(left, "{error}");
    });
}

#[test]
fn started_receives_keep_their_order_and_wait_for_nothing_else() {
    on_ranks(2, |group| {
        let (start, other) = (group.start(), 1 - group.rank());
        let first = start.recv(vec![0_i32], other, 0);
        let second = start.recv(vec![0_i32], AnyRank, 0);
        let dropped = start.recv(vec![0_i32], other, 0);
        assert!(!first.is_done());
        // A call of the group has not to wait for them.
        start.all_reduce(vec![1_i32], ReduceOp::Sum).wait().unwrap();
        drop(dropped);
        for number in [1, 2, 3] {
            start.send(vec![number], other, 0).wait().unwrap();
        }
        group.barrier().unwrap();
        assert!(second.is_done() && first.is_done());
        // Waited for in another order than they were posted in.
        assert_eq!(second.wait().unwrap(), (other, vec![2]));
        assert_eq!(first.wait().unwrap(), [1]);
        assert_eq!(group.recv(vec![0_i32], other, 0).unwrap(), [3]);
    });
}

#[test]
fn a_withdrawn_receive_gives_its_message_to_the_next() {
    on_ranks(2, |group| {
        let (start, other) = (group.start(), 1 - group.rank());
        let dropped = start.recv(vec![0_i32], other, 0);
        let next = start.recv(vec![0_i32], other, 0);
        group.send(&[7], other, 0).unwrap();
        group.barrier().unwrap();
        assert!(dropped.is_done() && !next.is_done());
        drop(dropped);
        assert_eq!(next.wait().unwrap(), [7]);
        // A receive is done too if its sender has left.
        group.barrier().unwrap();
    });
}

#[test]
fn a_batch_may_send_first_or_receive_first() {
    on_ranks(2, |group| {
        let (rank, other) = (group.rank(), 1 - group.rank());
        let large = vec![rank as f32; 300_000];
        let send = P2p::Send(large.clone(), other, 0);
        let receive = P2p::Recv(large, other, 0);
        let batch = if rank == 0 {
            [receive, send]
        } else {
            [send, receive]
        };
        let received = group.batch(batch).unwrap();
        assert_eq!(received, [vec![other as f32; 300_000]]);
    });
}
