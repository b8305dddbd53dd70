//! The epochs of a run: means over the samples of all ranks, and times.

use crate::ddp::SyncStats;
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::time::Instant;

/// Figures of a run's epochs over all ranks: `N` means over samples, such as loss and accuracy, and times. Sums of an
/// epoch stay on the device, so that counting does not wait for it.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::{ddp::SyncStats, launch::launch, observe::History};
///
/// let epochs = launch(vec![Device::flex(); 2], |worker| {
///     let mut history = History::new(worker.group(), ["loss"]);
///     // Rank 0 has a loss of 1 over one sample, rank 1 a loss of 4 over two.
///     let loss = Tensor::<1>::from_floats([[1.0], [4.0]][worker.rank()], worker.device());
///     history.add([loss], worker.rank() + 1);
///     history.end_epoch(SyncStats::default()) // with `Ddp`, `ddp.stats()`
/// })?;
/// assert_eq!((epochs[0].means[0].1, epochs[0].samples), (3.0, 3.0));
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug)]
pub struct History<const N: usize> {
    group: ProcessGroup,
    names: [&'static str; N],
    epochs: Vec<Epoch>,
    /// Of this rank in the epoch under way.
    sums: Option<Tensor<1>>,
    samples: f64,
    /// Times before `since`: of an epoch that a resumed run goes on with.
    before: EpochTimes,
    since: Instant,
    /// The wait for averages up to `since`.
    waited: f64,
}

/// Figures of one epoch, over all ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Samples of all ranks.
    pub samples: f64,
    /// Names and means over the samples.
    pub means: Vec<(String, f64)>,
    /// Time of this rank.
    pub seconds: f64,
    /// Time of waiting for averages, as a mean over ranks.
    pub sync_wait: f64,
}

/// State of a [`History`], to be saved as each rank's own with a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryState {
    epochs: Vec<Epoch>,
    sums: Vec<f32>,
    samples: f64,
    times: EpochTimes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct EpochTimes {
    seconds: f64,
    sync_wait: f64,
}

