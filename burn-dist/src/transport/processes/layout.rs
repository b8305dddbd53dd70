//! Where the ranks of a group are.
//!
//! Invariants: every process computes the same layout from the same split; a *place* is one process
//! that hosts ranks of the group, and places are ordered by process number; a rank's *seat* counts the
//! ranks of its place, in group order.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::rendezvous::Crossovers;

/// A process that hosts ranks of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its number in the job.
    pub(crate) process: usize,
    /// The group ranks it hosts, in ascending order; at least one.
    pub(crate) ranks: Vec<usize>,
}

/// Map of the ranks of one group to the processes that host them, as one of these processes sees it.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The group, by the same number in every process.
    pub(crate) group: u64,
    places: Vec<Place>,
    /// The place of this process.
    here: usize,
    /// Place and seat of each group rank.
    seats: Vec<(usize, usize)>,
    is_aligned: bool,
    crossovers: Arc<Crossovers>,
}

impl Layout {
    /// The layout of a group whose rank `r` is hosted by process `processes[r]`, in process `here`; none if
    /// that hosts no rank of it.
    pub(crate) fn new(group: u64, processes: &[usize], here: usize) -> Option<Self> {
        let mut distinct = processes.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let here = distinct.iter().position(|&process| process == here)?;
        let mut places: Vec<Place> = distinct
            .into_iter()
            .map(|process| Place {
                process,
                ranks: Vec::new(),
            })
            .collect();
        let mut seats = Vec::with_capacity(processes.len());
        for (rank, process) in processes.iter().enumerate() {
            // Every process is among the places, which were made from them.
            let place = places.partition_point(|place| place.process < *process);
            seats.push((place, places[place].ranks.len()));
            places[place].ranks.push(rank);
        }
        let each = processes.len() / places.len();
        let mut homes = seats.iter().enumerate();
        let is_aligned = each.is_power_of_two()
            && processes.len() == each * places.len()
            && homes.all(|(rank, (place, _))| *place == rank / each);
        Some(Self {
            group,
            places,
            here,
            seats,
            is_aligned,
            crossovers: Arc::default(),
        })
    }

    /// True if all ranks are in one process.
    pub(crate) fn is_local(&self) -> bool {
        self.places.len() == 1
    }

    /// True if all places have the same power of two of ranks, in the order of places.
    pub(crate) fn is_aligned(&self) -> bool {
        self.is_aligned
    }

    /// The number of ranks.
    pub(crate) fn ranks(&self) -> usize {
        self.seats.len()
    }

    /// The layout of a group whose ranks are all in this process.
    pub(crate) fn local_only(ranks: usize) -> Self {
        let place = Place {
            process: 0,
            ranks: (0..ranks).collect(),
        };
        Self {
            group: 0,
            places: vec![place],
            here: 0,
            seats: (0..ranks).map(|rank| (0, rank)).collect(),
            is_aligned: ranks.is_power_of_two(),
            crossovers: Arc::default(),
        }
    }

    /// Sets the sizes at which collectives over the places change their algorithm, the same in all processes.
    #[must_use]
    pub(crate) fn with_crossovers(self, crossovers: Crossovers) -> Self {
        Self {
            crossovers: Arc::new(crossovers),
            ..self
        }
    }

    /// The sizes at which collectives over the places change their algorithm.
    pub(crate) fn crossovers(&self) -> &Crossovers {
        &self.crossovers
    }

    /// All places.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// The number of this process's place.
    pub(crate) fn here(&self) -> usize {
        self.here
    }

    /// The group ranks that this process hosts.
    pub(crate) fn local(&self) -> &[usize] {
        &self.places[self.here].ranks
    }

    /// The place of a rank.
    pub(crate) fn home(&self, rank: usize) -> usize {
        self.seats[rank].0
    }

    /// The seat of a rank within its place.
    pub(crate) fn seat(&self, rank: usize) -> usize {
        self.seats[rank].1
    }

    /// True if this process hosts the rank.
    pub(crate) fn is_here(&self, rank: usize) -> bool {
        self.home(rank) == self.here
    }

    /// The process that hosts a rank.
    pub(crate) fn process_of(&self, rank: usize) -> usize {
        self.places[self.home(rank)].process
    }

    /// The place of a process, if it hosts a rank of the group.
    pub(crate) fn place_of(&self, process: usize) -> Option<usize> {
        let found = self
            .places
            .binary_search_by_key(&process, |place| place.process);
        found.ok()
    }

    /// The layout of the sub-group of these ranks, some of which are in this process, that a split made for a
    /// colour.
    pub(crate) fn child(&self, sequence: u64, colour: u64, members: &[usize]) -> Self {
        let processes: Vec<_> = members.iter().map(|&rank| self.process_of(rank)).collect();
        let group = self.child_number(sequence, colour);
        let here = self.places[self.here].process;
        let child = Self::new(group, &processes, here);
        let child = child.unwrap_or_else(|| Self::local_only(members.len()));
        Self {
            crossovers: self.crossovers.clone(),
            ..child
        }
    }

    /// The number of the sub-group of a colour that a split made.
    fn child_number(&self, sequence: u64, colour: u64) -> u64 {
        number(b"split", [self.group, sequence, colour])
    }

    /// Returns the number that identifies the messages from one rank to another.
    pub(crate) fn stream(&self, from: usize, to: usize) -> u64 {
        number(b"stream", [self.group, from as u64, to as u64])
    }
}

/// A number that every process computes alike, and that no other input gives (but for a chance of
/// one in 2^64 for each pair).
fn number(kind: &[u8], parts: [u64; 3]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(kind);
    for part in parts {
        hash.update(part.to_le_bytes());
    }
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_find_their_places_and_seats() {
        // Ranks 0, 2 and 3 in process 4, ranks 1 and 4 in process 1.
        let layout = Layout::new(7, &[4, 1, 4, 4, 1], 1).unwrap();
        assert_eq!((layout.here(), layout.local()), (0, &[1, 4][..]));
        assert_eq!(layout.places()[1].ranks, [0, 2, 3]);
        assert_eq!((layout.home(3), layout.seat(3)), (1, 2));
        assert_eq!((layout.process_of(2), layout.is_here(4)), (4, true));
        assert_eq!((layout.place_of(4), layout.place_of(2)), (Some(1), None));
    }

    #[test]
    fn places_are_aligned_with_equal_powers_of_two_in_order() {
        let is_aligned = |processes: &[usize]| Layout::new(0, processes, 0).unwrap().is_aligned();
        assert!(is_aligned(&[0, 0, 1, 1, 2, 2]) && is_aligned(&[0, 1, 2]));
        assert!(!is_aligned(&[0, 1, 0, 1]) && !is_aligned(&[0, 0, 0, 1, 1, 1]));
        assert!(!is_aligned(&[0, 0, 1]) && !is_aligned(&[1, 0]));
    }

    #[test]
    fn a_layout_is_that_of_a_process_which_hosts_ranks() {
        assert!(Layout::new(0, &[3, 3], 3).unwrap().is_local());
        assert!(!Layout::new(0, &[3, 4], 3).unwrap().is_local());
        assert!(Layout::new(0, &[3, 4], 5).is_none());
    }

    #[test]
    fn groups_have_their_own_numbers() {
        let layout = Layout::new(0, &[0, 1], 0).unwrap();
        assert_eq!(layout.child_number(1, 2), layout.child_number(1, 2));
        assert_ne!(layout.child_number(1, 2), layout.child_number(2, 1));
        assert_ne!(layout.child_number(0, 1), layout.stream(0, 1));
    }
}
