//! The sharded loader: order, positions, and agreement with Burn's own loader; `workers`: its threads, and
//! what fails in them; `sampler`: properties of the sampler below it.

#![expect(clippy::unwrap_used, reason = "a test fails where a value is missing")]

mod ranks;
mod sampler;
mod workers;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::{Dataset, DatasetError, InMemDataset};
use burn::tensor::Device;
use burn_dist::data::{Remainder, ShardedBatch, ShardedLoader, ShardedLoaderConfig};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A batch is the items and the device they were put on.
type Batch = (Vec<usize>, Device);

struct Keep;

impl Batcher<usize, Batch> for Keep {
    fn batch(&self, items: Vec<usize>, device: &Device) -> Batch {
        (items, device.clone())
    }
}

fn numbers(len: usize) -> InMemDataset<usize> {
    InMemDataset::new((0..len).collect())
}

fn config(batch_size: usize) -> ShardedLoaderConfig {
    ShardedLoaderConfig::new().with_batch_size(Some(batch_size))
}

/// The next epoch of a loader: for each batch its items and how many count.
fn next_epoch(loader: &ShardedLoader<Batch>) -> Vec<(Vec<usize>, usize)> {
    loader
        .batches()
        .map(Result::unwrap)
        .map(|batch| (batch.batch.0, batch.real))
        .collect()
}

fn items(loader: &dyn DataLoader<Batch>) -> Vec<Vec<usize>> {
    loader.iter().map(|batch| batch.unwrap().0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The sampler is the reference: whatever the workers, a loader yields what the plan says.
    #[test]
    fn batches_are_those_of_the_plan_whatever_the_workers(
        len in 0..120_usize, world_size in 1..5_usize, batch_size in 1..9_usize,
        workers in 0..4_usize, depth in 1..4_usize, remainder in 0..3_usize,
    ) {
        let remainder = [Remainder::Uneven, Remainder::Pad, Remainder::DropLast][remainder];
        for rank in 0..world_size {
            let loader = config(batch_size).with_seed(Some(5)).with_remainder(remainder).with_num_workers(workers).with_prefetch(depth).init_shard((rank, world_size), &Device::default(), Keep, numbers(len))
                .unwrap();
            for epoch in 0..2 {
                let plan = loader.sampler().epoch(epoch).unwrap();
                let batches: Vec<_> = loader.batches().map(Result::unwrap).collect();
                prop_assert_eq!(batches.len(), plan.num_batches());
                prop_assert_eq!(batches.len(), loader.num_batches());
                for (step, (batch, expected)) in batches.into_iter().zip(plan.iter()).enumerate() {
                    let ShardedBatch { batch, items, real, total_real, step: numbered } = batch;
                    prop_assert_eq!(numbered, step);
                    prop_assert_eq!(items, expected.indices.len());
                    prop_assert_eq!(batch.0, expected.indices);
                    prop_assert_eq!((real, total_real), (expected.real, expected.total_real));
                }
            }
        }
    }

    /// Without a shuffle, a step of all ranks is a batch of Burn's loader with the global batch.
    #[test]
    fn all_ranks_together_are_one_loader_of_burn(
        len in 0..200_usize, world_size in 1..6_usize, batch_size in 1..9_usize,
    ) {
        let whole = DataLoaderBuilder::new(Keep)
            .batch_size(world_size * batch_size)
            .build(numbers(len));
        let loader = |rank| {
            let share = (rank, world_size);
            config(batch_size).init_shard(share, &Device::default(), Keep, numbers(len)).unwrap()
        };
        let ranks: Vec<_> = (0..world_size).map(|rank| next_epoch(&loader(rank))).collect();
        let expected = items(&*whole);
        prop_assert!(ranks.iter().all(|batches| batches.len() == expected.len()));
        for (step, expected) in expected.into_iter().enumerate() {
            let of_step = ranks.iter().map(|batches| &batches[step]);
            let union: Vec<usize> = of_step.flat_map(|(items, real)| items[..*real].to_vec()).collect();
            prop_assert_eq!(union, expected);
        }
    }

    /// Stopped after some batches, a loader of another size takes exactly the rest.
    #[test]
    fn another_world_takes_the_rest_of_an_epoch(
        len in 1..150_usize, before in 1..5_usize, after in 1..5_usize, taken in 0..10_usize,
    ) {
        let loaders = |world_size, batch_size| -> Vec<_> {
            let build = |rank| {
                let config = config(batch_size).with_seed(Some(3)).with_num_workers(rank % 2);
                let share = (rank, world_size);
                config.init_shard(share, &Device::default(), Keep, numbers(len)).unwrap()
            };
            (0..world_size).map(build).collect()
        };
        let first = loaders(before, 4);
        let taken = taken.min(first[0].num_batches().saturating_sub(1));
        let mut seen = Vec::new();
        for loader in &first {
            for batch in loader.batches().take(taken) {
                let batch = batch.unwrap();
                seen.extend_from_slice(&batch.batch.0[..batch.real]);
            }
        }
        let state = first[0].state();
        prop_assert!(first.iter().all(|loader| loader.state() == state));
        for loader in loaders(after, 3) {
            loader.resume(&state).unwrap();
            for (items, real) in next_epoch(&loader) {
                seen.extend_from_slice(&items[..real]);
            }
            prop_assert_eq!((loader.state().epoch, loader.state().consumed), (1, 0));
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
    }
}

#[test]
fn each_pass_is_the_next_epoch_unless_one_is_set() {
    let loader = config(4)
        .with_seed(Some(1))
        .with_num_workers(1)
        .init_shard((0, 1), &Device::default(), Keep, numbers(30))
        .unwrap();
    let epoch = |number| {
        let plan = loader.sampler().epoch(number).unwrap();
        plan.iter()
            .map(|batch| (batch.indices, batch.real))
            .collect::<Vec<_>>()
    };
    assert_eq!(next_epoch(&loader), epoch(0));
    assert_eq!(next_epoch(&loader), epoch(1));
    loader.set_epoch(7);
    assert_eq!(loader.state().epoch, 7);
    assert_eq!(next_epoch(&loader), epoch(7));
    assert_eq!(next_epoch(&loader), epoch(8));
    // A pass given up early has had its epoch, though its position could still be saved.
    assert_eq!(loader.batches().take(2).map(Result::unwrap).count(), 2);
    assert_eq!((loader.state().epoch, loader.state().consumed), (9, 8));
    assert_eq!(next_epoch(&loader), epoch(10));
    assert_eq!((loader.state().epoch, loader.state().consumed), (11, 0));
}

#[test]
fn the_state_counts_what_was_taken_not_what_was_loaded_ahead() {
    let loads = Arc::new(AtomicUsize::new(0));
    let dataset = Counted {
        loads: Arc::clone(&loads),
    };
    let loader = config(2)
        .with_num_workers(2)
        .with_prefetch(3)
        .init_shard((0, 1), &Device::default(), Keep, dataset)
        .unwrap();
    let mut batches = loader.batches();
    batches.next().unwrap().unwrap();
    wait_until(|| loads.load(Ordering::SeqCst) >= 8);
    assert_eq!(loader.state().consumed, 2);
}

/// A hundred numbers; counts how many were read.
struct Counted {
    loads: Arc<AtomicUsize>,
}

impl Dataset<usize> for Counted {
    fn get(&self, index: usize) -> Result<usize, DatasetError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        Ok(index)
    }

    fn len(&self) -> usize {
        100
    }
}

/// Waits for what must come; a minute is a hang.
fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_mins(1), "it never came");
        std::thread::yield_now();
    }
}

