//! What the ranks' loaders tell one another when a pass begins.

use super::{Keep, config, numbers};
use burn::tensor::Device;
use burn_dist::ProcessGroup;
use burn_dist::data::{Remainder, ShardedLoader, ShardedLoaderConfig};
use std::sync::Arc;
use std::time::Duration;

type Loader = Arc<ShardedLoader<(Vec<usize>, Device)>>;

/// Runs `f` on three ranks with a deadline that nobody comes to.
fn on_ranks<R: Send>(f: impl Fn(&ProcessGroup) -> R + Sync) -> Vec<R> {
    let groups = ProcessGroup::threads(3).unwrap();
    std::thread::scope(|scope| {
        let ranks = groups.into_iter().map(|group| {
            let f = &f;
            scope.spawn(move || f(&group.with_timeout(Duration::from_mins(1))))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn shuffled() -> ShardedLoaderConfig {
    config(4).with_seed(Some(1))
}

fn loader(config: &ShardedLoaderConfig, group: &ProcessGroup, samples: usize) -> Loader {
    let device = Device::default();
    config.init(group, &device, Keep, numbers(samples)).unwrap()
}

/// The error that the first batch of the first pass is, on each rank.
fn refused(build: impl Fn(&ProcessGroup) -> Loader + Sync) -> String {
    let errors = on_ranks(|group| {
        let loader = build(group);
        let mut batches = loader.batches();
        let error = batches.next().unwrap().unwrap_err().to_string();
        assert!(batches.next().is_none());
        error
    });
    assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
    errors[0].clone()
}

#[test]
fn what_decides_about_samples_and_differs_is_an_error_on_all_ranks() {
    let error = refused(|group| loader(&shuffled(), group, 50 + group.rank() / 2));
    assert!(
        error.contains("data set: 50 samples on ranks 0 and 1, 51 samples on rank 2;"),
        "{error}"
    );
    let error = refused(|group| {
        let seed = [7, 8, 7][group.rank()];
        loader(&shuffled().with_seed(Some(seed)), group, 50)
    });
    assert!(
        error.contains("order: seed 7 on ranks 0 and 2, seed 8 on rank 1;"),
        "{error}"
    );
    let error = refused(|group| loader(&config(4 + group.rank()).with_seed(Some(1)), group, 50));
    assert!(
        error.contains("batch size: 4 on rank 0, 5 on rank 1, 6 on rank 2;"),
        "{error}"
    );
    let error = refused(|group| {
        let policies = [Remainder::Pad, Remainder::Pad, Remainder::DropLast];
        loader(
            &shuffled().with_remainder(policies[group.rank()]),
            group,
            50,
        )
    });
    assert!(
        error.contains("remainder: Pad on ranks 0 and 1, DropLast on rank 2;"),
        "{error}"
    );
    let error = refused(|group| {
        let loader = loader(&shuffled(), group, 50);
        if group.rank() == 1 {
            loader.set_epoch(3);
        }
        loader
    });
    assert!(
        error.contains("epoch: 0 on ranks 0 and 2, 3 on rank 1;"),
        "{error}"
    );
}

/// Rank 0 looks at a batch on its own, which is its first pass; its second is compared with the others' first.
#[test]
fn a_rank_that_looked_at_a_batch_before_is_found_out() {
    let outcomes = on_ranks(|group| {
        let alone = ProcessGroup::single();
        let peeked = group.rank() == 0;
        let mine = loader(&shuffled(), group, 50);
        if peeked {
            let own = loader(&shuffled(), &alone, 50);
            assert!(own.batches().next().unwrap().is_ok());
            mine.resume(&own.state()).unwrap();
        }
        mine.batches().next().unwrap().map(|batch| batch.items)
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        let place =
            "place in the epoch: after 4 samples on rank 0, after 0 samples on ranks 1 and 2;";
        assert!(error.contains(place), "{error}");
    }
}

#[test]
fn workers_may_differ_and_every_pass_is_compared() {
    let epochs = on_ranks(|group| {
        let rank = group.rank();
        let loader = loader(&shuffled().with_num_workers(rank), group, 50);
        let pass = || {
            let batches: Result<Vec<_>, _> = loader.batches().collect();
            let batches = batches?.into_iter();
            let seen = batches.flat_map(|batch| batch.batch.0[..batch.real].to_vec());
            Ok::<_, burn_dist::Error>(seen.collect::<Vec<usize>>())
        };
        let epochs = [pass().unwrap(), pass().unwrap()];
        if rank == 2 {
            loader.set_epoch(7);
        }
        assert!(
            pass()
                .unwrap_err()
                .to_string()
                .contains("2 on ranks 0 and 1, 7 on rank 2")
        );
        epochs
    });
    for epoch in 0..2 {
        let mut seen: Vec<_> = epochs.iter().flat_map(|rank| rank[epoch].clone()).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..50));
    }
}
