//! Many small operations of all kinds in a random order, the same on all ranks, blocking and not.

use crate::support::{OPS, Random, all_values, assert_same, on_ranks, reduced, values};
use burn_dist::{ProcessGroup, ReduceOp, Work};

const STEPS: u64 = 2000;

/// An asynchronous operation under way, with what must come of it.
type Pending = (Work<Vec<f32>>, Vec<f32>);

fn blocking_step(group: &ProcessGroup, step: u64, kind: usize, length: usize, op: ReduceOp) {
    let (rank, ranks) = (group.rank(), group.world_size());
    let root = step as usize % ranks;
    let inputs = all_values::<i32>(step, ranks, length);
    match kind {
        0 => {
            let mut buffer = inputs[rank].clone();
            group.all_reduce(&mut buffer, op).unwrap();
            assert_same(&buffer, &reduced(&inputs, op), "all_reduce");
        }
        1 => {
            let mut buffer = inputs[rank].clone();
            group.broadcast(&mut buffer, root).unwrap();
            assert_same(&buffer, &inputs[root], "broadcast");
        }
        2 => {
            let mut output = vec![0; length * ranks];
            group.all_gather((&inputs[rank], &mut output)).unwrap();
            assert_same(&output, &inputs.concat(), "all_gather");
        }
        3 => {
            let (to, from) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
            let mut buffer = vec![0; length];
            group.send(&inputs[rank], to, step % 3).unwrap();
            group.recv(&mut buffer, from, step % 3).unwrap();
            assert_same(&buffer, &inputs[from], "send and recv");
        }
        4 => {
            let half = group.split(Some((rank % 2) as u64), 0).unwrap().unwrap();
            let mut buffer = vec![rank as i32];
            half.all_reduce(&mut buffer, ReduceOp::Min).unwrap();
            assert_eq!(buffer, [rank as i32 % 2]);
        }
        _ => group.barrier().unwrap(),
    }
}

#[test]
fn eight_ranks_make_thousands_of_mixed_calls() {
    on_ranks(8, |group| {
        // The same on all ranks.
        let mut random = Random(42);
        let mut pending: Vec<Pending> = Vec::new();
        for step in 0..STEPS {
            let (kind, length) = (random.below(10), random.below(50));
            let op = OPS[random.below(OPS.len())];
            if kind < 6 {
                blocking_step(&group, step, kind, length, op);
            } else {
                let input = values::<f32>(step, group.rank(), length);
                let expected = reduced(&all_values(step, 8, length), op);
                pending.push((group.start().all_reduce(input, op), expected));
            }
            if random.below(20) == 0 {
                for (work, expected) in pending.drain(..) {
                    assert_same(&work.wait().unwrap(), &expected, "all_reduce_async");
                }
            }
        }
        for (work, expected) in pending {
            assert_same(&work.wait().unwrap(), &expected, "all_reduce_async");
        }
    });
}

#[test]
fn groups_come_and_go() {
    for round in 0..200 {
        on_ranks(4, |group| {
            // Works are dropped, and handles go in whatever order the threads end.
            drop(
                group
                    .start()
                    .all_reduce(vec![round as f32; 100], ReduceOp::Sum),
            );
            drop(group.start().broadcast(vec![round], 0));
            group.barrier().unwrap();
        });
    }
}
