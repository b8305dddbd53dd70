//! The groups of one process, and how news from other processes reach them.
//!
//! Who owns what: every seat of the process holds the [`World`], which waits for a report that is under
//! way and closes the network when the last is gone. The network holds the [`Registry`], and that only
//! weak references to the groups and the [`Reporter`]: a thread of the network's never drops the last
//! reference to the network that would join it.
//!
//! Locks are taken in the order registry, group. News are handed on with the registry unlocked, but for
//! those that came before their group.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::notice::{Letter, Notice};
use super::reporter::Reporter;
use crate::transport::gone::Gone;
use crate::transport::network::{Cause, Lost, Network, Watcher};

/// Number of notices kept for groups that this process has not made yet. The oldest are dropped first: if their
/// group is made later, it finds out by its deadline.
const EARLY_LIMIT: usize = 1024;

/// A group that lies in several processes.
pub(crate) trait Told: Send + Sync {
    /// A process said something about the group.
    fn notice(&self, from: usize, notice: Notice);

    /// A process is lost, which may or may not host ranks of the group.
    fn lost(&self, lost: &Lost);
}

/// The groups of one process.
pub(crate) struct Registry {
    book: Mutex<Book>,
    reporter: Weak<Reporter>,
}

#[derive(Default)]
struct Book {
    groups: HashMap<u64, Weak<dyn Told>>,
    early: VecDeque<(u64, usize, Notice)>,
    /// Groups that were there, which need no news.
    gone: Gone,
    /// One for each process at most.
    lost: Vec<Lost>,
}

impl Registry {
    /// No groups yet; news of records are the reporter's.
    pub(crate) fn new(reporter: &Arc<Reporter>) -> Arc<Self> {
        Arc::new(Self {
            book: Mutex::default(),
            reporter: Arc::downgrade(reporter),
        })
    }

    /// Adds a group, and tells it what came before it was there.
    pub(crate) fn register<G: Told + 'static>(&self, number: u64, group: &Arc<G>) {
        let told: Arc<dyn Told> = group.clone();
        let mut book = self.book.lock();
        let Book { groups, gone, .. } = &mut *book;
        groups.retain(|number, group| {
            let is_there = group.strong_count() > 0;
            if !is_there {
                gone.add(*number);
            }
            is_there
        });
        book.groups.insert(number, Arc::downgrade(&told));
        let (due, early) = std::mem::take(&mut book.early)
            .into_iter()
            .partition(|(group, ..)| *group == number);
        book.early = early;
        let due: VecDeque<_> = due;
        for (_, from, notice) in due {
            told.notice(from, notice);
        }
        for lost in &book.lost {
            told.lost(lost);
        }
    }
}

impl Watcher for Registry {
    fn lost(&self, lost: &Lost) {
        // Before the groups fail, so that the records show where their ranks wait.
        if let (Cause::Silent(_), Some(reporter)) = (&lost.cause, self.reporter.upgrade()) {
            reporter.begin();
        }
        let groups: Vec<_> = {
            let mut book = self.book.lock();
            if book.lost.iter().all(|known| known.process != lost.process) {
                book.lost.push(lost.clone());
            }
            book.groups.values().filter_map(Weak::upgrade).collect()
        };
        for group in groups {
            group.lost(lost);
        }
    }

    fn notice(&self, from: usize, notice: &[u8]) {
        match Letter::decode(notice) {
            Ok(Letter::Of(group, notice)) => self.hand_on(from, group, notice),
            Ok(Letter::Records(snapshot)) => {
                if let Some(reporter) = self.reporter.upgrade() {
                    reporter.hear_records(from, snapshot);
                }
            }
            Ok(Letter::Compared) => {
                if let Some(reporter) = self.reporter.upgrade() {
                    reporter.hear_compared();
                }
            }
            Err(message) => {
                let cause = Cause::Malformed(format!("a notice: {message}").into());
                self.lost(&Lost {
                    process: from,
                    address: format!("number {from}"),
                    cause,
                });
            }
        }
    }
}

impl Registry {
    /// Tells a group what a process said about it, or keeps it until the group is there.
    fn hand_on(&self, from: usize, number: u64, notice: Notice) {
        let group = {
            let mut book = self.book.lock();
            if let Some(group) = book.groups.get(&number) {
                // A group that is gone needs no news.
                group.upgrade()
            } else if book.gone.contains(number) {
                None
            } else {
                if book.early.len() == EARLY_LIMIT {
                    book.early.pop_front();
                }
                book.early.push_back((number, from, notice.clone()));
                None
            }
        };
        if let Some(group) = group {
            group.notice(from, notice);
        }
    }
}

/// This process's part in a job; dropping it leaves the job.
pub(crate) struct World {
    /// None in a job of this process alone.
    network: Option<Arc<dyn Network>>,
    reporter: Arc<Reporter>,
}

impl World {
    /// A job of this process alone.
    pub(crate) fn alone(reporter: Arc<Reporter>) -> Arc<Self> {
        let network = None;
        Arc::new(Self { network, reporter })
    }

    /// Begins to listen to the other processes.
    pub(crate) fn new(
        network: Arc<dyn Network>,
        registry: &Arc<Registry>,
        reporter: Arc<Reporter>,
    ) -> Arc<Self> {
        network.watch(registry.clone());
        let network = Some(network);
        Arc::new(Self { network, reporter })
    }

    /// This process's number in the job.
    pub(crate) fn process(&self) -> usize {
        self.network.as_ref().map_or(0, |network| network.process())
    }

    /// Leaves the job, once all ranks of this process have left their groups: sends what is queued and says goodbye.
    pub(crate) fn close(&self) {
        // A report needs the network.
        self.reporter.close();
        if let Some(network) = &self.network {
            network.close();
        }
    }

    /// Returns the number of bytes this process has sent to the others.
    pub(crate) fn sent(&self) -> u64 {
        self.network.as_ref().map_or(0, |network| network.sent())
    }

    /// Returns the number of messages this process has sent to the others.
    pub(crate) fn messages(&self) -> u64 {
        let network = self.network.as_ref();
        network.map_or(0, |network| network.messages())
    }

    /// Returns the number of open connections with the others.
    pub(crate) fn connections(&self) -> usize {
        let network = self.network.as_ref();
        network.map_or(0, |network| network.connections())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Departure;
    use crate::transport::processes::Spans;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts what it is told.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Told for Counting {
        fn notice(&self, _: usize, _: Notice) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn lost(&self, _: &Lost) {}
    }

    #[test]
    fn notices_of_groups_that_are_gone_push_none_out_that_matters() {
        let registry = Registry::new(&Reporter::alone(1, None));
        let tell = |group| {
            let notice = Notice::left(0, &Departure::Returned, &Spans::default(), Vec::new());
            Watcher::notice(&*registry, 1, &notice.encode(group).unwrap());
        };
        let gone = Arc::new(Counting::default());
        registry.register(1, &gone);
        drop(gone);
        registry.register(2, &Arc::new(Counting::default()));
        tell(3);
        for _ in 0..EARLY_LIMIT {
            tell(1);
        }
        let made = Arc::new(Counting::default());
        registry.register(3, &made);
        assert_eq!(made.0.load(Ordering::Relaxed), 1);
    }
}