impl<const N: usize> History<N> {
    /// Makes the history of a run whose first epoch begins now, with the names of its means.
    pub fn new(group: &ProcessGroup, names: [&'static str; N]) -> Self {
        Self {
            group: group.within("History::end_epoch"),
            names,
            epochs: Vec::new(),
            sums: None,
            samples: 0.0,
            before: EpochTimes::default(),
            since: Instant::now(),
            waited: 0.0,
        }
    }

    /// Adds means over `samples` samples of this rank, each a tensor of one element. Means over no samples count for
    /// nothing, even if they are no numbers.
    pub fn add(&mut self, means: [Tensor<1>; N], samples: usize) {
        if samples == 0 || N == 0 {
            return;
        }
        let means = means.map(|mean| mean.detach().without_autodiff().mean());
        let sums = Tensor::cat(means.into(), 0).mul_scalar(samples as f64);
        self.sums = Some(match self.sums.take() {
            Some(before) => before + sums,
            None => sums,
        });
        self.samples += samples as f64;
    }

    /// Ends an epoch, and begins the next. Every rank calls it; `stats` are those of
    /// [`Ddp::stats`](crate::ddp::Ddp::stats). Means over nothing are 0.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device fails; otherwise the group's own.
    pub fn end_epoch(&mut self, stats: SyncStats) -> Result<Epoch> {
        let EpochTimes { seconds, sync_wait } = self.times(stats);
        let mut all = vec![0.0; N];
        for (all, own) in all.iter_mut().zip(self.sums()?) {
            *all = f64::from(own);
        }
        all.extend([self.samples, sync_wait]);
        self.group.all_reduce(&mut all[..], ReduceOp::Sum)?;
        let (samples, sync_wait) = (all[N], all[N + 1] / self.group.world_size() as f64);
        let means = self.names.iter().zip(&all);
        let epoch = Epoch {
            samples,
            means: means
                .map(|(name, sum)| ((*name).to_owned(), sum / samples.max(1.0)))
                .collect(),
            seconds,
            sync_wait,
        };
        self.epochs.push(epoch.clone());
        (self.sums, self.samples) = (None, 0.0);
        (self.before, self.since) = (EpochTimes::default(), Instant::now());
        self.waited = stats.wait.as_secs_f64();
        Ok(epoch)
    }

    /// Returns the epochs that are over.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// Returns the sum of all epochs, without means.
    pub fn total(&self) -> Epoch {
        let sum = |of: fn(&Epoch) -> f64| self.epochs.iter().map(of).sum();
        Epoch {
            samples: sum(|epoch| epoch.samples),
            means: Vec::new(),
            seconds: sum(|epoch| epoch.seconds),
            sync_wait: sum(|epoch| epoch.sync_wait),
        }
    }

    /// Writes a table with a line for each epoch, as comma-separated values.
    pub fn csv(&self) -> String {
        let names = self.names.join(",");
        let mut text = format!("epoch,samples,{names},seconds,sync_wait_fraction\n");
        for (epoch, number) in self.epochs.iter().zip(1..) {
            // Writing to a string can't fail.
            let _ = write!(text, "{number},{}", epoch.samples);
            for (_, mean) in &epoch.means {
                let _ = write!(text, ",{mean:.6}");
            }
            let (seconds, wait) = (epoch.seconds, epoch.sync_wait_fraction());
            let _ = writeln!(text, ",{seconds:.3},{wait:.4}");
        }
        text
    }

    /// Draws the means over the epochs as SVG, each from 0 to its highest.
    pub fn svg(&self) -> String {
        const COLORS: [&str; 4] = ["blue", "red", "green", "orange"];
        let mut svg = String::from(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="-20 -20 640 450" font-size="14">"#,
        );
        svg += r#"<path d="M0 0V380H600" fill="none" stroke="black"/>"#;
        for (at, name) in self.names.iter().enumerate() {
            let color = COLORS[at % COLORS.len()];
            // A loss that has run away has no place in the plot.
            let means = self.epochs.iter().map(|epoch| epoch.means[at].1);
            let means = means.enumerate().filter(|(_, mean)| mean.is_finite());
            let highest = means.clone().fold(1e-9, |most, (_, mean)| mean.max(most));
            let points = means.map(|(number, mean)| {
                let x = 600.0 * (number as f64 + 0.5) / self.epochs.len() as f64;
                format!("{x:.1},{:.1} ", 380.0 * (1.0 - mean / highest))
            });
            let (points, y) = (points.collect::<String>(), 20 + 20 * at);
            // Writing to a string can't fail.
            let _ = write!(
                svg,
                r#"<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>
<text x="300" y="{y}" fill="{color}">{name}, up to {highest:.4}</text>"#
            );
        }
        let _ = writeln!(
            svg,
            r#"<text x="250" y="405">{} epochs</text></svg>"#,
            self.epochs.len()
        );
        svg
    }

    /// Returns the number of ranks.
    pub fn world_size(&self) -> usize {
        self.group.world_size()
    }

    /// Reads this rank's state, that of the epoch under way included.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the device fails.
    pub fn state(&self, stats: SyncStats) -> Result<HistoryState> {
        Ok(HistoryState {
            epochs: self.epochs.clone(),
            sums: self.sums()?,
            samples: self.samples,
            times: self.times(stats),
        })
    }

    /// Goes on from a saved state, with sums on `device`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the state is of other means.
    pub fn resume(&mut self, state: HistoryState, device: &Device) -> Result<()> {
        let names = |epoch: &Epoch| epoch.means.iter().map(|(name, _)| name.clone()).collect();
        let saved: Vec<Vec<String>> = state.epochs.iter().map(names).collect();
        let differs = |saved: &&Vec<String>| saved.iter().ne(self.names.iter());
        let sums = state.sums.len();
        if let Some(saved) = saved.iter().find(differs) {
            let message = format!("state: expected the means {:?}, got {saved:?}", self.names);
            return Err(self.wrong_state(message));
        }
        if sums != 0 && sums != N {
            return Err(self.wrong_state(format!("state: expected {N} means, got {sums}")));
        }
        let device = device.clone().without_autodiff();
        let sums = || Tensor::from_floats(state.sums.as_slice(), &device);
        self.sums = (!state.sums.is_empty()).then(sums);
        (self.epochs, self.samples) = (state.epochs, state.samples);
        (self.before, self.since) = (state.times, Instant::now());
        Ok(())
    }

    fn wrong_state(&self, message: String) -> Error {
        Error::InvalidArgument {
            rank: self.group.global_rank(),
            call: "History::resume",
            message,
        }
    }

    fn times(&self, stats: SyncStats) -> EpochTimes {
        EpochTimes {
            seconds: self.before.seconds + self.since.elapsed().as_secs_f64(),
            sync_wait: self.before.sync_wait + stats.wait.as_secs_f64() - self.waited,
        }
    }

    /// Reads this rank's sums; nothing if there are none yet.
    fn sums(&self) -> Result<Vec<f32>> {
        let Some(sums) = self.sums.clone() else {
            return Ok(Vec::new());
        };
        let data = sums.try_into_data().map_err(|error| Error::Tensor {
            rank: self.group.global_rank(),
            operation: "History",
            message: format!("reading the sums failed: {error}"),
        })?;
        Ok(data.iter::<f32>().collect())
    }
}

impl Epoch {
    /// Returns the samples of all ranks in a second.
    pub fn samples_per_second(&self) -> f64 {
        self.samples / self.seconds
    }

