//! What every collective must give on any group, in one process or in several. Results are compared
//! bit by bit, because the order of a reduction is part of its definition.

use burn::tensor::{Device, Tensor, TensorData};
use burn_dist::{ProcessGroup, ReduceOp};
use half::{bf16, f16};

use super::{OPS, Reference, all_values, assert_same, reduced, values};

/// Runs all collectives of all types on one group.
pub(crate) fn check_all_types(group: &ProcessGroup, length: usize, seed: u64) {
    check_all::<f32>(group, length, seed);
    check_all::<f64>(group, length, seed);
    check_all::<f16>(group, length, seed);
    check_all::<bf16>(group, length, seed);
    check_all::<i32>(group, length, seed);
    check_all::<i64>(group, length, seed);
    check_all::<u8>(group, length, seed);
}

/// Runs all collectives on one group with inputs of `length` elements a rank.
pub(crate) fn check_all<T: Reference>(group: &ProcessGroup, length: usize, seed: u64) {
    check_reductions::<T>(group, length, seed, &OPS);
    check_moves::<T>(group, length, seed);
}

/// Runs the collectives that compute, blocking and asynchronous.
pub(crate) fn check_reductions<T: Reference>(
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
        // Is on its way while the next goes on; the others are waited for at once.
        let work = group.start().all_reduce(inputs[rank].clone(), op);

        let kept = if rank == root {
            &expected
        } else {
            &inputs[rank]
        };
        let mut buffer = inputs[rank].clone();
        group.reduce(&mut buffer, op, root).unwrap();
        assert_same(&buffer, kept, &format!("reduce {what}"));
        let buffer = work.wait().unwrap();
        assert_same(&buffer, &expected, &format!("all_reduce_async {what}"));
        let work = group.start().reduce(inputs[rank].clone(), op, root);
        let buffer = work.wait().unwrap();
        assert_same(&buffer, kept, &format!("reduce_async {what}"));

        let inputs = all_values::<T>(seed, ranks, length * ranks);
        let expected = reduced(&inputs, op);
        let part = &expected[rank * length..(rank + 1) * length];
        let mut output = values::<T>(!seed, 0, length);
        group
            .reduce_scatter((&inputs[rank], &mut output), op)
            .unwrap();
        assert_same(&output, part, &format!("reduce_scatter {what}"));
        let work = group.start().reduce_scatter(inputs[rank].clone(), op);
        let output = work.wait().unwrap();
        assert_same(&output, part, &format!("reduce_scatter_async {what}"));
    }
}

/// Runs the collectives that only move elements, blocking and asynchronous, and messages in a ring.
pub(crate) fn check_moves<T: Reference>(group: &ProcessGroup, length: usize, seed: u64) {
    let (rank, ranks) = (group.rank(), group.world_size());
    let root = seed as usize % ranks;
    let inputs = all_values::<T>(seed, ranks, length);
    let what = format!("{} of {length} on rank {rank} of {ranks}", T::NAME);
    let junk = |length| values::<T>(!seed, 0, length);

    let mut buffer = inputs[rank].clone();
    group.broadcast(&mut buffer, root).unwrap();
    assert_same(&buffer, &inputs[root], &format!("broadcast {what}"));
    let work = group.start().broadcast(inputs[rank].clone(), root);
    let buffer = work.wait().unwrap();
    assert_same(&buffer, &inputs[root], &format!("broadcast_async {what}"));

    let joined = inputs.concat();
    let mut output = junk(length * ranks);
    group.all_gather((&inputs[rank], &mut output)).unwrap();
    assert_same(&output, &joined, &format!("all_gather {what}"));
    let output = group
        .start()
        .all_gather(inputs[rank].clone())
        .wait()
        .unwrap();
    assert_same(&output, &joined, &format!("all_gather_async {what}"));

    let mut output = (rank == root).then(|| junk(length * ranks));
    group
        .gather((&inputs[rank], output.as_deref_mut()), root)
        .unwrap();
    let work = group.start().gather(inputs[rank].clone(), root);
    let again = work.wait().unwrap();
    assert_eq!(
        (output.is_some(), again.is_some()),
        (rank == root, rank == root)
    );
    for output in [output, again].into_iter().flatten() {
        assert_same(&output, &joined, &format!("gather {what}"));
    }

    let whole = (rank == root).then(|| joined.clone());
    let mut output = junk(length);
    group
        .scatter((whole.as_deref(), &mut output), root)
        .unwrap();
    assert_same(&output, &inputs[rank], &format!("scatter {what}"));
    let output = group.start().scatter((whole, length), root).wait().unwrap();
    assert_same(&output, &inputs[rank], &format!("scatter_async {what}"));

    let sent = all_values::<T>(seed, ranks, length * ranks);
    let expected: Vec<T> = sent
        .iter()
        .flat_map(|all| all[rank * length..(rank + 1) * length].to_vec())
        .collect();
    let mut output = junk(length * ranks);
    group.all_to_all((&sent[rank], &mut output)).unwrap();
    assert_same(&output, &expected, &format!("all_to_all {what}"));
    let output = group.start().all_to_all(sent[rank].clone()).wait().unwrap();
    assert_same(&output, &expected, &format!("all_to_all_async {what}"));

    let next = (rank + 1) % ranks;
    let previous = (rank + ranks - 1) % ranks;
    let mut output = junk(length);
    group.send(&inputs[rank], next, seed).unwrap();
    group.recv(&mut output, previous, seed).unwrap();
    assert_same(&output, &inputs[previous], &format!("send and recv {what}"));

    group.barrier().unwrap();
    group.start().barrier().wait().unwrap();
}

