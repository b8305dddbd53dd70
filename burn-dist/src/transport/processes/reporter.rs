//! The report of a job that hangs: every process writes what its ranks did last, and one compares all.
//!
//! A report begins, once in a job, when a group's ranks have waited in vain or a process has been silent
//! for its heartbeat, here or elsewhere: a process that begins tells the others, and they begin too.
//!
//! ```text
//! all:           copy the records ──> tell them to the others ──> write them to files
//! the teller:    └─ wait for the records of all that can be reached ──> compare ──> say so
//! the others:    └─ wait until the teller has said so
//! ```
//!
//! The teller is the lowest process that can be reached. It waits for [`PATIENCE`] at most, and names the
//! ranks whose records have not come by then. The others wait for it, and [`SPARE`] longer, so that their
//! ends, on which a launcher may end all processes, don't come before the comparison.
//!
//! Threads: `burn-dist-report`, started when a report begins (a rank's own thread may be the one that
//! hangs) and joined by [`Reporter::close`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::notice::Letter;
use crate::error::Ranks;
use crate::record::{Recorder, Snapshot, compare, write_comparison, write_rank};
use crate::transport::network::{Cause, Network};

/// Time that processes wait for one another in a report.
const PATIENCE: Duration = Duration::from_secs(2);

/// Additional time that the others wait for the teller, which has to write the comparison.
const SPARE: Duration = Duration::from_millis(500);

/// Interval at which a process checks which others can still be reached.
const LOOK_UP: Duration = Duration::from_millis(20);

/// The longest letter with records; a network carries twice as much.
const LONGEST: usize = 512 << 10;

/// The most bytes of the letters of all processes. Every process hears all of them.
const LONGEST_OF_ALL: usize = 1 << 20;

/// The records of the ranks of this process, and what is made of them when the job hangs.
pub(crate) struct Reporter {
    recorder: Recorder,
    /// By process.
    ranks: Vec<usize>,
    process: usize,
    network: Option<Arc<dyn Network>>,
    /// Directory of the files, if they are written.
    folder: Option<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stage: Stage,
    /// Records received from other processes.
    come: Vec<Option<Snapshot>>,
    /// True if another process has compared.
    compared: bool,
}

enum Stage {
    Quiet,
    Reporting(JoinHandle<()>),
    /// No report begins any more.
    Closed,
}

impl Reporter {
    /// For a job of this process alone.
    pub(crate) fn alone(ranks: usize, folder: Option<PathBuf>) -> Arc<Self> {
        Self::new(vec![ranks], 0, None, folder)
    }

    /// For one of the processes that a network connects, which have so many ranks each.
    pub(crate) fn among(
        network: Arc<dyn Network>,
        ranks: &[usize],
        folder: Option<PathBuf>,
    ) -> Arc<Self> {
        let process = network.process();
        Self::new(ranks.to_vec(), process, Some(network), folder)
    }

    fn new(
        ranks: Vec<usize>,
        process: usize,
        network: Option<Arc<dyn Network>>,
        folder: Option<PathBuf>,
    ) -> Arc<Self> {
        let first = ranks[..process].iter().sum();
        Arc::new(Self {
            recorder: Recorder::new(first..first + ranks[process]),
            process,
            network,
            folder,
            state: Mutex::new(State {
                stage: Stage::Quiet,
                come: vec![None; ranks.len()],
                compared: false,
            }),
            changed: Condvar::new(),
            ranks,
        })
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Begins the report, unless one has begun. The records are copied before this returns; the rest is
    /// done by a thread.
    pub(crate) fn begin(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Quiet) {
            return;
        }
        let snapshot = self.recorder.snapshot();
        let reporter = self.clone();
        let started = thread::Builder::new()
            .name("burn-dist-report".to_owned())
            .spawn(move || reporter.run(snapshot));
        state.stage = match started {
            Ok(thread) => Stage::Reporting(thread),
            Err(error) => {
                tracing::warn!(
                    "the last operations of the ranks can't be written: no thread: {error}"
                );
                Stage::Closed
            }
        };
    }

