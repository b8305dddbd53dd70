//! The collectives on tensors: dtypes, dimensions, autodiff, and what can't travel.

use crate::support::on_ranks;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_dist::{AnyRank, Error, P2p, ReduceOp, Uneven};

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as::<f32>().unwrap()
}

fn ints<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    tensor.into_data().try_into_vec_as::<i64>().unwrap()
}

#[test]
fn reductions_keep_shape_dtype_and_device() {
    let device = Device::flex();
    on_ranks(3, |group| {
        let rank = group.rank() as f32;
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let tensor = Tensor::<3>::full([2, 1, 3], rank + 1.0, (&device, dtype));
            let sum = group.all_reduce(tensor.clone(), ReduceOp::Sum).unwrap();
            assert_eq!((sum.dims(), sum.dtype()), ([2, 1, 3], dtype));
            assert_eq!(floats(sum), [6.0; 6]);
            let mean = group.start().all_reduce(tensor.clone(), ReduceOp::Mean);
            let mean = mean.wait().unwrap();
            assert_eq!((mean.dtype(), floats(mean)), (dtype, vec![2.0; 6]));
            let most = group.reduce(tensor, ReduceOp::Max, 1).unwrap();
            let expected = if group.rank() == 1 { 3.0 } else { rank + 1.0 };
            assert_eq!(floats(most), [expected; 6]);
        }
        for dtype in [DType::I64, DType::I32, DType::U8] {
            let data = TensorData::from([[1_i64, 2], [3, group.rank() as i64]]);
            let tensor = Tensor::<2, Int>::from_data(data, (&device, dtype));
            assert_eq!(tensor.dtype(), dtype);
            let sum = group.all_reduce(tensor, ReduceOp::Sum).unwrap();
            assert_eq!((sum.dtype(), ints(sum)), (dtype, vec![3, 6, 9, 3]));
        }
    });
}

#[test]
fn tensors_move_whole() {
    let device = Device::flex();
    on_ranks(3, |group| {
        let mine = |rank: usize, part: usize| {
            let first = (10 * rank + part) as f32;
            Tensor::<2>::from_data([[first, 0.5], [1.5, -first]], &device)
        };
        let rank = group.rank();
        let same = |found: Tensor<2>, expected: Tensor<2>| {
            assert_eq!(found.dims(), expected.dims());
            assert_eq!(floats(found), floats(expected));
        };
        same(group.broadcast(mine(rank, 0), 2).unwrap(), mine(2, 0));

        let all = group.all_gather(mine(rank, 0)).unwrap();
        assert_eq!(all.len(), 3);
        all.into_iter()
            .enumerate()
            .for_each(|(peer, found)| same(found, mine(peer, 0)));

        let all = group.gather(mine(rank, 0), 1).unwrap();
        assert_eq!(all.is_some(), rank == 1);
        let all = all.into_iter().flatten().enumerate();
        all.for_each(|(peer, found)| same(found, mine(peer, 0)));

        let parts = (rank == 0).then(|| (0..3).map(|part| mine(0, part)).collect::<Vec<_>>());
        same(
            group.scatter((parts, &mine(0, 0)), 0).unwrap(),
            mine(0, rank),
        );

        let sent: Vec<_> = (0..3).map(|part| mine(rank, part)).collect();
        let got = group.all_to_all(sent).unwrap();
        got.into_iter()
            .enumerate()
            .for_each(|(peer, found)| same(found, mine(peer, rank)));

        // Also of a view that isn't laid out in order.
        let transposed = mine(rank, 0).transpose();
        group.send(transposed, (rank + 1) % 3, 4).unwrap();
        let previous = (rank + 2) % 3;
        let got = group.recv(mine(0, 0), previous, 4).unwrap();
        same(got, mine(previous, 0).transpose());
    });
}