#[test]
fn the_latest_pass_alone_moves_the_position() {
    let loader = config(2)
        .init_shard((0, 1), &Device::default(), Keep, numbers(10))
        .unwrap();
    let mut old = loader.batches();
    let mut new = loader.batches();
    new.next().unwrap().unwrap();
    assert_eq!(old.by_ref().map(Result::unwrap).count(), 5);
    assert_eq!((loader.state().epoch, loader.state().consumed), (1, 2));
}

#[test]
fn burn_sees_this_ranks_items_and_their_progress() {
    // 10 samples over 3 ranks with batch 2: a full step and one of two items a rank, two of them padding.
    let config = config(2).with_remainder(Remainder::Pad).with_num_workers(1);
    let loader = config.init_shard((2, 3), &Device::default(), Keep, numbers(10));
    let loader: Arc<dyn DataLoader<Batch>> = loader.unwrap();
    assert_eq!(loader.num_items(), 4);
    let mut batches = loader.iter();
    let mut progress = vec![batches.progress().items_processed];
    while let Some(batch) = batches.next() {
        batch.unwrap();
        progress.push(batches.progress().items_processed);
        assert_eq!(batches.progress().items_total, 4);
    }
    assert_eq!(progress, [0, 2, 4]);
    assert!(batches.progress().is_completed());
}

