//! Properties of the sampler, over random sizes: what each rank sees, and what all see together.

use burn_dist::data::{
    DistributedSampler, DistributedSamplerConfig, EpochPlan, IndexBatch, Remainder, SamplerState,
};
use proptest::prelude::*;
use std::collections::HashSet;

/// The sizes of one run.
#[derive(Clone, Copy, Debug)]
struct Run {
    world_size: usize,
    batch_size: usize,
    remainder: Remainder,
}

fn runs() -> impl Strategy<Value = Run> {
    let remainder = prop_oneof![
        Just(Remainder::Uneven),
        Just(Remainder::Pad),
        Just(Remainder::DropLast)
    ];
    (1..=8_usize, 1..=33_usize, remainder).prop_map(|(world_size, batch_size, remainder)| Run {
        world_size,
        batch_size,
        remainder,
    })
}

/// A dataset length, mostly of the size of a few steps, and often none or next to none.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0..=9_usize, 4 => 0..500_usize]
}

/// No shuffle, or a seed.
fn seeds() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), any::<u64>().prop_map(Some)]
}

impl Run {
    fn global_batch(self) -> usize {
        self.world_size * self.batch_size
    }

    fn samplers(self, len: usize, seed: Option<u64>) -> Vec<DistributedSampler> {
        let Self {
            world_size,
            batch_size,
            remainder,
        } = self;
        (0..world_size)
            .map(|rank| {
                DistributedSamplerConfig::new(len, rank, world_size)
                    .with_batch_size(Some(batch_size))
                    .with_seed(seed)
                    .with_remainder(remainder)
                    .init()
                    .unwrap()
            })
            .collect()
    }

    /// The batches of an epoch: one list of ranks for each step. Fails unless every rank has the same
    /// number of batches of sizes that fit, and reports the same numbers about them.
    fn steps(self, plans: &[EpochPlan]) -> Vec<Vec<IndexBatch>> {
        let ranks: Vec<Vec<IndexBatch>> = plans.iter().map(|plan| plan.iter().collect()).collect();
        for (plan, batches) in plans.iter().zip(&ranks) {
            assert_eq!(batches.len(), ranks[0].len());
            assert_eq!(batches.len(), plan.num_batches());
            assert_eq!(
                batches
                    .iter()
                    .map(|batch| batch.indices.len())
                    .sum::<usize>(),
                plan.num_items()
            );
            assert_eq!(plan.batch(batches.len()), None);
        }
        (0..ranks[0].len())
            .map(|step| {
                let batches: Vec<_> = ranks.iter().map(|rank| rank[step].clone()).collect();
                let total: usize = batches.iter().map(|batch| batch.real).sum();
                let largest = batches[0].indices.len();
                assert!(largest >= 1 && largest <= self.batch_size);
                for batch in &batches {
                    let size = batch.indices.len();
                    assert_eq!(batch.total_real, total);
                    if self.remainder == Remainder::Uneven {
                        // Padded only where there is nothing else.
                        assert_eq!(size, batch.real.max(1));
                        assert!(largest - size <= 1);
                    } else {
                        assert_eq!(size, largest);
                        // At most one padded item a rank, so no rank's share is mostly repeats.
                        assert!(size - batch.real <= 1);
                    }
                }
                batches
            })
            .collect()
    }
}

fn epoch(samplers: &[DistributedSampler], epoch: u64) -> Vec<EpochPlan> {
    samplers
        .iter()
        .map(|sampler| sampler.epoch(epoch).unwrap())
        .collect()
}

fn resumed(samplers: &[DistributedSampler], state: &SamplerState) -> Vec<EpochPlan> {
    samplers
        .iter()
        .map(|sampler| sampler.resume(state).unwrap())
        .collect()
}

/// The samples that count, in order of step, rank and place in the batch.
fn real(steps: &[Vec<IndexBatch>]) -> Vec<usize> {
    let batches = steps.iter().flatten();
    batches
        .flat_map(|batch| batch.indices[..batch.real].to_vec())
        .collect()
}