#[test]
fn a_tensor_is_scattered_along_its_first_dimension() {
    let device = Device::flex();
    on_ranks(2, |group| {
        let tensor = Tensor::<1, Int>::arange(0..12, &device).reshape([4, 3]);
        let part = group.reduce_scatter(tensor, ReduceOp::Sum).unwrap();
        assert_eq!(part.dims(), [2, 3]);
        let first = 12 * group.rank() as i64;
        assert_eq!(
            ints(part),
            (0..6).map(|i| first + 2 * i).collect::<Vec<_>>()
        );
    });
    let errors = on_ranks(2, |group| {
        let tensor = Tensor::<2>::zeros([3, 2], &device);
        group
            .reduce_scatter(tensor, ReduceOp::Sum)
            .map(drop)
            .unwrap_err()
    });
    for error in errors {
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

#[test]
fn an_empty_tensor_travels_too() {
    on_ranks(2, |group| {
        let tensor = Tensor::<2>::zeros([0, 3], &Device::flex());
        let sum = group.all_reduce(tensor, ReduceOp::Mean).unwrap();
        assert_eq!(sum.dims(), [0, 3]);
    });
}

#[test]
fn autodiff_tensors_come_back_detached_on_their_device() {
    let device = Device::flex().autodiff();
    on_ranks(2, |group| {
        let leaf = Tensor::<1>::from_floats([1.0, 2.0], &device).require_grad();
        let tracked = leaf.clone() * 2.0;
        let sum = group.all_reduce(tracked, ReduceOp::Sum).unwrap();
        assert!(sum.device().is_autodiff());
        assert!(!sum.is_require_grad());
        // The result is a constant of what follows, and can take part in it.
        let gradients = (leaf.clone() * sum.clone()).sum().backward();
        assert_eq!(floats(leaf.grad(&gradients).unwrap()), [4.0, 8.0]);
        assert_eq!(floats(sum), [4.0, 8.0]);
    });
}

#[test]
fn tensors_of_one_length_and_other_shapes_are_a_mismatch() {
    let errors = on_ranks(2, |group| {
        let shape = if group.rank() == 0 { [2, 3] } else { [3, 2] };
        let tensor = Tensor::<2>::zeros(shape, &Device::flex());
        group
            .all_reduce(tensor, ReduceOp::Sum)
            .map(drop)
            .unwrap_err()
    });
    for error in errors {
        let text = error.to_string();
        assert!(
            text.contains("rank 0 called all_reduce #0 f32[2,3] sum"),
            "{text}"
        );
        assert!(
            text.contains("rank 1 called all_reduce #0 f32[3,2] sum"),
            "{text}"
        );
    }
}

#[test]
fn a_dtype_that_cannot_travel_is_named_on_all_ranks() {
    let device = Device::flex();
    let errors = on_ranks(2, |group| {
        let dtype = if group.rank() == 0 {
            DType::U16
        } else {
            DType::I64
        };
        let tensor = Tensor::<1, Int>::zeros([4], (&device, dtype));
        group
            .all_reduce(tensor, ReduceOp::Sum)
            .map(drop)
            .unwrap_err()
    });
    assert!(
        matches!(errors[0], Error::Tensor { rank: 0, .. }),
        "{}",
        errors[0]
    );
    assert!(
        matches!(errors[1], Error::PeerLeft { peer: 0, .. }),
        "{}",
        errors[1]
    );
    for error in errors {
        assert!(
            error.to_string().contains("dtype U16 can't travel"),
            "{error}"
        );
    }
}

#[test]
fn asynchronous_forms_give_what_the_blocking_ones_give() {
    let device = Device::flex();
    on_ranks(3, |group| {
        let (rank, root) = (group.rank(), 1);
        let tensor = Tensor::<2>::full([3, 2], rank as f32 + 1.0, &device);
        let parts = || -> Vec<Tensor<2>> {
            (0..3)
                .map(|to| Tensor::full([1, 2], (10 * rank + to) as f32, &device))
                .collect()
        };
        let given = || (rank == root).then(parts);
        let like = Tensor::<2>::zeros([1, 2], &device);
        let sum = ReduceOp::Sum;
        let all = |tensors: Vec<Tensor<2>>| tensors.into_iter().map(floats).collect::<Vec<_>>();

        // All are under way before the first is waited for.
        let broadcast = group.start().broadcast(tensor.clone(), root);
        let reduce = group.start().reduce(tensor.clone(), sum, root);
        let gather = group.start().gather(tensor.clone(), root);
        let all_gather = group.start().all_gather(tensor.clone());
        let scatter = group.start().scatter((given(), &like), root);
        let reduce_scatter = group.start().reduce_scatter(tensor.clone(), sum);
        let all_to_all = group.start().all_to_all(parts());

        let expected = group.broadcast(tensor.clone(), root).unwrap();
        assert_eq!(floats(broadcast.wait().unwrap()), floats(expected));
        let expected = group.reduce(tensor.clone(), sum, root).unwrap();
        assert_eq!(floats(reduce.wait().unwrap()), floats(expected));
        let expected = group.gather(tensor.clone(), root).unwrap();
        assert_eq!(gather.wait().unwrap().map(all), expected.map(all));
        let expected = group.all_gather(tensor.clone()).unwrap();
        assert_eq!(all(all_gather.wait().unwrap()), all(expected));
        let expected = group.scatter((given(), &like), root).unwrap();
        assert_eq!(floats(scatter.wait().unwrap()), floats(expected));
        let expected = group.reduce_scatter(tensor.clone(), sum).unwrap();
        assert_eq!(floats(reduce_scatter.wait().unwrap()), floats(expected));
        let expected = group.all_to_all(parts()).unwrap();
        assert_eq!(all(all_to_all.wait().unwrap()), all(expected));
    });
}

#[test]
fn wrong_arguments_of_an_asynchronous_form_come_from_wait() {
    on_ranks(1, |group| {
        let tensor = Tensor::<1>::zeros([2], &Device::flex());
        let error = group.start().broadcast(tensor, 7).wait().unwrap_err();
        assert!(error.to_string().contains("there is no rank 7"), "{error}");
    });
}

fn bools<const D: usize>(tensor: Tensor<D, Bool>) -> Vec<bool> {
    tensor.into_data().iter::<bool>().collect()
}

#[test]
fn bool_tensors_travel_and_are_reduced_by_min_and_max_alone() {
    let device = Device::flex();
    on_ranks(3, |group| {
        let rank = group.rank();
        let of = |bits: &[bool]| Tensor::<1, Bool>::from_data(TensorData::from(bits), &device);
        let mine = of(&[rank == 0, true, false]);
        let any = group.all_reduce(mine.clone(), ReduceOp::Max).unwrap();
        assert_eq!(
            (any.dtype(), bools(any)),
            (mine.dtype(), vec![true, true, false])
        );
        let every = group
            .start()
            .reduce(mine.clone(), ReduceOp::Min, 2)
            .wait()
            .unwrap();
        assert_eq!(
            bools(every),
            if rank == 2 {
                vec![false, true, false]
            } else {
                bools(mine.clone())
            }
        );
        let first = group.broadcast(mine.clone(), 0).unwrap();
        assert_eq!(bools(first), [true, true, false]);
        let all: Vec<_> = group
            .all_gather(mine.clone())
            .unwrap()
            .into_iter()
            .map(bools)
            .collect();
        assert_eq!(
            all,
            [
                [true, true, false],
                [false, true, false],
                [false, true, false]
            ]
        );
        let all = group.gather(mine.clone(), 1).unwrap();
        assert_eq!(all.map(|all| all.len()), (rank == 1).then_some(3));
        let parts = (0..3).map(|part| of(&[part == rank])).collect::<Vec<_>>();
        let given = (rank == 1).then(|| parts.clone());
        let part = group.scatter((given, &of(&[false])), 1).unwrap();
        assert_eq!(bools(part), [rank == 1]);
        let got: Vec<_> = group
            .all_to_all(parts)
            .unwrap()
            .into_iter()
            .map(bools)
            .collect();
        assert_eq!(got, [[rank == 0], [rank == 1], [rank == 2]]);
        let (next, previous) = ((rank + 1) % 3, (rank + 2) % 3);
        group.send(mine.clone(), next, 0).unwrap();
        let (from, got) = group.recv(mine, AnyRank, 0).unwrap();
        assert_eq!(
            (from, bools(got)),
            (previous, vec![previous == 0, true, false])
        );
    });
    on_ranks(2, |group| {
        let tensor = Tensor::<1, Bool>::from_data(TensorData::from([true]), &device);
        let error = group
            .all_reduce(tensor, ReduceOp::Sum)
            .unwrap_err()
            .to_string();
        assert!(error.contains("bool tensors have no sum"), "{error}");
    });
}

#[test]
fn tensors_may_differ_in_their_first_dimension() {
    let device = Device::flex();
    on_ranks(3, |group| {
        let rank = group.rank();
        let of = |from: usize, rows: usize| {
            Tensor::<2, Int>::full([rows, 2], from as i64, (&device, DType::I32))
        };
        let same = |found: Tensor<2, Int>, from: usize, rows: usize| {
            assert_eq!((found.dims(), found.dtype()), ([rows, 2], DType::I32));
            assert_eq!(ints(found), vec![from as i64; 2 * rows]);
        };
        let all = group.all_gather(Uneven(of(rank, rank))).unwrap();
        all.into_iter()
            .enumerate()
            .for_each(|(from, found)| same(found, from, from));
        let gathered = group
            .start()
            .gather(Uneven(of(rank, 2 - rank)), 0)
            .wait()
            .unwrap();
        assert_eq!(gathered.is_some(), rank == 0);
        let gathered = gathered.into_iter().flatten().enumerate();
        gathered.for_each(|(from, found)| same(found, from, 2 - from));
        let given = (rank == 2).then(|| (0..3).map(|to| of(2, 3 * to)).collect::<Vec<_>>());
        let got = group.scatter(Uneven((given, &of(0, 1))), 2).unwrap();
        same(got, 2, 3 * rank);
        let parts = (0..3).map(|to| of(rank, rank + to)).collect::<Vec<_>>();
        let got = group.all_to_all(Uneven(parts)).unwrap();
        got.into_iter()
            .enumerate()
            .for_each(|(from, found)| same(found, from, from + rank));
    });
    let errors = on_ranks(2, |group| {
        let tensor = Tensor::<2>::zeros([2, 3 + group.rank()], &device);
        group.all_gather(Uneven(tensor)).map(drop).unwrap_err()
    });
    for error in errors {
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    }
}

#[test]
fn a_batch_carries_tensors() {
    let device = Device::flex();
    on_ranks(3, |group| {
        let rank = group.rank();
        let of = |rank: usize| Tensor::<1>::full([4], rank as f32, &device);
        let (next, previous) = ((rank + 1) % 3, (rank + 2) % 3);
        let batch = [P2p::Send(of(rank), next, 1), P2p::Recv(of(9), previous, 1)];
        let received = group.start().batch(batch).wait().unwrap();
        assert_eq!(
            received.into_iter().map(floats).collect::<Vec<_>>(),
            [vec![previous as f32; 4]]
        );
    });
}