    /// True once the report has begun.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Reporting(_))
    }

    /// Waits for a report that is under way: for about [`PATIENCE`], and until its files are written. None
    /// begins after this.
    pub(super) fn close(&self) {
        let stage = std::mem::replace(&mut self.state.lock().stage, Stage::Closed);
        if let Stage::Reporting(thread) = stage {
            // It would have panicked with a message of its own.
            let _ = thread.join();
        }
    }

    /// Takes what another process has told about itself.
    pub(super) fn hear_records(self: &Arc<Self>, from: usize, mut snapshot: Snapshot) {
        // A process speaks for its own ranks alone.
        snapshot.retain(|rank| self.process_of(rank) == Some(from));
        if let Some(place) = self.state.lock().come.get_mut(from) {
            place.get_or_insert(snapshot);
        }
        self.changed.notify_all();
        self.begin();
    }

    /// Notes that another process has compared the records.
    pub(super) fn hear_compared(&self) {
        self.state.lock().compared = true;
        self.changed.notify_all();
    }

    /// The body of the thread.
    fn run(&self, own: Snapshot) {
        let deadline = Instant::now() + PATIENCE;
        self.tell(&own);
        if let Some(folder) = &self.folder {
            write_all(folder, &own);
        }
        let Some(mut snapshots) = self.await_others(deadline) else {
            return;
        };
        snapshots.push(own);
        let comparison = compare(&snapshots, self.ranks.iter().sum());
        tracing::error!("the ranks wait for one another in vain:\n{comparison}");
        if let Some(folder) = &self.folder
            && let Err(error) = write_comparison(folder, self.process, &comparison)
        {
            warn_of(folder, "the comparison", &error);
        }
        self.send(&Letter::Compared);
    }

    /// Tells the other processes this one's records, as many of them as a letter holds.
    fn tell(&self, own: &Snapshot) {
        let mut records = own.clone();
        let longest = LONGEST.min(LONGEST_OF_ALL / self.ranks.len());
        while self.network.is_some() {
            let letter = Letter::Records(records);
            match letter.encode() {
                Ok(bytes) if bytes.len() <= longest => return self.post(&bytes),
                _ => {}
            }
            let Letter::Records(rest) = letter else {
                return;
            };
            records = rest;
            if !records.halve() {
                // So many ranks that their names alone take too much: they are said to be silent.
                return;
            }
        }
    }

    fn send(&self, letter: &Letter) {
        // Such letters can always be written.
        if let Ok(bytes) = letter.encode() {
            self.post(&bytes);
        }
    }

    fn post(&self, letter: &[u8]) {
        if let Some(network) = &self.network {
            network.notify(letter);
        }
    }

    /// Waits until the teller has compared, or gives the others' records if that is this process.
    fn await_others(&self, deadline: Instant) -> Option<Vec<Snapshot>> {
        loop {
            let standings: Vec<_> = (0..self.ranks.len())
                .map(|process| self.standing(process))
                .collect();
            let mut state = self.state.lock();
            let mut below = standings.iter().zip(&state.come).take(self.process);
            // Who leaves in good order after a report has seen its end.
            let over = below.any(|(standing, come)| *standing == Standing::Left && come.is_some());
            if state.compared || over {
                return None;
            }
            let is_there = |process: &usize| standings[*process] == Standing::There;
            let is_teller = !(0..self.process).any(|process| is_there(&process));
            let mut others = (0..self.ranks.len()).filter(is_there);
            let all_here = others.all(|process| state.come[process].is_some());
            let own = if is_teller {
                deadline
            } else {
                deadline + SPARE
            };
            let left = own.saturating_duration_since(Instant::now());
            if left.is_zero() || is_teller && all_here {
                let come = state.come.iter_mut().filter_map(Option::take);
                return is_teller.then(|| come.collect());
            }
            self.changed.wait_for(&mut state, left.min(LOOK_UP));
        }
    }

    /// Returns the standing of another process; that of this one is lost.
    fn standing(&self, process: usize) -> Standing {
        let network = self.network.as_ref();
        let Some(network) = network.filter(|_| process != self.process) else {
            return Standing::Lost;
        };
        match network.check(process).map_err(|lost| lost.cause) {
            Ok(()) => Standing::There,
            Err(Cause::Left) => Standing::Left,
            Err(_) => Standing::Lost,
        }
    }

    fn process_of(&self, rank: usize) -> Option<usize> {
        let mut end = 0;
        self.ranks.iter().position(|ranks| {
            end += ranks;
            rank < end
        })
    }
}

/// State of another process, as this one sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    There,
    /// It has left in good order.
    Left,
    Lost,
}

/// Writes a file for each rank, and says where.
fn write_all(folder: &Path, snapshot: &Snapshot) {
    let mut written = Vec::new();
    for record in &snapshot.ranks {
        match write_rank(folder, snapshot, record) {
            Ok(_) => written.push(record.rank),
            Err(error) => warn_of(
                folder,
                &format!("the record of rank {}", record.rank),
                &error,
            ),
        }
    }
    if !written.is_empty() {
        let (ranks, folder) = (Ranks(&written), folder.display());
        tracing::error!("what {ranks} did last is in {folder}/burn-dist-rank-*.json");
    }
}

fn warn_of(folder: &Path, what: &str, error: &std::io::Error) {
    tracing::warn!("{what} can't be written to {}: {error}", folder.display());
}