    /// Returns the share of the time in which ranks waited for averages.
    pub fn sync_wait_fraction(&self) -> f64 {
        self.sync_wait / self.seconds
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, mean) in &self.means {
            write!(f, "{name} {mean:.4}  ")?;
        }
        let (speed, wait) = (self.samples_per_second(), self.sync_wait_fraction() * 100.0);
        write!(f, "{speed:>7.0} samples/s  sync wait {wait:4.1} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn batches_without_samples_count_nothing_and_a_state_goes_on() {
        let (group, device) = (ProcessGroup::single(), Device::flex());
        let value = |value: f32| Tensor::<1>::from_floats([value], &device);
        let stats = SyncStats {
            wait: Duration::from_secs(2),
            ..SyncStats::default()
        };
        let mut history = History::new(&group, ["loss", "accuracy"]);
        history.add([value(1.0), value(0.5)], 2);
        history.add([value(f32::NAN), value(1.0)], 0);
        let state = history.state(stats).unwrap();
        let mut resumed = History::new(&group, ["loss", "accuracy"]);
        resumed.resume(state.clone(), &device).unwrap();
        for (mut history, stats) in [(history, stats), (resumed, SyncStats::default())] {
            history.add([value(4.0), value(0.25)], 2);
            let epoch = history.end_epoch(stats).unwrap();
            assert_eq!(
                epoch.means,
                [("loss".into(), 2.5), ("accuracy".into(), 0.375)]
            );
            assert_eq!((epoch.samples, epoch.sync_wait), (4.0, 2.0));
            let empty = history.end_epoch(stats).unwrap();
            assert_eq!(
                (empty.samples, empty.means[0].1, empty.sync_wait),
                (0.0, 0.0, 0.0)
            );
            let csv = history.csv();
            let first = csv.lines().nth(1).unwrap();
            assert!(first.starts_with("1,4,2.500000,0.375000,"), "{csv}");
            assert_eq!((csv.lines().count(), history.total().samples), (3, 4.0));
            history.add([value(f32::INFINITY), value(1.0)], 1);
            history.end_epoch(stats).unwrap();
            let svg = history.svg();
            assert!(
                svg.contains("loss, up to 2.5000") && svg.ends_with("</svg>\n"),
                "{svg}"
            );
            assert_eq!(svg.matches("polyline").count(), 2);
        }
        let error = History::new(&group, ["loss"]).resume(state, &device);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("expected 1 means, got 2"), "{error}");
    }
}