/// The order of an epoch, as one rank with batches of one sees it.
fn order(len: usize, seed: Option<u64>, number: u64) -> Vec<usize> {
    let one = Run {
        world_size: 1,
        batch_size: 1,
        remainder: Remainder::Pad,
    };
    real(&one.steps(&epoch(&one.samplers(len, seed), number)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The heart of it. The naive reference is the order of one rank, cut into global batches. Since
    /// it fixes every step's samples, ranks that disagreed on the permutation could not meet it.
    #[test]
    fn all_ranks_see_what_one_rank_with_the_global_batch_sees(
        run in runs(), len in lengths(), seed in seeds(), number in 0..4_u64,
    ) {
        let samplers = run.samplers(len, seed);
        let steps = run.steps(&epoch(&samplers, number));
        let order = order(len, seed, number);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..len).collect::<Vec<_>>());

        let expected: Vec<&[usize]> = match run.remainder {
            Remainder::Uneven | Remainder::Pad => order.chunks(run.global_batch()).collect(),
            Remainder::DropLast => order.chunks_exact(run.global_batch()).collect(),
        };
        prop_assert_eq!(steps.len(), expected.len());
        for (step, expected) in steps.iter().zip(expected) {
            prop_assert_eq!(real(std::slice::from_ref(step)), expected);
        }
        for (rank, sampler) in samplers.iter().enumerate() {
            prop_assert_eq!(sampler.num_batches(), steps.len());
            let items: usize = steps.iter().map(|step| step[rank].indices.len()).sum();
            prop_assert_eq!(sampler.num_items(), items);
        }
    }

    /// Padding goes from the start of the epoch's order onwards, over the ranks in their order.
    #[test]
    fn padding_repeats_the_start_of_the_order(
        run in runs(), len in 1..500_usize, seed in seeds(), number in 0..4_u64,
    ) {
        let steps = run.steps(&epoch(&run.samplers(len, seed), number));
        let padding: Vec<usize> =
            steps.iter().flatten().flat_map(|batch| batch.indices[batch.real..].to_vec()).collect();
        let expected = order(len, seed, number).into_iter().cycle().take(padding.len());
        prop_assert_eq!(&padding, &expected.collect::<Vec<_>>());
        prop_assert!(padding.len() < run.world_size);
        prop_assert!(run.remainder != Remainder::DropLast || padding.is_empty());
    }

    /// A run stopped after some steps, and again after some more by runs of other sizes, covers the
    /// epoch's order without a gap or a repeat.
    #[test]
    fn an_epoch_resumed_with_other_sizes_covers_exactly_the_rest(
        sizes in prop::collection::vec((runs(), 0.0..1.0_f64), 1..4),
        len in lengths(), seed in seeds(), number in 0..4_u64,
    ) {
        let order = order(len, seed, number);
        let mut state = SamplerState { dataset_len: len as u64, seed, epoch: number, consumed: 0 };
        let mut seen = Vec::new();
        for (run, share) in sizes {
            let plans = resumed(&run.samplers(len, seed), &state);
            let steps = run.steps(&plans);
            // Never the last step, so that the epoch is still the same one.
            let taken = (steps.len().saturating_sub(1) as f64 * share) as usize;
            seen.extend(real(&steps[..taken]));
            if taken < steps.len() {
                state = plans[0].state(taken);
                for plan in &plans {
                    prop_assert_eq!(plan.state(taken), state);
                }
                prop_assert_eq!((state.epoch, state.consumed), (number, seen.len() as u64));
            }
        }
        let last = Run { world_size: 3, batch_size: 5, remainder: Remainder::Pad };
        seen.extend(real(&last.steps(&resumed(&last.samplers(len, seed), &state))));
        prop_assert_eq!(seen, order);
    }

    /// With the same sizes, a resumed epoch is the tail of the uninterrupted one, padding included.
    #[test]
    fn an_epoch_resumed_with_the_same_sizes_is_its_own_tail(
        run in runs(), len in lengths(), seed in seeds(), number in 0..4_u64, share in 0.0..1.0_f64,
    ) {
        let samplers = run.samplers(len, seed);
        let whole = epoch(&samplers, number);
        let steps = run.steps(&whole);
        let taken = (steps.len() as f64 * share) as usize;
        if taken < steps.len() {
            let rest = resumed(&samplers, &whole[0].state(taken));
            prop_assert_eq!(run.steps(&rest), &steps[taken..]);
        }
        let next = whole[0].state(steps.len());
        prop_assert_eq!((next.epoch, next.consumed), (number + 1, 0));
    }

    /// From 20 samples on, two equal orders by chance are out of the question (1 in 20!).
    #[test]
    fn epochs_and_seeds_have_orders_of_their_own(len in 20..300_usize, seed in any::<u64>()) {
        let mut orders = HashSet::from([order(len, None, 0)]);
        for number in 0..4 {
            prop_assert!(orders.insert(order(len, Some(seed), number)));
            prop_assert!(orders.insert(order(len, Some(seed.wrapping_add(1)), number)));
            prop_assert_eq!(order(len, None, number), (0..len).collect::<Vec<_>>());
        }
    }
}

/// The orders of longer data sets are computed. None of these lengths fits into memory as a list.
#[test]
fn ranks_share_a_data_set_of_any_length_without_holding_its_order() {
    for len in [1 << 60, 100_000_000] {
        let batches = (0..4).map(|rank| {
            let config = DistributedSamplerConfig::new(len, rank, 4).with_batch_size(Some(8));
            let sampler = config.with_seed(Some(7)).init().unwrap();
            let state = SamplerState {
                dataset_len: len as u64,
                seed: Some(7),
                epoch: 2,
                consumed: len as u64 / 2,
            };
            let first = sampler.epoch(2).unwrap().batch(0).unwrap();
            let middle = sampler.resume(&state).unwrap().batch(0).unwrap();
            [first.indices, middle.indices].concat()
        });
        let seen: HashSet<usize> = batches.flatten().collect();
        assert_eq!(seen.len(), 64);
        assert!(seen.iter().all(|&index| index < len));
    }
}

#[test]
fn a_state_survives_being_written_down() {
    let sampler = DistributedSamplerConfig::new(100, 0, 2)
        .with_batch_size(Some(8))
        .with_seed(Some(7))
        .init()
        .unwrap();
    let state = sampler.epoch(5).unwrap().state(3);
    let format = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(state, format).unwrap();
    let (read, _): (SamplerState, _) = bincode::serde::decode_from_slice(&bytes, format).unwrap();
    assert_eq!(read, state);
    assert_eq!((read.epoch, read.consumed), (5, 48));
}
