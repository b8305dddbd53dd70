//! Every differentiable call against finite differences of the sum of all ranks' losses, on ranks that are threads
//! and over processes in memory.

use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::error::Error;
use crate::group::{on_job, on_ranks};
use crate::launch::Launcher;

/// Number of ranks that each process hosts.
const LAYOUTS: [&[usize]; 5] = [&[2], &[3], &[4], &[1, 1], &[2, 1]];

/// A multiple of all numbers of ranks.
const ROWS: usize = 12;
const COLUMNS: usize = 2;

/// Step of the differences. Losses are quadratic, so only rounding separates them from the gradient.
const STEP: f32 = 0.125;

/// Relative error allowed in f32.
const TOLERANCE: f32 = 1e-3;

type Call = fn(&ProcessGroup, Tensor<2>) -> Result<Tensor<2>>;

const CALLS: [(&str, Call); 9] = [
    ("all_reduce sum", |group, x| {
        all_reduce(group, x, ReduceOp::Sum)
    }),
    ("all_reduce mean", |group, x| {
        all_reduce(group, x, ReduceOp::Mean)
    }),
    ("all_gather", |group, x| all_gather(group, x)),
    ("reduce_scatter sum", |group, x| {
        reduce_scatter(group, x, ReduceOp::Sum)
    }),
    ("reduce_scatter mean", |group, x| {
        reduce_scatter(group, x, ReduceOp::Mean)
    }),
    ("all_to_all", |group, x| all_to_all(group, x)),
    ("broadcast", |group, x| {
        broadcast(group, x, group.world_size() - 1)
    }),
    ("two calls", |group, x| {
        let mixed = all_to_all(group, x * (0.5 + group.rank() as f32))?;
        all_reduce(group, mixed, ReduceOp::Mean)
    }),
    ("an output used twice", |group, x| {
        let sum = all_reduce(group, x, ReduceOp::Sum)?;
        all_gather(group, sum.clone() * 0.5 - sum.narrow(0, 0, ROWS))
    }),
];

/// Numbers between -1 and 1 that depend on rank and place.
fn numbers(rank: usize, length: usize, salt: usize) -> Vec<f32> {
    let number = |at| ((at * 37 + rank * 101 + salt * 53) % 23) as f32 / 11.5 - 1.0;
    (0..length).map(number).collect()
}

