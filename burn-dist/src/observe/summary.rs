//! The figures of one step: what each rank says of itself, and what that comes to.
//!
//! They travel between ranks as numbers, [`FIELDS`] for each rank.

use std::collections::BTreeMap;

/// Number of figures that a rank gives.
pub(super) const FIELDS: usize = 7;

/// One rank in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankFigures {
    /// From one call of [`StepMonitor::step`](super::StepMonitor::step) to the next, in seconds.
    pub step: f64,
    /// For how much of it the rank was busy: what is left without the averaging that it waited for.
    pub busy: f64,
    /// Seconds it waited in [`Ddp::synchronize`](crate::ddp::Ddp::synchronize).
    pub wait: f64,
    /// Number of samples it trained on.
    pub samples: f64,
    /// Bytes of gradients it gave to be averaged.
    pub bytes: f64,
    /// The process that hosts it.
    pub process: usize,
    /// Bytes that its process has sent to the others since it joined the job.
    pub sent: f64,
}

impl RankFigures {
    pub(super) fn encode(&self) -> [f64; FIELDS] {
        [
            self.step,
            self.busy,
            self.wait,
            self.samples,
            self.bytes,
            // Far below 2^53, as the counts are.
            self.process as f64,
            self.sent,
        ]
    }

    pub(super) fn decode(numbers: &[f64; FIELDS]) -> Self {
        let [step, busy, wait, samples, bytes, process, sent] = *numbers;
        Self {
            step,
            busy,
            wait,
            samples,
            bytes,
            process: process as usize,
            sent,
        }
    }
}

/// All ranks in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSummary {
    /// The number of the step, from 0.
    pub number: u64,
    /// By rank.
    pub ranks: Vec<RankFigures>,
}

impl StepSummary {
    /// Returns the seconds the step took: the longest time of all ranks.
    pub fn seconds(&self) -> f64 {
        let steps = self.ranks.iter().map(|rank| rank.step);
        steps.fold(0.0, f64::max)
    }

    /// Returns the number of samples trained on, over all ranks.
    pub fn samples(&self) -> f64 {
        self.ranks.iter().map(|rank| rank.samples).sum()
    }

    /// Returns the number of samples trained on in a second, over all ranks.
    pub fn samples_per_second(&self) -> f64 {
        let seconds = self.seconds();
        if seconds > 0.0 {
            self.samples() / seconds
        } else {
            0.0
        }
    }

    /// Returns the seconds that ranks waited in `synchronize`, on average.
    pub fn wait(&self) -> f64 {
        let wait: f64 = self.ranks.iter().map(|rank| rank.wait).sum();
        wait / self.ranks.len().max(1) as f64
    }

    /// Returns the bytes of gradients given to be averaged, over all ranks.
    pub fn bytes(&self) -> f64 {
        self.ranks.iter().map(|rank| rank.bytes).sum()
    }

    /// Returns the bytes that the processes of the job have sent to one another since they joined; 0 if all
    /// ranks are threads of one process.
    pub fn sent(&self) -> f64 {
        let mut processes = BTreeMap::new();
        for rank in &self.ranks {
            let sent: &mut f64 = processes.entry(rank.process).or_default();
            // Ranks of one process asked at different moments.
            *sent = sent.max(rank.sent);
        }
        processes.values().sum()
    }

    /// The rank that was busy longest.
    pub fn slowest_rank(&self) -> usize {
        let ranks = self.ranks.iter().enumerate();
        let slowest = ranks.max_by(|(_, one), (_, other)| one.busy.total_cmp(&other.busy));
        slowest.map_or(0, |(rank, _)| rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(busy: f64, process: usize, sent: f64) -> RankFigures {
        RankFigures {
            step: 2.0,
            busy,
            wait: 2.0 - busy,
            samples: 8.0,
            bytes: 100.0,
            process,
            sent,
        }
    }

    #[test]
    fn a_step_is_what_its_ranks_come_to() {
        let step = StepSummary {
            number: 3,
            ranks: vec![rank(1.0, 0, 50.0), rank(1.5, 0, 60.0), rank(0.5, 1, 7.0)],
        };
        let figures = (step.seconds(), step.samples_per_second(), step.wait());
        assert_eq!(figures, (2.0, 12.0, 1.0));
        // What a process has sent is not counted once for each of its ranks.
        assert_eq!((step.bytes(), step.sent()), (300.0, 67.0));
        assert_eq!(step.slowest_rank(), 1);
    }

    #[test]
    fn figures_travel_as_numbers() {
        let figures = rank(0.25, 3, 1e15);
        assert_eq!(RankFigures::decode(&figures.encode()), figures);
    }
}
