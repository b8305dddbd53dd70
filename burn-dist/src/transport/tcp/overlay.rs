//! The overlay: the connections that every job has from its start, and along which news travel.
//!
//! Process `p` of `P` has the neighbours `p ± 2^i` (modulo `P`), for all `2^i < P`: at most `2 log2 P` of them, and
//! at most `log2 P` steps between two processes. The partners of recursive doubling (`p ^ 2^i`) and of dissemination
//! (`p + 2^i`) are among them. The relation is symmetric. A job of up to 5 processes has all connections.

use std::iter;

/// Returns the neighbours of a process, in ascending order.
pub(super) fn neighbours(process: usize, processes: usize) -> Vec<usize> {
    let both = |step| {
        [
            (process + step) % processes,
            (process + processes - step) % processes,
        ]
    };
    let mut all: Vec<_> = steps(processes).flat_map(both).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns the powers of two below the number of processes. These are also the distances of the rounds after which
/// every process has heard of every other (dissemination).
pub(super) fn steps(processes: usize) -> impl Iterator<Item = usize> {
    iter::successors(Some(1_usize), |step| step.checked_mul(2))
        .take_while(move |step| *step < processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the processes that news from one of them reach if these are gone.
    fn reached(from: usize, processes: usize, gone: &[usize]) -> usize {
        let mut known = vec![false; processes];
        let mut next = vec![from];
        known[from] = true;
        while let Some(process) = next.pop() {
            for peer in neighbours(process, processes) {
                if !gone.contains(&peer) && !known[peer] {
                    known[peer] = true;
                    next.push(peer);
                }
            }
        }
        known.iter().filter(|known| **known).count()
    }

    #[test]
    fn neighbours_are_few_mutual_and_partners_of_the_algorithms() {
        for processes in 1..100_usize {
            for process in 0..processes {
                let all = neighbours(process, processes);
                assert!(!all.contains(&process));
                assert!(all.len() <= 2 * steps(processes).count());
                for &peer in &all {
                    assert!(peer < processes);
                    assert!(neighbours(peer, processes).contains(&process));
                }
                for step in steps(processes) {
                    assert!(all.contains(&((process + step) % processes)));
                    let partner = process ^ step;
                    assert!(partner >= processes || all.contains(&partner));
                }
            }
        }
        assert_eq!(neighbours(0, 5), [1, 2, 3, 4]);
        assert_eq!(neighbours(0, 6), [1, 2, 4, 5]);
        assert_eq!(neighbours(0, 64).len(), 11);
    }

    #[test]
    fn news_reach_all_that_are_left() {
        for processes in [6, 8, 16, 64] {
            assert_eq!(reached(0, processes, &[]), processes);
            for first in 1..processes {
                for second in 1..processes {
                    let gone = [first, second];
                    let left = processes - if first == second { 1 } else { 2 };
                    assert_eq!(reached(0, processes, &gone), left, "{processes} {gone:?}");
                }
            }
        }
        // A machine with half of the processes, numbered in a row or in turn.
        let half: Vec<_> = (32..64).collect();
        assert_eq!(reached(0, 64, &half), 32);
        let odd: Vec<_> = (1..64).step_by(2).collect();
        assert_eq!(reached(0, 64, &odd), 32);
    }
}
