//! Ranks of several processes that make different calls get one error, which says who made which.

use super::{LAYOUTS, on_job};
use crate::{ProcessGroup, ReduceOp, Result};

/// Runs one call per rank in each layout, the last rank's being `other`, and checks that the errors of
/// all are mismatches with these two sides.
#[track_caller]
fn assert_mismatch(
    usual: impl Fn(&ProcessGroup) -> Result<()> + Sync,
    other: impl Fn(&ProcessGroup) -> Result<()> + Sync,
    sides: [&str; 2],
) {
    for layout in LAYOUTS {
        let last = layout.iter().sum::<usize>() - 1;
        let errors = on_job(layout, |group| {
            // One call that all make alike, so that the sequence number counts.
            group.barrier().unwrap();
            let odd = group.rank() == last;
            let error = if odd { other(&group) } else { usual(&group) }.unwrap_err();
            let again = group.barrier().unwrap_err();
            assert_eq!(
                again.to_string(),
                error.to_string(),
                "a failed group stays failed"
            );
            error.to_string()
        });
        for text in errors {
            assert!(
                text.contains(&format!("rank {last} called {}", sides[1])),
                "{text}"
            );
            assert!(text.contains(&format!("called {}", sides[0])), "{text}");
            assert!(
                text.contains("every rank of a group must make the same calls"),
                "{text}"
            );
        }
    }
}

fn reduce_f32(length: usize, op: ReduceOp) -> impl Fn(&ProcessGroup) -> Result<()> {
    move |group| group.all_reduce(&mut vec![1.0_f32; length], op)
}

#[test]
fn another_operation_is_a_mismatch() {
    assert_mismatch(
        reduce_f32(8, ReduceOp::Sum),
        |group| group.broadcast(&mut [1.0_f32; 8], 1),
        ["all_reduce #1 f32[8] sum", "broadcast #1 f32[8] root 1"],
    );
    // Of two rounds and of one.
    assert_mismatch(
        reduce_f32(50_000, ReduceOp::Sum),
        ProcessGroup::barrier,
        ["all_reduce #1 f32[50000] sum", "barrier #1"],
    );
}

#[test]
fn another_shape_type_or_reduction_is_a_mismatch() {
    let usual = "all_reduce #1 f32[8] sum";
    assert_mismatch(
        reduce_f32(8, ReduceOp::Sum),
        reduce_f32(9, ReduceOp::Sum),
        [usual, "all_reduce #1 f32[9] sum"],
    );
    assert_mismatch(
        reduce_f32(8, ReduceOp::Sum),
        |group| group.all_reduce(&mut [1_i32; 8], ReduceOp::Sum),
        [usual, "all_reduce #1 i32[8] sum"],
    );
    assert_mismatch(
        reduce_f32(8, ReduceOp::Sum),
        reduce_f32(8, ReduceOp::Mean),
        [usual, "all_reduce #1 f32[8] mean"],
    );
}

#[test]
fn another_root_is_a_mismatch() {
    // Each side's root is its own, so that neither needs a byte of the other.
    assert_mismatch(
        |group| group.broadcast(&mut [0_u8; 4], 0),
        |group| group.broadcast(&mut [0_u8; 4], group.rank()),
        ["broadcast #1 u8[4] root 0", "broadcast #1 u8[4] root"],
    );
}

#[test]
fn another_order_is_a_mismatch() {
    let first = |group: &ProcessGroup| group.all_reduce(&mut [0_i64; 2], ReduceOp::Max);
    let second = |group: &ProcessGroup| group.all_reduce(&mut [0_i64; 3], ReduceOp::Max);
    assert_mismatch(
        |group| first(group).and_then(|()| second(group)),
        |group| second(group).and_then(|()| first(group)),
        ["all_reduce #1 i64[2] max", "all_reduce #1 i64[3] max"],
    );
}

#[test]
fn a_message_of_another_type_is_a_mismatch() {
    let errors = on_job(&[1, 1], |group| {
        if group.rank() == 0 {
            group.send(&[0_i32; 4], 1, 5).unwrap();
            return group.barrier().unwrap_err().to_string();
        }
        group.recv(&mut [0.0_f32; 4], 0, 5).unwrap_err().to_string()
    });
    for text in errors {
        let sides = "rank 1 called recv #0 f32[4] from rank 0 tag 5 while rank 0 called send #0 i32[4] \
                     to rank 1 tag 5";
        assert!(text.starts_with(sides), "{text}");
    }
}
