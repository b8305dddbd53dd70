//! The times of a model's passes, of all_reduces of several sizes, and of steps as in training, with all
//! replicas at once. How often each is repeated is agreed by all ranks, from what the slowest took.

use super::report::{AllReduce, Trial};
use crate::ddp::DdpConfig;
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use std::time::{Duration, Instant};

/// Approximate time for which passes are repeated.
const PASSING: Duration = Duration::from_secs(1);
/// Approximate time for which steps are repeated.
const STEPPING: Duration = Duration::from_millis(2500);
/// Least and greatest number of passes and of steps.
const PASSES: [usize; 2] = [3, 30];
/// Approximate time for which all_reduces of one size are repeated.
const REDUCING: Duration = Duration::from_millis(150);
const REDUCES: [usize; 2] = [3, 50];
/// The sizes of all_reduces, in bytes, besides that of the model's gradients.
const SIZES: [usize; 4] = [1 << 10, 64 << 10, 1 << 20, 8 << 20];
/// The largest: more would say nothing new.
const LARGEST: usize = 64 << 20;
/// Steps before those that count: the first of a model only watches.
const WARMING: usize = 2;

/// A replica that runs the passes of its model, together with the others.
pub(super) struct Replica<'a, F> {
    pub(super) group: &'a ProcessGroup,
    pub(super) device: &'a Device,
    /// A forward pass of the model that it is given, to the loss.
    pub(super) forward: F,
}

impl<F> Replica<'_, F> {
    /// The median times of forward and of backward on this rank, in seconds.
    ///
    /// # Errors
    /// The group's own, and [`Error::Tensor`] if the device fails.
    pub(super) fn passes<M: Module>(&mut self, model: &M) -> Result<(f64, f64)>
    where
        F: FnMut(&M) -> Tensor<1>,
    {
        // The first compiles kernels and takes memory; the second tells how much there is time for.
        self.pass(model)?;
        self.group.barrier()?;
        let (forward_s, backward_s) = self.pass(model)?;
        let count = agree(self.group, forward_s + backward_s, PASSING, PASSES)?;
        self.group.barrier()?;
        let times = (0..count)
            .map(|_| self.pass(model))
            .collect::<Result<Vec<_>>>()?;
        let (forwards, backwards): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        Ok((median(forwards), median(backwards)))
    }

    fn pass<M: Module>(&mut self, model: &M) -> Result<(f64, f64)>
    where
        F: FnMut(&M) -> Tensor<1>,
    {
        let start = Instant::now();
        let loss = (self.forward)(model);
        self.sync()?;
        let middle = Instant::now();
        let gradients = loss.backward();
        self.sync()?;
        let end = Instant::now();
        drop(gradients);
        Ok(((middle - start).as_secs_f64(), (end - middle).as_secs_f64()))
    }

    /// The time of steps as in training with these buckets, against steps without averaging. Both are made
    /// in turn, so that a machine that is busy for a while slows both.
    ///
    /// # Errors
    /// Those of [`Ddp::synchronize`](crate::ddp::Ddp::synchronize), and [`Error::Tensor`] if the device
    /// fails.
    pub(super) fn steps<M: Module>(&mut self, config: &DdpConfig, model: &M) -> Result<Trial>
    where
        F: FnMut(&M) -> Tensor<1>,
    {
        let group = self.group;
        let ddp = config.init(group)?;
        let hooked = ddp.attach(model.clone())?;
        let mut step = || -> Result<[f64; 2]> {
            group.barrier()?;
            let (forward_s, backward_s) = self.pass(model)?;
            // Nobody waits in the one for who was slow in the other.
            group.barrier()?;
            let start = Instant::now();
            let gradients = ddp.synchronize((self.forward)(&hooked).backward(), &hooked)?;
            self.sync()?;
            let time = start.elapsed().as_secs_f64();
            drop(gradients);
            Ok([forward_s + backward_s, time])
        };
        for _ in 0..WARMING {
            step()?;
        }
        let first = step()?.iter().sum();
        let count = agree(group, first, STEPPING, PASSES)?;
        let times = (0..count).map(|_| step()).collect::<Result<Vec<_>>>()?;
        let of = |which: usize| median(times.iter().map(|pair| pair[which]).collect());
        let (compute_s, step_s) = (slowest(group, of(0))?, slowest(group, of(1))?);
        Ok(Trial {
            bucket_cap_mb: config.bucket_cap_mb,
            compute_s,
            step_s,
            exposed_share: ((step_s - compute_s) / step_s.max(1e-9)).clamp(0.0, 1.0),
        })
    }

    fn sync(&self) -> Result<()> {
        self.device.sync().map_err(|error| Error::Tensor {
            rank: self.group.global_rank(),
            operation: "waiting for the device",
            message: error.to_string(),
        })
    }
}

/// The times of all_reduces over the group, by size, the smallest first.
///
/// # Errors
/// The group's own.
pub(super) fn all_reduces(group: &ProcessGroup, gradient_bytes: usize) -> Result<Vec<AllReduce>> {
    let mut sizes = SIZES.to_vec();
    // Whole elements of f32, and at least one.
    sizes.push((gradient_bytes.min(LARGEST) / 4).max(1) * 4);
    sizes.sort_unstable();
    sizes.dedup();
    let measure = |bytes| {
        let mut buffer = vec![0_f32; bytes / 4];
        let mut time = || -> Result<f64> {
            let start = Instant::now();
            group.all_reduce(&mut buffer, ReduceOp::Mean)?;
            Ok(start.elapsed().as_secs_f64())
        };
        time()?;
        let first = time()?;
        let count = agree(group, first, REDUCING, REDUCES)?;
        let times = (0..count).map(|_| time()).collect::<Result<Vec<_>>>()?;
        let seconds = slowest(group, median(times))?;
        Ok(AllReduce { bytes, seconds })
    };
    sizes.into_iter().map(measure).collect()
}

/// Agrees on the number of repetitions on all ranks that takes about `time`, if one took this rank `seconds`.
fn agree(
    group: &ProcessGroup,
    seconds: f64,
    time: Duration,
    [least, most]: [usize; 2],
) -> Result<usize> {
    let slowest = slowest(group, seconds)?;
    Ok(((time.as_secs_f64() / slowest.max(1e-9)) as usize).clamp(least, most))
}

/// The largest of all ranks' times.
fn slowest(group: &ProcessGroup, seconds: f64) -> Result<f64> {
    let mut times = [seconds];
    group.all_reduce(&mut times, ReduceOp::Max)?;
    Ok(times[0])
}

/// The middle of some times; nothing of none.
pub(super) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
