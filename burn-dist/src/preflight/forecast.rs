//! What averaging will cost a step, from measured times: pure.
//!
//! The model: gradients are ready in the reverse order of the module's parameters, spread evenly over
//! backward (parameter i of n at i/n of it, whatever its size: a layer's time goes less with the size of
//! its parameters than with their number of layers); a bucket is averaged when its last gradient is ready
//! and the bucket before it is done; what averaging takes lies between the measured sizes on straight lines
//! (a latency and a time per byte, as in Hockney's model of 1994, but other ones from size to size, because
//! caches and algorithms change with it). What is not done when backward ends is exposed. The model does not
//! know that averaging takes cores from backward on the CPU: the trials show that.

use super::report::{AllReduce, Forecast, Measurements, Prediction};
use crate::ddp::DdpConfig;

/// The bucket sizes to try, in megabytes, besides the planned one.
const SIZES: [f64; 10] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
/// Sizes that differ by less than this share of a step are as good as one another.
const TIE: f64 = 0.01;
const MEGABYTE: f64 = 1_048_576.0;

/// Time of an all_reduce by its bytes; it never falls with more bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cost {
    /// Bytes and seconds, both ascending.
    points: Vec<(f64, f64)>,
}

impl Cost {
    /// The line through the measured times; a time that is less than one of fewer bytes is a chance, and
    /// counts as that. Nothing costs nothing.
    pub(super) fn of_measured(measured: &[AllReduce]) -> Self {
        let points = measured
            .iter()
            .map(|one| (one.bytes as f64, one.seconds.max(0.0)));
        let mut points: Vec<(f64, f64)> = points.collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut most = 0.0_f64;
        for (_, seconds) in &mut points {
            most = most.max(*seconds);
            *seconds = most;
        }
        Self { points }
    }

    /// The time for so many bytes: between two measured sizes on the straight line, below the smallest as
    /// that one, above the largest in proportion to it.
    pub(super) fn of(&self, bytes: usize) -> f64 {
        let bytes = bytes as f64;
        let above = self.points.partition_point(|point| point.0 < bytes);
        match (
            above.checked_sub(1).map(|at| self.points[at]),
            self.points.get(above),
        ) {
            (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (bytes - x0) / (x1 - x0),
            (None, Some((_, smallest))) => *smallest,
            (Some((x, y)), None) => y * bytes / x.max(1.0),
            (None, None) => 0.0,
        }
    }
}

/// The forecast for the planned buckets, and the best of several sizes.
pub(super) fn forecast(measured: &Measurements, plan: &DdpConfig) -> Forecast {
    let slowest = measured
        .replicas
        .iter()
        .max_by(|a, b| a.compute_s().total_cmp(&b.compute_s()));
    let (forward_s, backward_s) = slowest.map_or((0.0, 0.0), |one| (one.forward_s, one.backward_s));
    let alone = measured.replicas.len() <= 1;
    let step = TrainingStep {
        gradients: &measured.model.gradients,
        forward_s,
        backward_s,
        // Nobody to average with.
        cost: Cost::of_measured(if alone { &[] } else { &measured.all_reduces }),
    };
    let planned = step.predict(plan.first_bucket_mb, plan.bucket_cap_mb);
    let tried = step.try_all(plan);
    let best = best(&planned, &tried);
    Forecast {
        compute_s: forward_s + backward_s,
        backward_s,
        planned,
        best,
        tried,
    }
}

/// The planned one where nothing is better by more than a tie, else the one with the fewest buckets of
/// those that tie with the least exposed.
fn best(planned: &Prediction, tried: &[Prediction]) -> Prediction {
    let least = tried
        .iter()
        .map(|one| one.exposed_share)
        .fold(planned.exposed_share, f64::min);
    let ties = |one: &&Prediction| one.exposed_share <= least + TIE;
    if ties(&planned) {
        return planned.clone();
    }
    let best = tried.iter().filter(ties).min_by_key(|one| one.buckets);
    best.unwrap_or(planned).clone()
}

/// A step of training, but for the optimizer.
struct TrainingStep<'a> {
    gradients: &'a [usize],
    forward_s: f64,
    backward_s: f64,
    cost: Cost,
}

impl TrainingStep<'_> {
    fn try_all(&self, plan: &DdpConfig) -> Vec<Prediction> {
        let mut sizes = SIZES.to_vec();
        sizes.push(plan.bucket_cap_mb);
        sizes.sort_by(f64::total_cmp);
        let mut tried: Vec<Prediction> = Vec::new();
        let mut last = Vec::new();
        for size in sizes {
            let planned = size.total_cmp(&plan.bucket_cap_mb).is_eq();
            let first = if planned {
                plan.first_bucket_mb
            } else {
                plan.first_bucket_mb.min(size)
            };
            let buckets = buckets(self.gradients, first, size);
            if buckets != last || planned {
                // The planned size stands for those that come to the same.
                if buckets == last {
                    tried.pop();
                }
                tried.push(self.predict(first, size));
                last = buckets;
            }
        }
        tried
    }

    fn predict(&self, first_bucket_mb: f64, bucket_cap_mb: f64) -> Prediction {
        let buckets = buckets(self.gradients, first_bucket_mb, bucket_cap_mb);
        let (mut done, mut communication_s) = (0.0_f64, 0.0);
        for bucket in &buckets {
            let ready = self.backward_s * bucket.last as f64 / self.gradients.len().max(1) as f64;
            let time = self.cost.of(bucket.bytes);
            done = done.max(ready) + time;
            communication_s += time;
        }
        // Rounding may make it a little more than all there is.
        let exposed_s = (done - self.backward_s).clamp(0.0, communication_s);
        let step = self.forward_s + self.backward_s + exposed_s;
        Prediction {
            bucket_cap_mb,
            first_bucket_mb,
            buckets: buckets.len(),
            communication_s,
            exposed_s,
            exposed_share: if step > 0.0 { exposed_s / step } else { 0.0 },
        }
    }
}

/// Gradients that are averaged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GradientBucket {
    bytes: usize,
    /// Number of gradients that must be ready before it can go.
    last: usize,
}

/// The buckets as `ddp` fills them: the last parameter first, each up to its size, and a parameter that
/// is larger than that alone.
fn buckets(gradients: &[usize], first_mb: f64, cap_mb: f64) -> Vec<GradientBucket> {
    let mut buckets: Vec<GradientBucket> = Vec::new();
    for (number, &bytes) in gradients.iter().rev().enumerate() {
        let size = if buckets.len() <= 1 { first_mb } else { cap_mb };
        let cap = (size * MEGABYTE) as usize;
        let last = number + 1;
        match buckets.last_mut() {
            Some(bucket) if bucket.bytes.saturating_add(bytes) <= cap => {
                bucket.bytes += bytes;
                bucket.last = last;
            }
            _ => buckets.push(GradientBucket { bytes, last }),
        }
    }
    buckets
}

#[cfg(test)]
mod tests;
