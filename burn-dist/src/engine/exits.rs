//! The ranks that have left a group.
//!
//! A rank that leaves ends only the operations that need it: those that it has not come to. If it left *early*,
//! its launcher may give a better reason soon. The ranks that need it wait for that up to [`GRACE`].

use std::time::{Duration, Instant};

use crate::error::Departure;
use crate::transport::processes::Spans;

/// The time for which ranks that need one that left early wait for a better reason.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// A rank's departure.
#[derive(Clone)]
pub(super) struct Exit {
    pub(super) reason: Departure,
    /// The time until which a better reason may come; none if this is the last word.
    pub(super) settles: Option<Instant>,
    /// The operations that a rank elsewhere has come to.
    pub(super) reached: Spans,
    /// The number of messages that a rank elsewhere has sent to each rank.
    pub(super) sent: Vec<(usize, u64)>,
}

impl Exit {
    /// A departure, for which a better reason may come soon if it is early.
    pub(super) fn new(reason: Departure, early: bool) -> Self {
        Self {
            reason,
            settles: early.then(|| Instant::now() + GRACE),
            reached: Spans::default(),
            sent: Vec::new(),
        }
    }

    /// The time until which a better reason may come, if it may still.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.settles.filter(|until| *until > Instant::now())
    }
}

/// The departures of a group, by rank.
pub(super) struct Exits {
    by_rank: Vec<Option<Exit>>,
    count: usize,
}

impl Exits {
    pub(super) fn new(ranks: usize) -> Self {
        Self {
            by_rank: vec![None; ranks],
            count: 0,
        }
    }

    /// A rank's departure; none for a rank that is there, and for one that does not exist.
    pub(super) fn get(&self, rank: usize) -> Option<&Exit> {
        self.by_rank.get(rank)?.as_ref()
    }

    /// True if nobody has left.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All departures.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Exit)> {
        let all = self.by_rank.iter().enumerate();
        all.filter_map(|(rank, exit)| Some((rank, exit.as_ref()?)))
    }

    /// True if a departure says more than what is known of the rank: the first word, or the last word on a rank
    /// that left early.
    pub(super) fn is_news(&self, rank: usize, early: bool) -> bool {
        match self.by_rank.get(rank) {
            Some(Some(exit)) => exit.settles.is_some() && !early,
            Some(None) => true,
            None => false,
        }
    }

    pub(super) fn set(&mut self, rank: usize, exit: Exit) {
        if self.by_rank[rank].replace(exit).is_none() {
            self.count += 1;
        }
    }
}
