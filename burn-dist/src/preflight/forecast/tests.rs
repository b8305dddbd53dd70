use super::*;
use proptest::prelude::*;

fn step(gradients: &[usize], backward_s: f64, cost: Cost) -> TrainingStep<'_> {
    TrainingStep {
        gradients,
        forward_s: backward_s / 2.0,
        backward_s,
        cost,
    }
}

/// A cost of a latency and a time for each byte, as it would be measured.
fn cost(latency_s: f64, seconds_per_byte: f64) -> Cost {
    let measured = [1 << 10, 64 << 10, 1 << 20, 8 << 20].map(|bytes| AllReduce {
        bytes,
        seconds: latency_s + bytes as f64 * seconds_per_byte,
    });
    Cost::of_measured(&measured)
}

/// Costs between those of threads and those of a slow network.
fn costs() -> impl Strategy<Value = Cost> {
    let exponents = (-7.0..-2.0_f64, -11.0..-6.0_f64);
    exponents.prop_map(|(latency, byte)| cost(10_f64.powf(latency), 10_f64.powf(byte)))
}

/// Times as no network would give them.
fn odd_times() -> impl Strategy<Value = Vec<AllReduce>> {
    let one = (1_usize..1 << 26, 0.0..10.0_f64);
    prop::collection::vec(one, 0..8).prop_map(|times| {
        let each = times.into_iter();
        each.map(|(bytes, seconds)| AllReduce { bytes, seconds })
            .collect()
    })
}

fn models() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..20_000_000, 1..40)
}

proptest! {
    #[test]
    fn a_line_is_found_again(latency in 1e-6..1e-2_f64, byte in 1e-11..1e-6_f64, bytes in 1024_usize..8 << 20) {
        let (expected, found) = (latency + bytes as f64 * byte, cost(latency, byte).of(bytes));
        // What adding and multiplying in another order makes of it.
        prop_assert!((found - expected).abs() <= 1e-9 * expected, "{found} for {expected}");
    }

    #[test]
    fn more_bytes_never_take_less(
        measured in odd_times(), less in 0_usize..1 << 27, more in 0_usize..1 << 27,
    ) {
        let cost = Cost::of_measured(&measured);
        let (small, large) = (cost.of(less), cost.of(less + more));
        prop_assert!(small >= 0.0 && small.is_finite() && large.is_finite());
        prop_assert!(small <= large * (1.0 + 1e-9), "{small} for {less}, {large} for {more} more");
        // No measured size is said to take less than it did.
        for one in &measured {
            prop_assert!(cost.of(one.bytes) >= one.seconds * (1.0 - 1e-9));
        }
    }

    #[test]
    fn exposed_is_between_nothing_and_all(
        gradients in models(), backward_s in 0.0..1.0_f64, cost in costs(), cap in 0.01..200.0_f64,
    ) {
        let least = cost.of(1);
        let one = step(&gradients, backward_s, cost).predict(1.0, cap);
        prop_assert!(one.exposed_s >= 0.0);
        prop_assert!(one.exposed_s <= one.communication_s);
        prop_assert!((0.0..=1.0).contains(&one.exposed_share));
        // The last bucket can't begin before backward ends.
        prop_assert!(one.exposed_s >= least * (1.0 - 1e-9) - backward_s * 1e-9);
    }

    #[test]
    fn a_better_network_never_makes_it_worse(
        gradients in models(), backward_s in 0.0..1.0_f64, cost in costs(), cap in 0.01..200.0_f64,
        less in 0.0..1.0_f64,
    ) {
        let mut better = cost.clone();
        better.points.iter_mut().for_each(|point| point.1 *= less);
        let before = step(&gradients, backward_s, cost).predict(1.0, cap).exposed_s;
        let after = step(&gradients, backward_s, better).predict(1.0, cap).exposed_s;
        prop_assert!(after <= before + 1e-12, "{after} after {before}");
    }

    #[test]
    fn buckets_hold_every_gradient_once(gradients in models(), first in 0.1..5.0_f64, cap in 0.1..50.0_f64) {
        let buckets = buckets(&gradients, first, cap);
        let bytes: usize = buckets.iter().map(|bucket| bucket.bytes).sum();
        prop_assert_eq!(bytes, gradients.iter().sum::<usize>());
        prop_assert!(buckets.windows(2).all(|pair| pair[0].last < pair[1].last));
        prop_assert_eq!(buckets.last().unwrap().last, gradients.len());
    }

    #[test]
    fn the_best_is_one_that_was_tried_and_near_the_least(
        gradients in models(), backward_s in 0.0..1.0_f64, cost in costs(), cap in 0.01..200.0_f64,
    ) {
        let plan = DdpConfig::new().with_bucket_cap_mb(cap);
        let step = step(&gradients, backward_s, cost);
        let (planned, tried) = (step.predict(plan.first_bucket_mb, cap), step.try_all(&plan));
        let best = best(&planned, &tried);
        prop_assert!(tried.contains(&best) && tried.contains(&planned));
        for one in &tried {
            prop_assert!(best.exposed_share <= one.exposed_share + TIE);
        }
        // Sizes that come to the same buckets are there once.
        for pair in tried.windows(2) {
            prop_assert!(pair[0].bucket_cap_mb < pair[1].bucket_cap_mb);
        }
    }
}

/// Equal but for what other orders of adding make of it.
#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
}

#[test]
fn the_pipeline_by_hand() {
    // Four gradients of 1 MB, ready at 1, 2, 3 and 4 s; an all_reduce takes 0.5 s and 1 s a MB.
    let gradients = [1 << 20; 4];
    let cost = cost(0.5, 1.0 / MEGABYTE);
    let step = step(&gradients, 4.0, cost);
    // One by one: from 1, done at 2.5, 4, 5.5 and 7.
    let single = step.predict(1.0, 1.0);
    assert_eq!(single.buckets, 4);
    near(single.exposed_s, 3.0);
    near(single.communication_s, 6.0);
    // Two by two: from 2, done at 4.5 and 7.
    let double = step.predict(2.0, 2.0);
    assert_eq!(double.buckets, 2);
    near(double.exposed_s, 3.0);
    // One first, and the rest when backward ends: done at 4 + 3.5.
    let rest = step.predict(1.0, 25.0);
    assert_eq!(rest.buckets, 2);
    near(rest.exposed_s, 3.5);
    near(rest.exposed_share, 3.5 / 9.5);
}

#[test]
fn a_planned_size_that_is_as_good_as_any_is_kept() {
    let gradients = [1 << 20; 64];
    let cheap = cost(1e-6, 1e-12);
    let plan = DdpConfig::new();
    let fast = step(&gradients, 1.0, cheap);
    let planned = fast.predict(plan.first_bucket_mb, plan.bucket_cap_mb);
    assert_eq!(best(&planned, &fast.try_all(&plan)), planned);

    // On a slow network, 25 MB that leave at the end are waited for; smaller buckets leave earlier.
    let slow = cost(1e-4, 1e-8);
    let slow = step(&gradients, 1.0, slow);
    let planned = slow.predict(plan.first_bucket_mb, plan.bucket_cap_mb);
    let better = best(&planned, &slow.try_all(&plan));
    assert!(better.bucket_cap_mb < plan.bucket_cap_mb, "{better:?}");
    assert!(better.exposed_share + TIE < planned.exposed_share);
}
