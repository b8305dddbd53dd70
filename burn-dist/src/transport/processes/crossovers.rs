//! The sizes at which collectives go from one algorithm to another.
//!
//! All processes of a job use the same ones. They change how long a collective takes, and never its result.

use serde::{Deserialize, Serialize};

/// The sizes at which collectives over several processes change their algorithm, in bytes.
///
/// The defaults were measured over loopback TCP on 2 cores, where they are small for a fast network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Crossovers {
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
pub(crate) struct AllReduceCrossovers {
    pub(crate) processes: usize,
    /// Everybody sends everybody a buffer of up to so many bytes.
    pub(crate) round: usize,
    /// A buffer of up to so many bytes is reduced by recursive doubling.
    pub(crate) doubling: usize,
}

impl Default for Crossovers {
    fn default() -> Self {
        if cfg!(test) {
            return Self::small();
        }
        let row = |processes, round, doubling| AllReduceCrossovers {
            processes,
            round,
            doubling,
        };
        Self {
            all_reduce: vec![
                row(2, 48 << 10, 0),
                row(3, 24 << 10, 0),
                row(4, 12 << 10, 96 << 10),
                row(5, 0, 16 << 10),
            ],
            few: 4,
            parcel: 4 << 10,
            broadcast: 64 << 10,
        }
    }
}

impl Crossovers {
    /// Sizes that let tests reach every algorithm with little.
    fn small() -> Self {
        let row = |processes, round, doubling| AllReduceCrossovers {
            processes,
            round,
            doubling,
        };
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
        fitting.next().copied().unwrap_or(AllReduceCrossovers {
            processes,
            round: 0,
            doubling: 0,
        })
    }
}
