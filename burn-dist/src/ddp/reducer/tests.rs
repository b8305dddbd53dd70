//! Reducers without models: gradients are numbers.

use super::messages::{Averaged, Averages};
use super::*;
use crate::ddp::device_reduce::{DeferredTensor, DeviceReduce};
use crate::ddp::gradient::Gradient;
use crate::ddp::layout::BucketLayout;
use crate::ddp::pool::HostAverage;
use crate::ddp::strategy::{self, Hierarchy};
use crate::ddp::transfer;
use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use endless::Endless;
use std::collections::HashSet;
use std::time::Instant;

mod endless;

/// Enough for three pieces of the smallest size.
const ELEMENTS: usize = 2304;

/// Sizes of the first bucket in bytes with which each parameter has a bucket of its own: packed, or
/// alone; and with which all are in one.
const PACKED: f64 = 4.0 * ELEMENTS as f64 + 4.0;
const ALONE: f64 = 1.0;
const TOGETHER: f64 = 16.0 * ELEMENTS as f64;

/// The ways to an average, with the CPU for a device.
const WAYS: [fn(&ProcessGroup) -> Strategy; 4] = [
    |_| Strategy::HostPack { in_pieces: true },
    |_| Strategy::DeviceConcat,
    |group| {
        let device_reduce = Box::new(Endless::new(group));
        let hierarchy = None;
        Strategy::DeviceReduce(Arc::new(strategy::DeviceSum {
            device_reduce,
            hierarchy,
        }))
    },
    |group| {
        let hierarchy = Hierarchy::new(group, usize::from(group.rank() == 3)).unwrap();
        let device_reduce = Box::new(Endless::new(&hierarchy.process));
        let hierarchy = Some(hierarchy);
        Strategy::DeviceReduce(Arc::new(strategy::DeviceSum {
            device_reduce,
            hierarchy,
        }))
    },
];

/// One rank's reducer.
fn reducer(group: ProcessGroup, strategy: Strategy, parameters: usize, bucket: f64) -> Reducer {
    reducer_of(ELEMENTS, group, strategy, parameters, bucket)
}

/// The same, for parameters of so many elements.
fn reducer_of(
    elements: usize,
    group: ProcessGroup,
    strategy: Strategy,
    parameters: usize,
    bucket: f64,
) -> Reducer {
    let device = Device::flex().autodiff();
    let layer = || -> Linear {
        LinearConfig::new(8, elements / 8)
            .with_bias(false)
            .init(&device)
    };
    let model: Vec<Linear> = (0..parameters).map(|_| layer()).collect();
    let parameters = Arc::new(Parameters::of(&model));
    let megabytes = bucket / f64::from(1 << 20);
    let config = DdpConfig::new()
        .with_bucket_cap_mb(megabytes)
        .with_first_bucket_mb(megabytes);
    let channel = Reducer::channel();
    Reducer::start(config, group, parameters, strategy, lane(), channel).unwrap()
}

/// The CPU has no streams.
fn lane() -> StreamId {
    StreamId { value: 0 }
}

fn gradient(parameter: usize, value: f32) -> Reading {
    gradient_of(ELEMENTS, parameter, value)
}

fn gradient_of(elements: usize, parameter: usize, value: f32) -> Reading {
    let tensor = Tensor::<1>::full([elements], value, &Device::flex());
    let gradient = Gradient::new(tensor.into_dispatch(), 1.0, lane());
    Reading::new(parameter, vec![gradient])
}

/// Runs `work` as every rank of a group of four threads.
fn on_four(work: impl Fn(ProcessGroup) + Sync) {
    let groups = ProcessGroup::threads(4).unwrap();
    std::thread::scope(|scope| {
        for group in groups {
            scope.spawn(|| work(group));
        }
    });
}

/// The parameters in the order of the buckets.
fn order(averages: &Averages) -> Vec<usize> {
    let slots = averages
        .layout
        .buckets
        .iter()
        .flat_map(|bucket| &bucket.slots);
    slots.map(|slot| slot.parameter).collect()
}

/// Ends a step that counts.
fn finish(reducer: &Reducer, rest: Vec<Reading>, order: Vec<usize>) -> Result<Averages> {
    let outcome = reducer.finish(rest, order, Status::default())?;
    Ok(outcome.averages.unwrap())
}

/// The gradients of some parameters that any rank had.
fn averages_of<const N: usize>(
    averages: Averages,
    parameters: [usize; N],
) -> [Option<Vec<f32>>; N] {
    let Averages {
        layout,
        buckets,
        used,
        ..
    } = averages;
    let values: Vec<Vec<f32>> = buckets
        .into_iter()
        .zip(&layout.buckets)
        .map(|(bucket, plan)| {
            let len = plan.gradient_len();
            let data = match bucket {
                Averaged::InMemory(mut average) => average.take(0..len, &[len], DType::F32),
                Averaged::OnDevice(pending) => transfer::read(pending.resolve()).unwrap(),
                Averaged::Nothing => return Vec::new(),
            };
            data.iter::<f32>().collect()
        })
        .collect();
    parameters.map(|parameter| {
        let place = layout.places(3).swap_remove(parameter).unwrap();
        used[parameter].then(|| values[place.bucket][place.range].to_vec())
    })
}

fn memory(averaged: &mut Averaged) -> &mut HostAverage {
    match averaged {
        Averaged::InMemory(average) => average,
        other => panic!("not in memory: {other:?}"),
    }
}

