//! Runs of one test with many seeds, for tests.

use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

/// Holds the one seed to run, for one that failed.
const VARIABLE: &str = "BURN_DIST_TEST_SEED";

/// Runs a test with the seeds below `seeds`, on several threads at once, and fails with the stories of
/// all seeds that fail. `run` says whether a seed came through, or what is wrong with it; the result is
/// how many came through, or none where one seed was run again.
pub(crate) fn try_seeds(
    seeds: u64,
    threads: usize,
    run: impl Fn(u64) -> Result<bool, String> + Sync,
) -> Option<u64> {
    let one = std::env::var(VARIABLE).ok();
    let one: Option<u64> = one.map(|seed| seed.parse().unwrap());
    let seeds = one.map_or(0..seeds, |seed| seed..seed + 1);
    let (next, through) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
                    match outcome.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                        Ok(came) => drop(through.fetch_add(u64::from(came), Relaxed)),
                        Err(story) => failed.lock().push(format!("seed {seed}: {story}")),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(
        failed.is_empty(),
        "{} seeds failed (run one again with {VARIABLE}=…):\n{}",
        failed.len(),
        failed.join("\n")
    );
    one.is_none().then(|| through.into_inner())
}
