//! Repetitions of an operation of a group, on all ranks at once.

use burn_dist::ProcessGroup;

use crate::processes::Result;
use crate::report::median;

/// Fewest and most repetitions.
const REPETITIONS: (usize, usize) = (5, 2000);

/// Returns the median time of what `once` times, as this rank sees it. The repetitions take about `budget` seconds.
pub(crate) fn median_time(
    group: &ProcessGroup,
    budget: f64,
    mut once: impl FnMut() -> Result<f64>,
) -> Result<f64> {
    once()?;
    // All ranks repeat as often as rank 0 finds right.
    let mut often = [budget / once()?.max(1e-5)];
    group.broadcast(&mut often, 0)?;
    let repetitions = (often[0] as usize).clamp(REPETITIONS.0, REPETITIONS.1);
    let times: Result<Vec<f64>> = (0..repetitions).map(|_| once()).collect();
    Ok(median(&mut times?))
}
