use super::*;
use proptest::prelude::*;

fn step(gradients: &[usize], backward_s: f64, cost: Cost) -> Step<'_> {
    Step {
        gradients,
        forward_s: backward_s / 2.0,
        backward_s,
        cost,
    }
}

fn times(cost: Cost, sizes: &[usize]) -> Vec<AllReduce> {
    let time = |&bytes: &usize| AllReduce {
        bytes,
        seconds: cost.of(bytes),
    };
    sizes.iter().map(time).collect()
}

/// Costs between those of threads and those of a slow network.
fn costs() -> impl Strategy<Value = Cost> {
    let exponents = (-7.0..-2.0_f64, -11.0..-6.0_f64);
    exponents.prop_map(|(latency, byte)| Cost {
        latency_s: 10_f64.powf(latency),
        seconds_per_byte: 10_f64.powf(byte),
    })
}

fn models() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..20_000_000, 1..40)
}

proptest! {
    #[test]
    fn a_line_is_found_again(cost in costs()) {
        let fitted = Cost::fit(&times(cost, &[1 << 10, 64 << 10, 1 << 20, 8 << 20]));
        // Far from where a latency can be told from nothing, it is not asked for.
        for bytes in [1 << 10, 1 << 20, 64 << 20] {
            let (expected, found) = (cost.of(bytes), fitted.of(bytes));
            prop_assert!((found - expected).abs() <= 1e-6 * expected, "{found} for {expected}");
        }
    }

    #[test]
    fn what_is_fitted_never_takes_less_than_nothing(
        measured in prop::collection::vec((1_usize..1 << 28, 0.0..10.0_f64), 0..8),
    ) {
        let measured: Vec<_> = measured
            .into_iter()
            .map(|(bytes, seconds)| AllReduce { bytes, seconds })
            .collect();
        let cost = Cost::fit(&measured);
        prop_assert!(cost.latency_s >= 0.0 && cost.latency_s.is_finite(), "{cost:?}");
        prop_assert!(cost.seconds_per_byte >= 0.0 && cost.seconds_per_byte.is_finite(), "{cost:?}");
    }

    #[test]
    fn exposed_is_between_nothing_and_all(
        gradients in models(), backward_s in 0.0..1.0_f64, cost in costs(), cap in 0.01..200.0_f64,
    ) {
        let one = step(&gradients, backward_s, cost).predict(1.0, cap);
        prop_assert!(one.exposed_s >= 0.0);
        prop_assert!(one.exposed_s <= one.communication_s);
        prop_assert!((0.0..=1.0).contains(&one.exposed_share));
        // The last bucket can't begin before backward ends.
        prop_assert!(one.exposed_s >= cost.latency_s * (1.0 - 1e-9) - backward_s * 1e-9);
    }

    #[test]
    fn a_better_network_never_makes_it_worse(
        gradients in models(), backward_s in 0.0..1.0_f64, cost in costs(), cap in 0.01..200.0_f64,
        less in 0.0..1.0_f64,
    ) {
        let better = [
            Cost { seconds_per_byte: less * cost.seconds_per_byte, ..cost },
            Cost { latency_s: less * cost.latency_s, ..cost },
        ];
        let before = step(&gradients, backward_s, cost).predict(1.0, cap).exposed_s;
        for cost in better {
            let after = step(&gradients, backward_s, cost).predict(1.0, cap).exposed_s;
            prop_assert!(after <= before + 1e-12, "{after} after {before}");
        }
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

#[test]
fn the_pipeline_by_hand() {
    // Four gradients of 1 MB, ready at 1, 2, 3 and 4 s; an all_reduce takes 0.5 s and 1 s a MB.
    let gradients = [1 << 20; 4];
    let cost = Cost {
        latency_s: 0.5,
        seconds_per_byte: 1.0 / MEGABYTE,
    };
    let step = step(&gradients, 4.0, cost);
    // One by one: from 1, done at 2.5, 4, 5.5 and 7.
    let single = step.predict(1.0, 1.0);
    assert_eq!((single.buckets, single.exposed_s), (4, 3.0));
    assert!((single.communication_s - 6.0).abs() < 1e-9);
    // Two by two: from 2, done at 4.5 and 7.
    let double = step.predict(2.0, 2.0);
    assert_eq!((double.buckets, double.exposed_s), (2, 3.0));
    // One first, and the rest when backward ends: done at 4 + 3.5.
    let rest = step.predict(1.0, 25.0);
    assert_eq!((rest.buckets, rest.exposed_s), (2, 3.5));
    assert!((rest.exposed_share - 3.5 / 9.5).abs() < 1e-9);
}

#[test]
fn a_planned_size_that_is_as_good_as_any_is_kept() {
    let gradients = [1 << 20; 64];
    let cheap = Cost {
        latency_s: 1e-6,
        seconds_per_byte: 1e-12,
    };
    let plan = DdpConfig::new();
    let fast = step(&gradients, 1.0, cheap);
    let planned = fast.predict(plan.first_bucket_mb, plan.bucket_cap_mb);
    assert_eq!(best(&planned, &fast.try_all(&plan)), planned);

    // On a slow network, 25 MB that leave at the end are waited for; smaller buckets leave earlier.
    let slow = Cost {
        latency_s: 1e-4,
        seconds_per_byte: 1e-8,
    };
    let slow = step(&gradients, 1.0, slow);
    let planned = slow.predict(plan.first_bucket_mb, plan.bucket_cap_mb);
    let better = best(&planned, &slow.try_all(&plan));
    assert!(better.bucket_cap_mb < plan.bucket_cap_mb, "{better:?}");
    assert!(better.exposed_share + TIE < planned.exposed_share);
}
