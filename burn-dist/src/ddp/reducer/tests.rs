//! Reducers without models: gradients are numbers.

use super::*;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, TensorData};
use std::collections::HashSet;

const ELEMENTS: usize = 64;

/// Sizes of the first bucket in bytes with which each parameter has a bucket of its own: packed, or
/// alone.
const PACKED: f64 = 4.0 * ELEMENTS as f64 + 4.0;
const ALONE: f64 = 1.0;

/// One rank's reducer.
fn reducer(group: ProcessGroup, parameters: usize, bucket: f64) -> Reducer {
    let device = Device::flex().autodiff();
    let layer = || -> Linear {
        LinearConfig::new(8, ELEMENTS / 8)
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
    Reducer::start(config, group, parameters, channel).unwrap()
}

fn gradient(parameter: usize, value: f32) -> Reading {
    let data = TensorData::new(vec![value; ELEMENTS], [ELEMENTS]);
    Reading::new(parameter, vec![Box::pin(async { Ok(data) })])
}

/// Runs `work` as every rank of a group of two threads.
fn on_two(work: impl Fn(ProcessGroup) + Sync) {
    let groups = ProcessGroup::threads(2).unwrap();
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

/// What a parameter's gradient is, where any rank had one.
fn average(averages: &mut Averages, parameter: usize) -> Option<Vec<f32>> {
    let place = averages.layout.places(3).swap_remove(parameter).unwrap();
    let buckets = &mut averages.buckets;
    let data = buckets[place.bucket].take(place.range, &[ELEMENTS], DType::F32);
    let (bucket, flag) = place.flag;
    buckets[bucket]
        .flag(flag)
        .then(|| data.iter::<f32>().collect())
}

#[test]
fn buckets_follow_the_order_that_rank_zero_has_seen_first() {
    for bucket in [PACKED, ALONE] {
        follow(bucket);
    }
}

fn follow(bucket: f64) {
    on_two(|group| {
        let rank = group.rank();
        let mut reducer = reducer(group, 3, bucket);
        let all = || {
            (0..3)
                .map(|parameter| gradient(parameter, rank as f32))
                .collect()
        };
        // Until an order is known, the last parameter comes first.
        let seen = [vec![1, 0, 2], vec![2, 1, 0]][rank].clone();
        let first = reducer.finish(all(), seen).unwrap();
        assert_eq!(order(&first), [2, 1, 0]);
        // The order of the first step stays.
        for seen in [vec![2, 0, 1], vec![0, 1, 2]] {
            let mut later = reducer.finish(all(), seen).unwrap();
            assert_eq!(order(&later), [1, 0, 2]);
            assert_eq!(average(&mut later, 0), Some(vec![0.5; ELEMENTS]));
        }
        reducer.stop(false);
    });
}

#[test]
fn memory_that_is_used_again_holds_nothing_of_the_step_before() {
    for bucket in [PACKED, ALONE] {
        use_again(bucket);
    }
}

fn use_again(bucket: f64) {
    on_two(|group| {
        let rank = group.rank();
        let mut reducer = reducer(group, 2, bucket);
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
            let mut averages = reducer.finish(rest, Vec::new()).unwrap();
            assert_eq!(average(&mut averages, 0), Some(vec![value; ELEMENTS]));
            let half = vec![value / 2.0; ELEMENTS];
            assert_eq!(average(&mut averages, 1), (step % 2 == 1).then_some(half));
        }
        reducer.stop(false);
    });
}

#[test]
fn no_bucket_is_allocated_after_the_first_steps() {
    on_two(|group| {
        let mut reducer = reducer(group, 3, PACKED);
        let (mut seen, mut others) = (HashSet::new(), Vec::new());
        for step in 0..8 {
            let all = (0..3).map(|parameter| gradient(parameter, 1.0)).collect();
            let averages = reducer.finish(all, Vec::new()).unwrap();
            // The first step's layout is another.
            if step > 0 {
                seen.extend(averages.buckets.iter().map(Average::address));
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
fn averaging_counts_from_the_moment_on_that_is_asked_for() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let averages = Averages {
        layout: Arc::new(Layout {
            buckets: Vec::new(),
        }),
        buckets: Vec::new(),
        times: vec![at(0)..at(2), at(3)..at(5), at(8)..at(9)],
    };
    for (moment, seconds) in [(0, 5), (1, 4), (2, 3), (4, 2), (9, 0), (20, 0)] {
        let counted = averages.averaging_since(at(moment));
        assert_eq!(counted, Duration::from_secs(seconds), "from {moment} s on");
    }
}