fn matrix(values: Vec<f32>, columns: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / columns;
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

/// A loss of this rank that is quadratic in the output, with other weights on every rank.
fn loss(rank: usize, output: Tensor<2>) -> Tensor<1> {
    let [rows, columns] = output.dims();
    let weights = matrix(numbers(rank, rows * columns, 1), columns, &output.device());
    (output.clone() * weights.clone() + output.powi_scalar(2) * (weights * 0.5 + 1.0)).sum()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Returns the derivative of the sum of all losses by each element of each rank's input, by central differences.
fn differences(group: &ProcessGroup, call: Call) -> Vec<Vec<f32>> {
    let (rank, length) = (group.rank(), ROWS * COLUMNS);
    let mut changes = Vec::new();
    for changed in 0..group.world_size() {
        for at in 0..length {
            let shifted = |step: f32| {
                let mut x = numbers(rank, length, 0);
                x[at] += if rank == changed { step } else { 0.0 };
                let output = call(group, matrix(x, COLUMNS, &Device::flex())).unwrap();
                loss(rank, output).into_scalar::<f32>()
            };
            changes.push(f64::from(shifted(STEP) - shifted(-STEP)) / f64::from(2.0 * STEP));
        }
    }
    group.all_reduce(&mut changes, ReduceOp::Sum).unwrap();
    let changes: Vec<f32> = changes.into_iter().map(|change| change as f32).collect();
    changes.chunks(length).map(<[f32]>::to_vec).collect()
}

/// Returns the gradient of this rank's input.
fn gradient(group: &ProcessGroup, call: Call) -> Vec<f32> {
    let rank = group.rank();
    let x = matrix(
        numbers(rank, ROWS * COLUMNS, 0),
        COLUMNS,
        &Device::flex().autodiff(),
    );
    let x = x.require_grad();
    let gradients = loss(rank, call(group, x.clone()).unwrap()).backward();
    values(x.grad(&gradients).unwrap())
}

/// Returns the first element that is not what is expected.
fn difference(came: &[f32], expected: &[f32]) -> Option<String> {
    assert_eq!(came.len(), expected.len());
    let largest = expected
        .iter()
        .fold(1.0_f32, |largest, value| largest.max(value.abs()));
    let mut pairs = came.iter().zip(expected).enumerate();
    pairs.find_map(|(at, (came, expected))| {
        let differs = (came - expected).abs() > TOLERANCE * largest;
        differs.then(|| format!("element {at}: expected {expected}, got {came}"))
    })
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for layout in LAYOUTS {
        let wrong = on_job(layout, |group| {
            let wrong = CALLS.map(|(name, call)| {
                let expected = differences(&group, call);
                let wrong = difference(&gradient(&group, call), &expected[group.rank()]);
                wrong.map(|wrong| format!("{name}, rank {}, {wrong}", group.rank()))
            });
            wrong.into_iter().flatten().collect::<Vec<_>>()
        });
        assert!(wrong.concat().is_empty(), "{layout:?}: {wrong:#?}");
    }
}

#[test]
fn outputs_are_the_same_whether_tensors_are_tracked_or_not() {
    on_ranks(2, |group| {
        let autodiff = Device::flex().autodiff();
        let input =
            |device: &Device| matrix(numbers(group.rank(), ROWS * COLUMNS, 0), COLUMNS, device);
        for (name, call) in CALLS {
            let [plain, untracked, tracked] = [
                input(&Device::flex()),
                input(&autodiff),
                input(&autodiff).require_grad(),
            ]
            .map(|input| values(call(&group, input).unwrap()));
            assert_eq!(plain, untracked, "{name}");
            assert_eq!(plain, tracked, "{name}");
        }
    });
}

/// A column-parallel and a row-parallel linear layer, as Megatron splits a pair, against the whole pair.
#[test]
fn a_split_pair_of_layers_has_the_gradients_of_the_whole() {
    const HIDDEN: usize = 12;
    for layout in LAYOUTS {
        on_job(layout, |group| {
            let (rank, ranks) = (group.rank(), group.world_size());
            let device = Device::flex().autodiff();
            let weights = |salt, columns| matrix(numbers(0, 3 * HIDDEN, salt), columns, &device);
            let (x, up, down) = (weights(1, 3), weights(2, HIDDEN), weights(3, 3));
            let objective = |output: Tensor<2>| loss(0, output);

            let [whole_x, whole_up, whole_down] =
                [&x, &up, &down].map(|tensor| tensor.clone().require_grad());
            let hidden = whole_x.clone().matmul(whole_up.clone());
            let hidden = hidden.clone() * hidden;
            let whole = objective(hidden.matmul(whole_down.clone())).backward();

            let part = HIDDEN / ranks;
            let own = rank * part..(rank + 1) * part;
            let own_x = x.require_grad();
            let own_up = up.slice([0..3, own.clone()]).require_grad();
            let own_down = down.slice([own.clone(), 0..3]).require_grad();
            let copied = copy_to_group(&group, own_x.clone()).unwrap();
            let hidden = copied.matmul(own_up.clone());
            let hidden = hidden.clone() * hidden;
            let output = reduce_from_group(&group, hidden.matmul(own_down.clone())).unwrap();
            let split = objective(output).backward();

            let whole_of = |tensor: &Tensor<2>| tensor.grad(&whole).unwrap();
            let up = whole_of(&whole_up).slice([0..3, own.clone()]);
            let down = whole_of(&whole_down).slice([own, 0..3]);
            for (name, came, expected) in [
                ("x", own_x, whole_of(&whole_x)),
                ("up", own_up, up),
                ("down", own_down, down),
            ] {
                let came = values(came.grad(&split).unwrap());
                let wrong = difference(&came, &values(expected));
                assert_eq!(wrong, None, "{name}, rank {rank}");
            }
        });
    }
}

#[test]
fn a_broadcast_of_what_other_ranks_do_not_track_has_the_gradient_of_all() {
    on_ranks(3, |group| {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_data([2.0, 3.0], &device);
        let x = if group.rank() == 1 {
            x.require_grad()
        } else {
            x.zeros_like()
        };
        let gradients = (broadcast(&group, x.clone(), 1).unwrap() * 4.0)
            .sum()
            .backward();
        let gradient = x.grad(&gradients).map(values);
        assert_eq!(gradient, (group.rank() == 1).then(|| vec![12.0, 12.0]));
    });
}

#[test]
fn reductions_that_are_not_linear_are_refused() {
    for op in [ReduceOp::Min, ReduceOp::Max, ReduceOp::Product] {
        let errors = on_ranks(2, |group| {
            let x = Tensor::<1>::zeros([2], &Device::flex());
            if group.rank() == 0 {
                return all_reduce(&group, x, op).unwrap_err();
            }
            all_reduce(&group, x, ReduceOp::Sum).unwrap_err()
        });
        let [refused, other] = &errors[..] else {
            unreachable!("there are two ranks")
        };
        assert!(
            matches!(refused, Error::InvalidArgument { rank: 0, .. }),
            "{refused}"
        );
        let reduction = format!("expected the reduction sum or mean, got {}", op.name());
        assert!(refused.to_string().contains(&reduction), "{refused}");
        assert!(matches!(other, Error::PeerLeft { .. }), "{other}");
    }
}

#[test]
fn parts_that_do_not_come_out_even_are_refused() {
    let errors = on_ranks(2, |group| {
        let x = Tensor::<1>::zeros([3 - group.rank()], &Device::flex());
        all_to_all(&group, x).unwrap_err()
    });
    assert!(
        errors[0].to_string().contains("the 2 ranks, got 3"),
        "{}",
        errors[0]
    );
    assert!(matches!(errors[1], Error::PeerLeft { .. }), "{}", errors[1]);
}

/// The gradient is zero, and the next call of every rank says which call the other did not run.
#[test]
fn a_rank_without_backward_is_an_error_that_names_the_call() {
    on_ranks(2, |group| {
        let group = group.with_timeout(Duration::from_millis(300));
        let x = Tensor::<1>::ones([2], &Device::flex().autodiff()).require_grad();
        let gathered = all_gather(&group, x.clone()).unwrap();
        if group.rank() == 0 {
            let gradients = gathered.sum().backward();
            assert_eq!(values(x.grad(&gradients).unwrap()), [0.0, 0.0]);
        }
        let error = group.barrier().unwrap_err().to_string();
        assert!(
            error.contains("functional::all_gather #0 backward"),
            "{error}"
        );
    });
}

#[test]
fn a_failure_in_backward_without_a_later_call_fails_the_run() {
    let launcher = Launcher::new(vec![Device::flex().autodiff(); 2]);
    let run = launcher.run(|worker| {
        let x = Tensor::<1>::ones([2], worker.device()).require_grad();
        let sum = all_reduce(worker.group(), x, ReduceOp::Sum)?;
        if worker.rank() == 0 {
            drop(sum.sum().backward());
        }
        Ok::<_, Error>(())
    });
    let error = run.unwrap_err().to_string();
    assert!(
        error.contains("functional::all_reduce #0 backward"),
        "{error}"
    );
}

#[test]
fn backward_in_another_order_is_a_mismatch() {
    on_ranks(2, |group| {
        let x = Tensor::<1>::ones([2], &Device::flex().autodiff()).require_grad();
        let [one, two] = [(); 2].map(|()| all_reduce(&group, x.clone(), ReduceOp::Sum).unwrap());
        let sum = if group.rank() == 0 {
            one + two
        } else {
            two + one
        };
        drop(sum.sum().backward());
        let error = group.barrier().unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains("#0 backward"), "{error}");
        assert!(error.to_string().contains("#1 backward"), "{error}");
    });
}
