//! The loader's threads: how far they run ahead, what becomes of an error, a panic or a hang in one, and
//! that none is left.

use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::Device;
use std::cell::OnceCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::{Counted, Keep, config, numbers, wait_until};

#[test]
fn workers_load_no_further_ahead_than_they_may() {
    let loads = Arc::new(AtomicUsize::new(0));
    let dataset = Counted {
        loads: Arc::clone(&loads),
    };
    let loader = config(1)
        .with_num_workers(2)
        .with_prefetch(3)
        .init_shard((0, 1), &Device::default(), Keep, dataset)
        .unwrap();
    let mut batches = loader.batches();
    for taken in 1..=94 {
        batches.next().unwrap().unwrap();
        // Each of the two holds at most three; all of it comes, and never more.
        wait_until(|| loads.load(Ordering::SeqCst) >= taken + 5);
        assert!(loads.load(Ordering::SeqCst) <= taken + 6);
    }
}

/// A hundred numbers, of which one can't be read.
struct Flawed {
    at: usize,
    panics: bool,
}

impl Dataset<usize> for Flawed {
    fn get(&self, index: usize) -> Result<usize, DatasetError> {
        assert!(
            !self.panics || index != self.at,
            "sample {index} is too much"
        );
        if index == self.at {
            return Err(DatasetError::new(std::io::Error::other("the disk is gone")));
        }
        Ok(index)
    }

    fn len(&self) -> usize {
        100
    }
}

#[test]
fn errors_and_panics_come_in_their_place_and_end_the_pass() {
    for workers in 0..4 {
        for (panics, said) in [(false, "the disk is gone"), (true, "sample 37 is too much")] {
            let loader = config(5)
                .with_num_workers(workers)
                .init_shard((1, 2), &Device::default(), Keep, Flawed { at: 37, panics })
                .unwrap();
            // Rank 1 has 5..10, 15..20, 25..30, 35..40.
            let mut batches = loader.batches();
            for step in 0..3 {
                assert_eq!(batches.next().unwrap().unwrap().batch.0[0], 10 * step + 5);
            }
            let message = batches.next().unwrap().unwrap_err().to_string();
            assert!(message.contains("rank 1, epoch 0, batch 3"), "{message}");
            assert!(message.contains(said), "{message}");
            assert!(batches.next().is_none());
            // The failed batch was not consumed: a resumed run tries it again.
            assert_eq!(loader.state().consumed, 30);

            let burns: Vec<_> = loader.iter().collect();
            assert_eq!(burns.len(), 4);
            assert!(burns[3].as_ref().unwrap_err().to_string().contains(said));
        }
    }
}

/// A batcher that fails at its second batch.
struct Stumbles;

impl Batcher<usize, usize> for Stumbles {
    fn batch(&self, items: Vec<usize>, _device: &Device) -> usize {
        assert_ne!(items, [4, 5, 6, 7], "these do not fit");
        items.len()
    }
}

#[test]
fn a_panic_of_the_batcher_is_an_error_too() {
    for workers in 0..3 {
        let config = config(4).with_num_workers(workers);
        let loader = config
            .init_shard((0, 1), &Device::default(), Stumbles, numbers(20))
            .unwrap();
        let batches: Vec<_> = loader.batches().collect();
        assert_eq!(batches.len(), 2);
        let message = batches[1].as_ref().unwrap_err().to_string();
        assert!(
            message.contains("batch 1") && message.contains("these do not fit"),
            "{message}"
        );
    }
}

/// Answers with fewer items than asked for.
struct Short;

impl Dataset<usize> for Short {
    fn get(&self, index: usize) -> Result<usize, DatasetError> {
        Ok(index)
    }

    fn get_many(&self, indexes: Vec<usize>) -> Result<Vec<usize>, DatasetError> {
        Ok(indexes[1..].to_vec())
    }

    fn len(&self) -> usize {
        9
    }
}

#[test]
fn a_dataset_that_returns_too_few_items_is_an_error() {
    let loader = config(3)
        .init_shard((0, 1), &Device::default(), Keep, Short)
        .unwrap();
    let message = loader.batches().next().unwrap().unwrap_err().to_string();
    assert!(message.contains("2 items where 3"), "{message}");
}

/// Counts the threads that have read from it and have not ended. Reading and ending last a while, so
/// that a thread that an implementation does not wait for is seen.
struct Slow {
    threads: Arc<AtomicUsize>,
}

/// Dropped when its thread ends, after all else that the thread does.
struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(20));
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

thread_local! {
    static LEAVING: OnceCell<Leaving> = const { OnceCell::new() };
}

impl Dataset<usize> for Slow {
    fn get(&self, index: usize) -> Result<usize, DatasetError> {
        LEAVING.with(|leaving| {
            leaving.get_or_init(|| {
                self.threads.fetch_add(1, Ordering::SeqCst);
                Leaving(Arc::clone(&self.threads))
            });
        });
        std::thread::sleep(Duration::from_millis(20));
        Ok(index)
    }

    fn len(&self) -> usize {
        1000
    }
}

#[test]
fn an_iterator_dropped_early_leaves_no_thread() {
    let threads = Arc::new(AtomicUsize::new(0));
    let dataset = Slow {
        threads: Arc::clone(&threads),
    };
    let loader = config(1)
        .with_num_workers(3)
        .with_prefetch(50)
        .init_shard((0, 1), &Device::default(), Keep, dataset)
        .unwrap();
    for taken in [0, 1, 4] {
        let mut batches = loader.batches();
        assert_eq!(
            batches.by_ref().take(taken).map(Result::unwrap).count(),
            taken
        );
        wait_until(|| threads.load(Ordering::SeqCst) == 3);
        drop(batches);
        assert_eq!(threads.load(Ordering::SeqCst), 0);
    }
    drop(loader);
    assert_eq!(Arc::strong_count(&threads), 1);
}

#[test]
fn an_error_leaves_no_thread_either() {
    let threads = Arc::new(AtomicUsize::new(0));
    let dataset = Slow {
        threads: Arc::clone(&threads),
    };
    let config = config(4).with_num_workers(3).with_prefetch(9);
    let loader = config
        .init_shard((0, 1), &Device::default(), Stumbles, dataset)
        .unwrap();
    let mut batches = loader.batches();
    assert!(batches.next().unwrap().is_ok());
    assert!(batches.next().unwrap().is_err());
    assert_eq!(
        threads.load(Ordering::SeqCst),
        0,
        "the iterator is still there, its threads are not"
    );
    drop(batches);
}

/// Hangs at one sample until it is let go.
struct Hangs {
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Dataset<usize> for Hangs {
    fn get(&self, index: usize) -> Result<usize, DatasetError> {
        if index == 3 {
            // Returns when the test drops the sending end.
            let _ = self.gate.lock().unwrap().recv();
        }
        Ok(index)
    }

    fn len(&self) -> usize {
        10
    }
}

#[test]
fn a_dataset_that_hangs_is_an_error_at_the_deadline() {
    let (release, gate) = mpsc::channel();
    let loader = config(1)
        .with_num_workers(2)
        .with_timeout(Duration::from_secs(1))
        .init_shard(
            (0, 1),
            &Device::default(),
            Keep,
            Hangs {
                gate: Mutex::new(gate),
            },
        )
        .unwrap();
    let batches: Vec<_> = loader.batches().collect();
    assert_eq!(batches.len(), 4);
    let message = batches[3].as_ref().unwrap_err().to_string();
    assert!(
        message.contains("batch 3") && message.contains("within 1 s"),
        "{message}"
    );
    drop(release);
}
