//! The state of one step of the reducer.

use super::messages::Averaged;
use crate::ddp::buffer::BucketBuffer;
use crate::ddp::device_reduce::DeferredTensor;
use crate::ddp::layout::{Bucket, BucketLayout, Status};
use crate::ddp::transfer::Sum;
use crate::group::Work;
use std::ops::Range;
use std::time::Instant;

/// The buckets of the current step.
pub(super) struct StepBuckets {
    /// The buckets that gradients were packed to.
    pub(super) filling: Vec<Option<BucketBuffer>>,
    /// The gradients that wait on their device until their bucket is complete, for each parameter.
    pub(super) sums: Vec<Sum>,
    /// True for each parameter that this rank used; once its bucket is averaged, that any rank used.
    pub(super) used: Vec<bool>,
    /// The status of this rank's part.
    pub(super) status: Status,
    /// The statuses of all ranks, combined, once the last bucket is averaged.
    pub(super) any: Status,
    /// The number of parameters whose gradients or flags each bucket still lacks, in the last also the status.
    pub(super) missing: Vec<usize>,
    /// The full buckets, from the first on.
    pub(super) averaging: Vec<Averaging>,
    /// The times of the averages.
    pub(super) times: Vec<Range<Instant>>,
}

/// A piece of a bucket that is averaged or added up, and the time of that.
pub(super) type Reduction = Work<(BucketBuffer, Range<Instant>)>;

/// A bucket that is full.
pub(super) enum Averaging {
    Done(Averaged),
    /// The devices add it up.
    Summed(DeferredTensor),
    /// Its pieces are averaged, or added up, by the group's own thread.
    Started(Vec<Reduction>),
    /// The leader of the process adds it up with other leaders, and gives the sum.
    AwaitLeader,
}

impl StepBuckets {
    pub(super) fn new(layout: &BucketLayout, parameters: usize) -> Self {
        let buckets = layout.buckets.iter();
        Self {
            filling: buckets.clone().map(|_| None).collect(),
            sums: (0..parameters).map(|_| Sum::default()).collect(),
            used: vec![false; parameters],
            status: Status::default(),
            any: Status::default(),
            missing: buckets.map(Bucket::writers).collect(),
            averaging: Vec::new(),
            times: Vec::new(),
        }
    }
}
