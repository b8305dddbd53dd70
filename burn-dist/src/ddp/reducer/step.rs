//! The state of one step of the reducer.

use super::messages::Averaged;
use crate::ddp::buffer::Buffer;
use crate::ddp::device_reduce::Pending;
use crate::ddp::layout::{Bucket, Layout, Status};
use crate::ddp::transfer::Sum;
use crate::group::Work;
use std::ops::Range;
use std::time::Instant;

/// The buckets of the current step.
pub(super) struct Step {
    /// Those that gradients were packed to.
    pub(super) filling: Vec<Option<Buffer>>,
    /// The gradients that wait on their device until their bucket is complete, for each parameter.
    pub(super) sums: Vec<Sum>,
    /// Which parameters this rank used; those of averaged buckets, which any rank used.
    pub(super) used: Vec<bool>,
    /// The status of this rank's part.
    pub(super) status: Status,
    /// The statuses of all ranks, combined, once the last bucket is averaged.
    pub(super) any: Status,
    /// How many parameters each bucket still waits for, for their gradients or flags; the last waits for the
    /// status too.
    pub(super) missing: Vec<usize>,
    /// Those that are full: a beginning of all buckets.
    pub(super) averaging: Vec<Averaging>,
    /// When they were.
    pub(super) times: Vec<Range<Instant>>,
}

/// A piece of a bucket that is averaged or added up, and how long that took.
pub(super) type Reduction = Work<(Buffer, Range<Instant>)>;

/// A bucket that is full.
pub(super) enum Averaging {
    Done(Averaged),
    /// The devices add it up.
    Summed(Pending),
    /// Its pieces are averaged, or added up, by the group's own thread.
    Started(Vec<Reduction>),
    /// The leader of the process adds it up with other leaders.
    AwaitLeader,
}

impl Step {
    pub(super) fn new(layout: &Layout, parameters: usize) -> Self {
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