#[test]
fn a_resumed_epoch_counts_what_was_done_before_as_progress() {
    let loader = config(5)
        .init_shard((0, 2), &Device::default(), Keep, numbers(40))
        .unwrap();
    assert_eq!(loader.batches().take(3).map(Result::unwrap).count(), 3);
    let other = config(1)
        .init_shard((0, 4), &Device::default(), Keep, numbers(40))
        .unwrap();
    other.resume(&loader.state()).unwrap();
    let mut batches = other.iter();
    assert_eq!(
        batches.progress().items_processed,
        7,
        "10 of 40 samples are left, 3 of 10 items"
    );
    assert_eq!(batches.by_ref().map(Result::unwrap).count(), 3);
    assert!(batches.progress().is_completed());
}

#[test]
fn a_moved_loader_makes_batches_on_its_device_and_shares_the_position() {
    let plain = Device::default();
    let moved_to = plain.clone().autodiff();
    assert!(moved_to.is_autodiff() && !plain.is_autodiff());
    let loader = config(4)
        .with_seed(Some(2))
        .init_shard((0, 1), &Device::default(), Keep, numbers(10))
        .unwrap();
    assert_eq!(next_epoch(&loader).len(), 3);
    let moved = loader.to_device(&moved_to);
    let batches: Vec<_> = moved.iter().take(2).map(Result::unwrap).collect();
    assert!(batches.iter().all(|(_, device)| device.is_autodiff()));
    let plan = loader.sampler().epoch(1).unwrap();
    assert_eq!(batches[0].0, plan.batch(0).unwrap().indices);
    assert_eq!((loader.state().epoch, loader.state().consumed), (1, 8));
    assert!(
        loader
            .batches()
            .all(|batch| batch.unwrap().batch.1 == plain)
    );
}

#[test]
fn slices_split_this_ranks_items_in_every_epoch() {
    let loader = config(4)
        .with_remainder(Remainder::Pad)
        .with_seed(Some(2))
        .init_shard((1, 2), &Device::default(), Keep, numbers(45))
        .unwrap();
    assert_eq!(loader.num_items(), 23);
    let (left, right) = (loader.slice(0, 10), loader.slice(10, 999));
    assert_eq!((left.num_items(), right.num_items()), (10, 13));
    let middle = right.slice(2, 5);
    for _ in 0..2 {
        let whole: Vec<usize> = items(&*loader).concat();
        let (left, right) = (items(&*left), items(&*right));
        assert_eq!(left.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!([left.concat(), right.concat()].concat(), whole);
        assert_eq!(items(&*middle), [whole[12..15].to_vec()]);
    }
    assert!(items(&*loader.slice(7, 7)).is_empty());
    assert!(items(&*loader.slice(9, 3)).is_empty());
}

#[test]
fn an_empty_epoch_still_passes() {
    let empty = config(4)
        .with_num_workers(2)
        .init_shard((0, 1), &Device::default(), Keep, numbers(0))
        .unwrap();
    let small = config(4)
        .with_remainder(Remainder::DropLast)
        .init_shard((0, 1), &Device::default(), Keep, numbers(3))
        .unwrap();
    for loader in [empty, small] {
        assert!(next_epoch(&loader).is_empty());
        assert_eq!(loader.state().epoch, 1);
        assert!(next_epoch(&loader).is_empty());
        assert_eq!(loader.state().epoch, 2);
    }
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    let refused = |config: ShardedLoaderConfig, share| {
        let loader = config.init_shard(share, &Device::default(), Keep, numbers(5));
        loader.err().unwrap().to_string()
    };
    assert!(refused(config(1), (3, 3)).contains("rank 3"));
    let unsized_config = ShardedLoaderConfig::new();
    assert!(refused(unsized_config.clone(), (0, 1)).contains("got neither"));
    let both = config(4).with_global_batch_size(Some(12));
    assert!(refused(both, (0, 3)).contains("got 4 and 12"));
    let global = |size| unsized_config.clone().with_global_batch_size(Some(size));
    let uneven = refused(global(10), (0, 3));
    assert!(
        uneven.contains("a multiple of the 3 ranks, got 10"),
        "{uneven}"
    );
    let even = global(12).init_shard((0, 3), &Device::default(), Keep, numbers(30));
    assert_eq!(even.unwrap().sampler().batch_size(), 4);
    assert!(refused(config(0), (0, 1)).contains("batch_size: expected at least 1"));
    assert!(refused(config(1).with_prefetch(0), (0, 1)).contains("prefetch is 0"));
    assert!(refused(config(1).with_num_workers(2_000), (0, 1)).contains("at most 1024"));
    let loader = |len| {
        let config = config(1).with_seed(Some(1));
        config
            .init_shard((0, 1), &Device::default(), Keep, numbers(len))
            .unwrap()
    };
    let (loader, other) = (loader(5), loader(6));
    let message = loader.resume(&other.state()).unwrap_err().to_string();
    assert!(message.contains("dataset of 6 samples"), "{message}");
}
