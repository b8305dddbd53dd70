//! Messages between a replica's thread and its reducer: gradients, and the averages of a step.

use crate::ddp::device_reduce::DeferredTensor;
use crate::ddp::gradient::Gradient;
use crate::ddp::layout::{Bucket, BucketLayout, Status};
use crate::ddp::pool::HostAverage;
use crate::error::Result;
use crossbeam::channel::Sender;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A message of the replica's thread to the reducer.
pub(in crate::ddp) enum ReducerCommand {
    /// A gradient is complete.
    Ready(Reading),
    /// Backward is over.
    Finish {
        /// The parameters that no hook handed over.
        rest: Vec<Reading>,
        /// The order in which hooks handed the others over.
        ready_order: Vec<usize>,
        /// The status of this rank's part.
        status: Status,
        /// The channel for the averages.
        reply: Sender<Result<Outcome>>,
    },
    /// The replica's end is gone. (Hooks on the model keep the channel open for as long as it lives.)
    Stop,
}

/// The end of a step, the same on all ranks.
#[derive(Debug)]
pub(in crate::ddp) struct Outcome {
    /// None if the part of a rank was void: all ranks give theirs again.
    pub(in crate::ddp) averages: Option<Averages>,
    /// True if any rank has late parts.
    pub(in crate::ddp) late: bool,
}

/// A gradient that is still to be read: the sum of its parts, or nothing.
#[derive(Clone)]
pub(in crate::ddp) struct Reading {
    pub(super) parameter: usize,
    pub(super) parts: Vec<Gradient>,
}

impl Reading {
    pub(in crate::ddp) fn new(parameter: usize, parts: Vec<Gradient>) -> Self {
        Self { parameter, parts }
    }

    /// The parameter, and the parts of the sum.
    #[cfg(test)]
    pub(in crate::ddp) fn into_parts(self) -> (usize, Vec<Gradient>) {
        (self.parameter, self.parts)
    }

    /// True if it has no parts.
    pub(in crate::ddp) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// An averaged bucket.
#[derive(Debug)]
pub(in crate::ddp) enum Averaged {
    /// It is in host memory, for gradients that are views of it.
    InMemory(HostAverage),
    /// Its device has it, or was asked for it.
    OnDevice(DeferredTensor),
    /// It holds no gradients, or they were taken out.
    Nothing,
}

/// The averaged buckets of one step.
#[derive(Debug)]
pub(in crate::ddp) struct Averages {
    pub(in crate::ddp) layout: Arc<BucketLayout>,
    pub(in crate::ddp) buckets: Vec<Averaged>,
    /// True for each parameter that any rank used.
    pub(in crate::ddp) used: Vec<bool>,
    /// The time of the average of each bucket.
    pub(in crate::ddp) times: Vec<Range<Instant>>,
}

impl Averages {
    /// Returns the time for which buckets were averaged after this moment.
    pub(in crate::ddp) fn averaging_since(&self, moment: Instant) -> Duration {
        let times = self.times.iter();
        times
            .map(|time| time.end.saturating_duration_since(time.start.max(moment)))
            .sum()
    }

    /// The size of all buckets.
    pub(in crate::ddp) fn bytes(&self) -> u64 {
        self.layout.buckets.iter().map(Bucket::bytes).sum()
    }
}