/// Reduces tensors, whose results the ranks of a process share, and whose memory is used again.
pub(crate) fn check_shared_results(group: &ProcessGroup, length: usize, seed: u64) {
    let (rank, ranks) = (group.rank(), group.world_size());
    let device = Device::flex();
    let read = |tensor: Tensor<1>| tensor.into_data().try_into_vec_as::<f32>().unwrap();
    for (round, op) in OPS.iter().cycle().take(2 * OPS.len()).enumerate() {
        let what = format!("all_reduce_tensor {op:?} of {length} on rank {rank} of {ranks}");
        let inputs = all_values::<f32>(seed + round as u64, ranks, length);
        let expected = reduced(&inputs, *op);
        let data = TensorData::new(inputs[rank].clone(), [length]);
        let input = Tensor::<1>::from_data(data, &device);
        // Held also by somebody else, on some of the ranks and in some rounds.
        let held = ((rank + round) % 3 > 0).then(|| input.clone());
        let sum = if round % 2 == 0 {
            group.all_reduce(input, *op).unwrap()
        } else {
            group.start().all_reduce(input, *op).wait().unwrap()
        };
        // One rank changes its result in place, if it could; the others' stay.
        let sum = if rank + 1 == ranks {
            sum.mul_scalar(2.0).div_scalar(2.0)
        } else {
            sum
        };
        group.barrier().unwrap();
        // A result may be an input in its turn: all are equal.
        let again = group.all_reduce(sum.clone(), ReduceOp::Max);
        assert_same(&read(again.unwrap()), &expected, &format!("again, {what}"));
        let again = group.all_reduce(sum, ReduceOp::Min);
        assert_same(&read(again.unwrap()), &expected, &what);
        if let Some(held) = held {
            assert_same(&read(held), &inputs[rank], &format!("input of {what}"));
        }
    }
}

/// Many asynchronous calls of `length` elements a rank, with a blocking one behind each.
pub(crate) fn check_blocking_among_asynchronous(group: &ProcessGroup, length: usize) {
    let ranks = group.world_size();
    let mut works = Vec::new();
    for step in 0..50_u64 {
        let input = values::<f32>(step, group.rank(), length);
        works.push((step, group.start().all_reduce(input, ReduceOp::Sum)));
        let mut now = values::<i32>(step, group.rank(), 9);
        group.all_reduce(&mut now, ReduceOp::Max).unwrap();
        let expected = reduced(&all_values(step, ranks, 9), ReduceOp::Max);
        assert_same(&now, &expected, "blocking");
    }
    for (step, work) in works {
        let expected = reduced(&all_values::<f32>(step, ranks, length), ReduceOp::Sum);
        assert_same(&work.wait().unwrap(), &expected, "asynchronous");
    }
}

/// Rank 0 drops its work, and its last handle with it; the others have their sum all the same.
pub(crate) fn check_dropped_work(group: ProcessGroup) {
    let others = group.world_size() - 1;
    if group.rank() == 0 {
        drop(group.start().all_reduce(vec![1.0_f32], ReduceOp::Sum));
        // The last handle goes too, and takes the operation to its end.
        drop(group);
    } else {
        let work = group.start().all_reduce(vec![2.0_f32], ReduceOp::Sum);
        assert_eq!(work.wait().unwrap(), [1.0 + 2.0 * others as f32]);
    }
}

/// Splits a group of six ranks into the odd ones in reverse order and the even ones (whose keys are
/// equal) in their old order.
pub(crate) fn split_by_parity(group: &ProcessGroup) -> ProcessGroup {
    let rank = group.rank();
    let key = if rank % 2 == 1 { -(rank as i64) } else { 0 };
    let half = group.split(Some(rank as u64 % 2), key).unwrap().unwrap();
    let members: &[usize] = if rank % 2 == 1 {
        &[5, 3, 1]
    } else {
        &[0, 2, 4]
    };
    assert_eq!(half.ranks(), members);
    assert_eq!(half.ranks()[half.rank()], rank);
    half
}
