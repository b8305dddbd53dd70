//! Which processes measure the way between them, and when: the same on every rank, from their number
//! alone.
//!
//! Up to [`ALL_PAIRS`] processes, every pair is measured, alone. Of more, each process is measured with
//! the next few, so that the rounds stay few; where even the next one of each would be too many rounds,
//! several pairs are measured at once.

/// Two processes, the lower number first.
pub(super) type ProcessPair = (usize, usize);

/// Up to how many processes every pair is measured.
const ALL_PAIRS: usize = 8;
/// Largest number of rounds, or a few more where pairs that are measured at once would meet.
const ROUNDS: usize = ALL_PAIRS * (ALL_PAIRS - 1) / 2;

/// The pairs to measure, round by round. No process is in two pairs of a round.
pub(super) fn rounds(processes: usize) -> Vec<Vec<ProcessPair>> {
    let pairs = pairs(processes);
    let at_once = pairs.len().div_ceil(ROUNDS).max(1);
    let mut rounds: Vec<Vec<ProcessPair>> = vec![Vec::new(); pairs.len().div_ceil(at_once)];
    for (number, pair) in pairs.into_iter().enumerate() {
        // Neighbours go to rounds that are far from one another, so a first try mostly fits.
        let (count, start) = (rounds.len(), number % rounds.len());
        let fits = |round: &Vec<ProcessPair>| {
            round.len() < at_once && !round.iter().any(|&p| meet(p, pair))
        };
        match (0..count)
            .map(|step| (start + step) % count)
            .find(|&r| fits(&rounds[r]))
        {
            Some(round) => rounds[round].push(pair),
            None => rounds.push(vec![pair]),
        }
    }
    rounds
}

/// Returns the number of pairs.
pub(super) fn all(processes: usize) -> usize {
    processes * processes.saturating_sub(1) / 2
}

fn pairs(processes: usize) -> Vec<ProcessPair> {
    let reach = if processes <= ALL_PAIRS {
        processes / 2
    } else {
        (ROUNDS / processes).max(1)
    };
    let mut pairs: Vec<ProcessPair> = (1..=reach)
        .flat_map(|step| (0..processes).map(move |one| (one, (one + step) % processes)))
        .map(|(one, other)| (one.min(other), one.max(other)))
        .collect();
    // The process opposite is met from both sides.
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

fn meet(one: ProcessPair, other: ProcessPair) -> bool {
    one.0 == other.0 || one.0 == other.1 || one.1 == other.0 || one.1 == other.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn few_processes_all_meet_one_pair_at_a_time() {
        assert!(rounds(0).is_empty() && rounds(1).is_empty());
        for processes in 2..=ALL_PAIRS {
            let rounds = rounds(processes);
            assert_eq!(rounds.len(), all(processes), "{processes}");
            assert!(rounds.iter().all(|round| round.len() == 1));
        }
    }

    proptest! {
        #[test]
        fn every_process_is_measured_and_in_one_pair_a_round(processes in 2_usize..500) {
            let rounds = rounds(processes);
            let bound = 2 * ROUNDS;
            prop_assert!(rounds.len() <= bound, "{} rounds", rounds.len());
            let mut seen = HashSet::new();
            let mut met = HashSet::new();
            for round in &rounds {
                let mut busy = HashSet::new();
                prop_assert!(!round.is_empty());
                for &(low, high) in round {
                    prop_assert!(low < high && high < processes);
                    prop_assert!(busy.insert(low) && busy.insert(high));
                    prop_assert!(met.insert((low, high)), "measured twice");
                    seen.extend([low, high]);
                }
            }
            prop_assert_eq!(seen.len(), processes);
        }
    }
}
