//! The sizes at which collectives go from one algorithm to another.
//!
//! All processes of a job use the same ones. They change how long a collective takes, and never its result.

mod file;

use serde::{Deserialize, Serialize};

pub use file::Tuned;

/// The sizes at which collectives over several processes change their algorithm, in bytes.
///
/// The defaults were measured over loopback TCP on 2 cores, where they are small for a fast network. `burn-dist bench
/// tune` measures those of a job's own machines and writes them to a file, which
/// [`JobConfig::with_crossovers_file`](crate::JobConfig::with_crossovers_file) reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossovers {
    /// For all-reduce, by number of processes, ascending.
    pub(crate) all_reduce: Vec<AllReduceCrossovers>,
    /// Up to so many processes, everybody sends everybody its parcel.
    pub(crate) few: usize,
    /// A parcel of more bytes goes from its sender to its receiver, a smaller one by way of others.
    pub(crate) parcel: usize,
    /// A broadcast buffer of more bytes is scattered and gathered.
    pub(crate) broadcast: usize,
}

/// The sizes for so many processes, and more up to the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AllReduceCrossovers {
    pub(crate) processes: usize,
    /// Everybody sends everybody a buffer of up to so many bytes.
    pub(crate) round: usize,
    /// A buffer of up to so many bytes is reduced by recursive doubling.
    pub(crate) doubling: usize,
}

/// The sizes for so many processes.
const fn row(processes: usize, round: usize, doubling: usize) -> AllReduceCrossovers {
    AllReduceCrossovers {
        processes,
        round,
        doubling,
    }
}

impl Default for Crossovers {
    fn default() -> Self {
        if cfg!(test) {
            return Self::small();
        }
        Self {
            all_reduce: vec![
                row(2, 48 << 10, 0),
                row(3, 24 << 10, 0),
                row(4, 0, 48 << 10),
                row(5, 0, 16 << 10),
            ],
            few: 4,
            parcel: 4 << 10,
            broadcast: 64 << 10,
        }
    }
}

impl Crossovers {
    /// Sets the sizes of an all-reduce over so many processes and more: a buffer of up to `round` bytes goes from
    /// everybody to everybody, one of up to `doubling` bytes by recursive doubling, and a larger one is scattered and
    /// gathered. Those of fewer processes stay.
    #[must_use]
    pub fn with_all_reduce(mut self, processes: usize, round: usize, doubling: usize) -> Self {
        self.all_reduce.retain(|row| row.processes < processes);
        self.all_reduce.push(row(processes, round, doubling));
        self
    }

    /// Sets the size above which a broadcast buffer is scattered and gathered.
    #[must_use]
    pub fn with_broadcast(mut self, bytes: usize) -> Self {
        self.broadcast = bytes;
        self
    }

    /// Returns true if buffers may go from everybody to everybody in a job of so many processes.
    pub fn has_rounds(&self, processes: usize) -> bool {
        processes <= self.few
    }

    /// Sizes that let tests reach every algorithm with little.
    fn small() -> Self {
        Self {
            all_reduce: vec![
                row(2, 8 << 10, 0),
                row(3, 4 << 10, 0),
                row(4, 1 << 10, 5 << 10),
                row(5, 0, 2 << 10),
            ],
            few: 4,
            parcel: 1 << 10,
            broadcast: 2 << 10,
        }
    }

    /// The sizes for an all-reduce over so many processes.
    pub(crate) fn all_reduce(&self, processes: usize) -> AllReduceCrossovers {
        let fitting = self.all_reduce.iter().rev();
        let mut fitting = fitting.filter(|row| row.processes <= processes);
        fitting.next().copied().unwrap_or(row(processes, 0, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_most_processes_that_are_no_more() {
        let crossovers = Crossovers::default().with_all_reduce(4, 10, 20);
        let round = |processes| crossovers.all_reduce(processes).round;
        assert_eq!((round(4), round(64)), (10, 10));
        assert_eq!(round(3), Crossovers::default().all_reduce(3).round);
        assert_eq!(round(1), 0);
        assert!(crossovers.has_rounds(4) && !crossovers.has_rounds(5));
    }
}