#[test]
fn buckets_follow_the_order_that_rank_zero_has_seen_first() {
    for bucket in [PACKED, ALONE, TOGETHER] {
        for way in WAYS {
            follow(way, bucket);
        }
    }
}

fn follow(way: fn(&ProcessGroup) -> Strategy, bucket: f64) {
    on_four(|group| {
        let rank = group.rank();
        let strategy = way(&group);
        let mut reducer = reducer(group, strategy, 3, bucket);
        let all = || {
            (0..3)
                .map(|parameter| gradient(parameter, rank as f32))
                .collect()
        };
        // Until an order is known, the last parameter comes first.
        let seen = if rank == 0 { [1, 0, 2] } else { [2, 1, 0] }.to_vec();
        let first = finish(&reducer, all(), seen).unwrap();
        assert_eq!(order(&first), [2, 1, 0]);
        // The order of the first step stays.
        for seen in [vec![2, 0, 1], vec![0, 1, 2]] {
            let later = finish(&reducer, all(), seen).unwrap();
            assert_eq!(order(&later), [1, 0, 2]);
            let mean = Some(vec![1.5; ELEMENTS]);
            assert_eq!(averages_of(later, [0, 2]), [mean.clone(), mean]);
        }
        reducer.stop(false);
    });
}

#[test]
fn memory_that_is_used_again_holds_nothing_of_the_step_before() {
    for bucket in [PACKED, ALONE, TOGETHER] {
        for way in WAYS {
            use_again(way, bucket);
        }
    }
}

fn use_again(way: fn(&ProcessGroup) -> Strategy, bucket: f64) {
    on_four(|group| {
        let rank = group.rank();
        let strategy = way(&group);
        let mut reducer = reducer(group, strategy, 2, bucket);
        for step in 0..6_u8 {
            // The second parameter in every other step, and then on rank 1 alone.
            let value = f32::from(step) + 1.0;
            let second = step % 2 == 1 && rank == 1;
            let second = if second {
                gradient(1, value)
            } else {
                Reading::new(1, Vec::new())
            };
            let rest = vec![gradient(0, value), second];
            let averages = finish(&reducer, rest, Vec::new()).unwrap();
            let quarter = vec![value / 4.0; ELEMENTS];
            let expected = [
                Some(vec![value; ELEMENTS]),
                (step % 2 == 1).then_some(quarter),
            ];
            assert_eq!(averages_of(averages, [0, 1]), expected);
        }
        reducer.stop(false);
    });
}

#[test]
fn no_bucket_is_allocated_after_the_first_steps() {
    on_four(|group| {
        let mut reducer = reducer(group, Strategy::HostPack { in_pieces: false }, 3, PACKED);
        let (mut seen, mut others) = (HashSet::new(), Vec::new());
        for step in 0..8 {
            let all = (0..3).map(|parameter| gradient(parameter, 1.0)).collect();
            let mut averages = finish(&reducer, all, Vec::new()).unwrap();
            // The first step's layout is another.
            if step > 0 {
                let buckets = averages.buckets.iter_mut();
                seen.extend(buckets.map(|bucket| memory(bucket).address()));
            }
            drop(averages);
            // If the buckets were given back to the allocator, these would take their places.
            others.extend((0..6).map(|_| vec![0.0_f32; ELEMENTS + 1]));
        }
        assert_eq!(seen.len(), 3);
        reducer.stop(false);
    });
}

#[test]
fn a_rank_that_stops_in_mid_step_ends_the_others() {
    for way in WAYS {
        on_four(|group| {
            let rank = group.rank();
            let strategy = way(&group);
            let mut reducer = reducer(group, strategy, 2, ALONE);
            if rank == 3 {
                reducer.stop(true);
                return;
            }
            let all = (0..2).map(|parameter| gradient(parameter, 1.0)).collect();
            let error = finish(&reducer, all, Vec::new()).unwrap_err();
            assert!(error.to_string().contains("dropped its Ddp"), "{error}");
            reducer.stop(false);
        });
    }
}

#[test]
fn a_gradient_of_another_length_is_an_error() {
    for way in WAYS {
        on_four(|group| {
            let rank = group.rank();
            let strategy = way(&group);
            let mut reducer = reducer(group, strategy, 1, PACKED);
            let reading = if rank == 2 {
                let tensor = Tensor::<1>::zeros([ELEMENTS + 1], &Device::flex());
                Reading::new(0, vec![Gradient::new(tensor.into_dispatch(), 1.0, lane())])
            } else {
                gradient(0, 1.0)
            };
            let error = finish(&reducer, vec![reading], Vec::new()).unwrap_err();
            let expected = "expected a gradient of 2304 elements, got 2305";
            assert!(error.to_string().contains(expected), "{error}");
            reducer.stop(false);
        });
    }
}

#[test]
fn averaging_counts_from_the_moment_on_that_is_asked_for() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let averages = Averages {
        layout: Arc::new(BucketLayout {
            buckets: Vec::new(),
        }),
        buckets: Vec::new(),
        used: Vec::new(),
        times: vec![at(0)..at(2), at(3)..at(5), at(8)..at(9)],
    };
    for (moment, seconds) in [(0, 5), (1, 4), (2, 3), (4, 2), (9, 0), (20, 0)] {
        let counted = averages.averaging_since(at(moment));
        assert_eq!(counted, Duration::from_secs(seconds), "from {moment} s on");
    }
}
