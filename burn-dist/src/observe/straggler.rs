//! Who holds the others up: decided from the ranks' own times of each step, and from nothing else.
//!
//! In synchronous training all steps take equally long on all ranks, because the fast ones wait. So what
//! is compared is the time that a rank was busy, waiting for others left out.
//!
//! A rank is a straggler once it was busy [`FACTOR`] times as long as the median rank for [`STEPS`] steps in
//! a row, and is none any more after as many steps in a row in which it was not. The median of an even
//! number of ranks is the lower of the two in the middle: of two ranks, each is compared with the faster.

/// Multiple of the median busy time from which a rank is a straggler.
pub(super) const FACTOR: f64 = 1.5;

/// For how many steps in a row.
pub(super) const STEPS: u32 = 20;

/// Busy times of the ranks so far.
#[derive(Debug)]
pub(super) struct Detector {
    ranks: Vec<Streak>,
}

/// One rank.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    straggler: bool,
    /// For how many steps in a row it has behaved as the opposite.
    changed: u32,
}

/// A rank has become a straggler, or is one no more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StragglerChange {
    pub(super) rank: usize,
    pub(super) straggler: bool,
    /// For how long it was busy in the step that decided.
    pub(super) seconds: f64,
    /// For how long the median rank was.
    pub(super) median: f64,
}

impl Detector {
    pub(super) fn new(ranks: usize) -> Self {
        Self {
            ranks: vec![Streak::default(); ranks],
        }
    }

    /// Takes in one step: for how many seconds each rank was busy.
    pub(super) fn step(&mut self, busy: &[f64]) -> Vec<StragglerChange> {
        let median = lower_median(busy);
        let judge = |(rank, (streak, &seconds)): (usize, (&mut Streak, &f64))| {
            let slow = median > 0.0 && seconds >= FACTOR * median;
            streak.turns(slow).then_some(StragglerChange {
                rank,
                straggler: slow,
                seconds,
                median,
            })
        };
        let ranks = self.ranks.iter_mut().zip(busy);
        ranks.enumerate().filter_map(judge).collect()
    }

    /// Returns, for each rank, true if it is a straggler.
    #[cfg(feature = "observe")]
    pub(super) fn stragglers(&self) -> impl Iterator<Item = bool> {
        self.ranks.iter().map(|streak| streak.straggler)
    }
}

impl Streak {
    /// Takes in one step; says whether the rank is judged differently from now on.
    fn turns(&mut self, slow: bool) -> bool {
        if slow == self.straggler {
            self.changed = 0;
            return false;
        }
        self.changed += 1;
        if self.changed < STEPS {
            return false;
        }
        (self.straggler, self.changed) = (slow, 0);
        true
    }
}

fn lower_median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The steps at which a rank changed, found the slow way: by looking back over whole histories.
    fn naive(history: &[Vec<f64>], rank: usize) -> Vec<(usize, bool)> {
        let slow = |step: &Vec<f64>| {
            let own = step[rank];
            // At least half of the ranks are at most the lower median, and one of them is it.
            let median = step
                .iter()
                .copied()
                .filter(|&candidate| {
                    let at_most = step.iter().filter(|&&other| other <= candidate).count();
                    2 * at_most >= step.len()
                })
                .fold(f64::INFINITY, f64::min);
            median > 0.0 && own >= FACTOR * median
        };
        let slow: Vec<bool> = history.iter().map(slow).collect();
        let mut changes: Vec<(usize, bool)> = Vec::new();
        for end in 0..slow.len() {
            let (since, state) = changes.last().map_or((0, false), |&(at, s)| (at + 1, s));
            let window = (end + 1).checked_sub(STEPS as usize);
            if window.is_some_and(|start| {
                start >= since && slow[start..=end].iter().all(|&s| s != state)
            }) {
                changes.push((end, !state));
            }
        }
        changes
    }

    fn changes(history: &[Vec<f64>], rank: usize) -> Vec<(usize, bool)> {
        let mut detector = Detector::new(history.first().map_or(0, Vec::len));
        let mut found = Vec::new();
        for (step, busy) in history.iter().enumerate() {
            for verdict in detector.step(busy) {
                assert_eq!(verdict.seconds.to_bits(), busy[verdict.rank].to_bits());
                if verdict.rank == rank {
                    found.push((step, verdict.straggler));
                }
            }
        }
        found
    }

    /// Runs of steps in which ranks are slow or not, long enough to be told.
    fn histories() -> impl Strategy<Value = Vec<Vec<f64>>> {
        let times =
            proptest::collection::vec(prop_oneof![Just(0.0), 0.9..1.1, 1.4..1.6, 2.0..9.0], 5);
        let run = (times, 1_usize..45);
        (1_usize..=5, proptest::collection::vec(run, 0..12)).prop_map(|(ranks, runs)| {
            let steps = |(times, length): (Vec<f64>, usize)| vec![times[..ranks].to_vec(); length];
            runs.into_iter().flat_map(steps).collect()
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_look_at_the_whole_history(history in histories()) {
            for rank in 0..history.first().map_or(0, Vec::len) {
                prop_assert_eq!(changes(&history, rank), naive(&history, rank));
            }
        }

        #[test]
        fn the_unit_of_time_does_not_matter(history in histories()) {
            let scaled: Vec<Vec<f64>> = history
                .iter()
                // A power of two, so that nothing is rounded.
                .map(|step| step.iter().map(|time| time * 1024.0).collect())
                .collect();
            for rank in 0..history.first().map_or(0, Vec::len) {
                prop_assert_eq!(changes(&history, rank), changes(&scaled, rank));
            }
        }
    }

    #[test]
    fn of_two_ranks_the_slower_is_named_once_and_again_when_it_recovers() {
        let mut history = vec![vec![1.0, 1.5]; 45];
        history.extend(vec![vec![1.0, 1.4]; 30]);
        assert_eq!(changes(&history, 1), [(19, true), (64, false)]);
        assert!(changes(&history, 0).is_empty());
    }

    #[test]
    fn one_fast_step_in_between_is_enough_to_be_none() {
        let mut history = vec![vec![1.0, 1.0, 2.0]; 19];
        history.push(vec![1.0, 1.0, 1.0]);
        history.extend(vec![vec![1.0, 1.0, 2.0]; 19]);
        assert!(changes(&history, 2).is_empty());
    }

    #[test]
    fn numbers_that_make_no_sense_name_nobody() {
        let mut detector = Detector::new(3);
        for _ in 0..40 {
            assert!(detector.step(&[f64::NAN, 1.0, f64::NAN]).is_empty());
            assert!(detector.step(&[]).is_empty());
        }
    }
}
