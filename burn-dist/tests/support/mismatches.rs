//! Ranks that make different calls, and what the error of each must say, in one process or in several.

use burn_dist::{Element, Error, ProcessGroup, ReduceOp, Result, Uneven};

/// Calls of a rank.
pub(super) type Calls = Box<dyn Fn(&ProcessGroup) -> Result<()> + Sync>;

fn reduce_f32(length: usize, op: ReduceOp) -> impl Fn(&ProcessGroup) -> Result<()> + Sync {
    move |group| group.all_reduce(&mut vec![1.0_f32; length], op)
}

/// A rank of a group, the last unless a test says otherwise, calls something else than the others.
pub(crate) struct Mismatch {
    usual: Calls,
    other: Calls,
    /// Names of the two calls in errors.
    pub(crate) sides: [String; 2],
}

impl Mismatch {
    fn new(
        usual: impl Fn(&ProcessGroup) -> Result<()> + Sync + 'static,
        other: impl Fn(&ProcessGroup) -> Result<()> + Sync + 'static,
        sides: [&str; 2],
    ) -> Self {
        Self {
            usual: Box::new(usual),
            other: Box::new(other),
            sides: sides.map(str::to_owned),
        }
    }

    /// Makes the calls of one that differs, or of the others.
    pub(crate) fn call(&self, group: &ProcessGroup, differs: bool) -> Result<()> {
        let made = if differs { &self.other } else { &self.usual };
        made(group)
    }

    /// Makes the calls of a rank. Returns its error, after which its group has no other.
    pub(crate) fn run(&self, group: &ProcessGroup) -> Error {
        // One call that all make alike, so that the sequence number counts.
        group.barrier().unwrap();
        let last = group.rank() + 1 == group.world_size();
        let error = self.call(group, last).unwrap_err();
        let text = error.to_string();
        let again = group.barrier().unwrap_err();
        assert_eq!(again.to_string(), text, "a failed group stays failed");
        let later = group.start().all_gather(vec![1_u8]).wait().unwrap_err();
        assert_eq!(later.to_string(), text, "for asynchronous calls too");
        error
    }

    /// Every rank's error must be a mismatch with these two sides, whichever came first.
    #[track_caller]
    pub(crate) fn check(&self, errors: &[Error]) {
        let last = errors.len() - 1;
        let [usual, other] = &self.sides;
        for error in errors {
            let text = error.to_string();
            assert!(matches!(error, Error::Mismatch { .. }), "{text}");
            for part in [
                &*format!("rank {last} called {other}"),
                &*format!("called {usual}"),
                "every rank of a group must make the same calls",
            ] {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}

pub(crate) fn another_operation() -> Mismatch {
    Mismatch::new(
        reduce_f32(8, ReduceOp::Sum),
        |group| group.broadcast(&mut [1.0_f32; 8], 1),
        ["all_reduce #1 f32[8] sum", "broadcast #1 f32[8] root 1"],
    )
}

/// Between processes, an all-reduce of several rounds and an operation of one.
pub(crate) fn other_rounds() -> Mismatch {
    Mismatch::new(
        reduce_f32(50_000, ReduceOp::Sum),
        ProcessGroup::barrier,
        ["all_reduce #1 f32[50000] sum", "barrier #1"],
    )
}

pub(crate) fn another_shape() -> Mismatch {
    Mismatch::new(
        reduce_f32(8, ReduceOp::Sum),
        reduce_f32(9, ReduceOp::Sum),
        ["all_reduce #1 f32[8] sum", "all_reduce #1 f32[9] sum"],
    )
}

pub(crate) fn another_type() -> Mismatch {
    Mismatch::new(
        reduce_f32(8, ReduceOp::Sum),
        |group| group.all_reduce(&mut [1_i32; 8], ReduceOp::Sum),
        ["all_reduce #1 f32[8] sum", "all_reduce #1 i32[8] sum"],
    )
}

pub(crate) fn another_reduction() -> Mismatch {
    Mismatch::new(
        reduce_f32(8, ReduceOp::Sum),
        reduce_f32(8, ReduceOp::Mean),
        ["all_reduce #1 f32[8] sum", "all_reduce #1 f32[8] mean"],
    )
}

/// Makes `root` the rank that differs: each side's root is its own, and neither needs a byte of the other.
pub(crate) fn another_root(root: usize) -> Mismatch {
    Mismatch::new(
        |group| group.broadcast(&mut [0_u8; 4], 0),
        move |group| group.broadcast(&mut [0_u8; 4], root),
        [
            "broadcast #1 u8[4] root 0",
            &format!("broadcast #1 u8[4] root {root}"),
        ],
    )
}

/// The same for more bytes, which between processes take another way.
pub(crate) fn another_root_of_many(root: usize) -> Mismatch {
    Mismatch::new(
        |group| group.broadcast(&mut vec![0_u8; 100_000], 0),
        move |group| group.broadcast(&mut vec![0_u8; 100_000], root),
        [
            "broadcast #1 u8[100000] root 0",
            &format!("broadcast #1 u8[100000] root {root}"),
        ],
    )
}

/// Equal and unequal lengths, of which each looks like the other to a rank alone.
pub(crate) fn another_form() -> Mismatch {
    Mismatch::new(
        |group| group.all_gather(vec![1.0_f32; 3]).map(drop),
        |group| group.all_gather(Uneven(vec![1.0_f32; 3])).map(drop),
        ["all_gather #1 f32[3]", "all_gather(Uneven) #1 f32"],
    )
}

/// Values for this root or for all.
pub(crate) fn another_object(root: usize) -> Mismatch {
    Mismatch::new(
        |group| group.objects().gather(&7_u8, 0).map(drop),
        move |group| group.objects().gather(&7_u8, root).map(drop),
        [
            "gather_object #1 u8 root 0",
            &format!("gather_object #1 u8 root {root}"),
        ],
    )
}

pub(crate) fn another_order() -> Mismatch {
    let first = |group: &ProcessGroup| group.all_reduce(&mut [0_i64; 2], ReduceOp::Max);
    let second = |group: &ProcessGroup| group.all_reduce(&mut [0_i64; 3], ReduceOp::Max);
    Mismatch::new(
        move |group| first(group).and_then(|()| second(group)),
        move |group| second(group).and_then(|()| first(group)),
        ["all_reduce #1 i64[2] max", "all_reduce #1 i64[3] max"],
    )
}

/// Rank 0 of two sends rank 1 a message, of another type or length than the f32\[4\] it wants.
pub(crate) fn message_mismatch<T: Element>(group: &ProcessGroup, sent: &[T]) {
    let error = if group.rank() == 0 {
        group.send(sent, 1, 5).unwrap();
        group.barrier().unwrap_err()
    } else {
        group.recv(&mut [0.0_f32; 4], 0, 5).unwrap_err()
    };
    let text = error.to_string();
    let named = matches!(
        error,
        Error::Mismatch {
            rank: 1,
            peer: 0,
            ..
        }
    );
    assert!(named, "{text}");
    let sides = format!(
        "rank 1 called recv #0 f32[4] from rank 0 tag 5 while rank 0 called send #0 {}[{}] to rank 1 \
         tag 5",
        T::NAME,
        sent.len()
    );
    assert!(text.starts_with(&sides), "{text}");
}

/// All ranks must have the same error, to the letter.
#[track_caller]
pub(crate) fn check_one_story(errors: &[Error]) {
    for error in errors {
        assert_eq!(
            error.to_string(),
            errors[0].to_string(),
            "all ranks tell the same story"
        );
    }
}
