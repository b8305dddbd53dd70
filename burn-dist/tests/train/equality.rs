//! Any number of ranks is one device: the same metrics at every step, the same model.

use crate::net::{Net, Norm, Samples, data, net};
use crate::recorder::{Recorder, assert_same_values};
use crate::training::{
    Loader, assert_close, burns_loader, loader, numbers, one_device, ranks, run, training,
};
use burn::train::SupervisedTraining;
use burn_dist::train::DataLoaderBuilder;

/// For training and validation.
type Loaders = (Loader, Loader);

fn burns(samples: usize, batch: usize) -> Loaders {
    (
        burns_loader(samples, batch, Some(5)),
        burns_loader(samples / 2, batch, None),
    )
}

/// Trains on one device with Burn's loaders and on ranks with ours.
fn compare(
    world_size: usize,
    samples: usize,
    batch: usize,
    change: impl Fn(SupervisedTraining<Net>) -> SupervisedTraining<Net>,
) {
    let ours = (
        loader(samples, batch, Some(5), 1),
        loader(samples / 2, batch, None, 0),
    );
    compare_with(world_size, burns(samples, batch), ours, change);
}

/// Trains on one device with the first loaders and on ranks with the second.
fn compare_with(
    world_size: usize,
    first: Loaders,
    second: Loaders,
    change: impl Fn(SupervisedTraining<Net>) -> SupervisedTraining<Net>,
) {
    let folder = tempfile::tempdir().unwrap();
    let (alone, together) = (Recorder::default(), Recorder::default());
    let one = training(folder.path(), first, one_device(), &alone);
    let one = run(change(one), net(Norm::No));

    let strategy = ranks(world_size);
    let many = training(folder.path(), second, strategy.clone(), &together);
    let many = run(change(many), net(Norm::No));

    assert_same_values(&alone, &together);
    assert_close(&one, &many);
    assert_ne!(numbers(&net(Norm::No)), numbers(&many));
    assert_eq!(strategy.report().unwrap().world_size, world_size);
}

#[test]
fn a_batch_size_of_each_rank_makes_the_steps_of_the_global_batch_size() {
    let ours = |samples, shuffle: Option<u64>| {
        let builder = DataLoaderBuilder::new(Samples::default()).batch_size(4);
        let builder = match shuffle {
            Some(seed) => builder.shuffle(seed),
            None => builder,
        };
        builder.build(data(samples))
    };
    let second = (ours(45, Some(5)), ours(22, None));
    compare_with(3, burns(45, 12), second, |training| training);
}

#[test]
fn one_rank_is_one_device() {
    compare(1, 45, 12, |training| training);
}

#[test]
fn one_rank_with_burns_own_loaders_is_one_device() {
    compare_with(1, burns(45, 12), burns(45, 12), |training| training);
}

#[test]
fn two_ranks_are_one_device_where_the_last_batch_has_unequal_parts() {
    // 45 = 3·12 + 9, which two ranks share as 4 and 5.
    compare(2, 45, 12, |training| training);
}

#[test]
fn three_ranks_are_one_device_where_two_have_no_part_of_the_last_batch() {
    compare(3, 25, 12, |training| training);
}

#[test]
fn ranks_that_do_not_divide_the_batch_are_one_device() {
    compare(3, 40, 10, |training| training);
}

#[test]
fn a_first_step_without_samples_for_a_rank_is_one_device() {
    compare(3, 4, 2, |training| training);
}

#[test]
fn accumulated_gradients_are_those_of_one_device() {
    // Four batches: steps after two and two; then after three and the last one.
    compare(2, 45, 12, |training| training.grads_accumulation(2));
    compare(2, 45, 12, |training| training.grads_accumulation(3));
}
