//! The reducer's work for GPUs: buckets that are joined on their device, read and averaged in host memory, or
//! added up by devices.
//!
//! Reading, averaging and writing back go on at the same time: this thread reads a bucket, or a piece of a
//! large gradient, while the group's own thread averages the one before; when backward is over, it writes each
//! back once it is averaged. Where several processes have several devices each, those of a process add up
//! first, and one rank of each reads and writes for all (as NCCL's and Horovod's hierarchical all-reduce).

use super::messages::Averaged;
use super::step::{Averaging, Reduction};
use super::worker::ReducerWorker;
use crate::ddp::buffer::BucketBuffer;
use crate::ddp::device_reduce::DeferredTensor;
use crate::ddp::strategy::{DeviceSum, Hierarchy};
use crate::ddp::transfer;
use crate::element::ReduceOp;
use crate::error::Result;
use crate::group::ProcessGroup;
use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use std::sync::Arc;
use std::time::Instant;
use tracing::Span;

/// The name of the wait for a sum over devices, in errors.
const ON_DEVICES: &str = "adding gradients up on their devices";

impl ReducerWorker {
    /// Reads the gradients of a bucket and starts to average them.
    pub(super) fn average_joined(&mut self, number: usize, span: &Span) -> Result<Averaging> {
        let layout = Arc::clone(&self.layout);
        let bucket = &layout.buckets[number];
        let group = self.group.clone();
        let Some(first) = bucket.first() else {
            let mut flags = self.pool.take(&layout, number);
            self.set_flags(number, &mut flags);
            let started = flags.start_reducing(&group, ReduceOp::Mean, span.clone());
            return Ok(Averaging::Started(vec![started]));
        };
        let joined = {
            let _waiting = self.watch.device("joining gradients", number, Some(first));
            transfer::join(bucket, &self.parameters, &mut self.step.sums)
        };
        self.start_pieces(number, first, &joined, &group, (ReduceOp::Mean, span))
    }

    /// Asks the devices for the sum of a bucket.
    pub(super) fn average_on_device(
        &mut self,
        number: usize,
        devices: &DeviceSum,
        span: &Span,
    ) -> Result<Averaging> {
        let layout = Arc::clone(&self.layout);
        let bucket = &layout.buckets[number];
        let Some(first) = bucket.first() else {
            // Flags do not travel on devices.
            return Ok(Averaging::Done(Averaged::Nothing));
        };
        let joined = {
            let _waiting = self.watch.device("joining gradients", number, Some(first));
            let joined = transfer::join(bucket, &self.parameters, &mut self.step.sums);
            // A device that refuses would leave the others waiting.
            transfer::check(&joined).map(|()| joined)
        };
        let joined = joined.map_err(|message| self.unreadable(first, &message))?;
        let hierarchy = devices.hierarchy.as_ref();
        let sum = {
            let _span = span.enter();
            let start = Instant::now();
            // No rank asks its device to wait for others before all are there to do so.
            hierarchy
                .map_or(&self.group, |hierarchy| &hierarchy.process)
                .barrier()?;
            let _waiting = self.watch.device(ON_DEVICES, number, Some(first));
            let sum = devices.device_reduce.sum(joined);
            self.step.times.push(start..Instant::now());
            sum
        };
        let Some(Hierarchy { leaders, .. }) = hierarchy else {
            return Ok(Averaging::Summed(sum));
        };
        let sum = {
            let _waiting = self.watch.device(ON_DEVICES, number, Some(first));
            sum.resolve()
        };
        match leaders.clone() {
            Some(leaders) => {
                self.start_pieces(number, first, &sum, &leaders, (ReduceOp::Sum, span))
            }
            None => Ok(Averaging::AwaitLeader),
        }
    }

    /// Reads a bucket, in pieces if it is a large gradient, and starts the reduction of each over a group.
    /// `first` is the parameter that an error names.
    fn start_pieces(
        &mut self,
        number: usize,
        first: usize,
        joined: &FloatTensor<Dispatch>,
        group: &ProcessGroup,
        (op, span): (ReduceOp, &Span),
    ) -> Result<Averaging> {
        let layout = Arc::clone(&self.layout);
        let bucket = &layout.buckets[number];
        let mut started: Vec<Reduction> = Vec::new();
        for piece in bucket.pieces(self.config.caps().1) {
            let gradients = piece.start..piece.end.min(bucket.gradient_len());
            let read = {
                let rank = self.group.global_rank();
                let _span = tracing::debug_span!("read", rank, bucket = number).entered();
                let _waiting = self.watch.device("reading gradients", number, Some(first));
                transfer::read(transfer::part(joined, &gradients))
            };
            let buffer = read.and_then(|data| {
                if bucket.is_lone() {
                    return BucketBuffer::of(data, bucket.precision, gradients.len());
                }
                let mut buffer = self.pool.take(&layout, number);
                buffer.pack(gradients, &data, false)?;
                self.set_flags(number, &mut buffer);
                Ok(buffer)
            });
            let buffer = buffer.map_err(|message| self.unreadable(first, &message))?;
            started.push(buffer.start_reducing(group, op, span.clone()));
        }
        Ok(Averaging::Started(started))
    }

    /// Waits for the averages of a bucket, and writes each piece to the device while the next is still averaged.
    pub(super) fn wait(&mut self, number: usize, averaging: Averaging) -> Result<Averaged> {
        let mut started = match averaging {
            Averaging::Done(averaged) => return Ok(averaged),
            Averaging::Summed(sum) => return self.summed(number, sum),
            Averaging::Started(started) => Some(started.into_iter()),
            Averaging::AwaitLeader => None,
        };
        let layout = Arc::clone(&self.layout);
        let bucket = &layout.buckets[number];
        let mut pieces = Vec::new();
        for piece in bucket.pieces(self.config.caps().1) {
            let buffer = match started.as_mut().and_then(Iterator::next) {
                Some(reduction) => self.reduced(number, reduction)?,
                None => self.take_from_leader(number, piece.len())?,
            };
            if let Some(first) = bucket.first() {
                pieces.push(self.write_back(number, first, buffer));
            }
        }
        if pieces.is_empty() {
            return Ok(Averaged::Nothing);
        }
        let summed = self
            .strategy
            .hierarchy()
            .map_or(1, |_| self.group.world_size());
        let mean = transfer::mean(transfer::concatenated(pieces), summed);
        Ok(Averaged::OnDevice(DeferredTensor::new(move || mean)))
    }

    /// Waits until the devices have added a bucket up: whoever uses the sum before would wait for them without
    /// a deadline.
    fn summed(&self, number: usize, sum: DeferredTensor) -> Result<Averaged> {
        let ranks = self.group.world_size();
        if ranks == 1 {
            return Ok(Averaged::OnDevice(sum));
        }
        let first = self.layout.buckets[number].first();
        let done = {
            let _waiting = self.watch.device(ON_DEVICES, number, first);
            let sum = sum.resolve();
            transfer::read(transfer::part(&sum, &(0..1))).map(|_| sum)
        };
        // What is added up has a parameter.
        let sum = done.map_err(|message| self.unreadable(first.unwrap_or(0), &message))?;
        let mean = DeferredTensor::new(move || transfer::mean(sum, ranks));
        Ok(Averaged::OnDevice(mean))
    }

    /// Waits for a reduction; a leader gives the result to the ranks of its process.
    fn reduced(&mut self, number: usize, reduction: Reduction) -> Result<BucketBuffer> {
        let (mut buffer, time) = reduction.wait()?;
        self.step.times.push(time);
        match self.strategy.hierarchy() {
            Some(hierarchy) => buffer.broadcast(&hierarchy.process)?,
            None => self.read_flags(number, &buffer),
        }
        Ok(buffer)
    }

    /// Waits for what the leader of the process gives: a bucket, or a piece of so many elements.
    fn take_from_leader(&mut self, number: usize, len: usize) -> Result<BucketBuffer> {
        let bucket = &self.layout.buckets[number];
        let mut buffer = if bucket.is_lone() {
            BucketBuffer::new(bucket.precision, len)
        } else {
            self.pool.take(&self.layout, number)
        };
        if let Some(hierarchy) = self.strategy.hierarchy() {
            buffer.broadcast(&hierarchy.process)?;
        }
        Ok(buffer)
    }

    /// The gradients of a buffer on the device of a parameter.
    fn write_back(
        &self,
        number: usize,
        parameter: usize,
        buffer: BucketBuffer,
    ) -> FloatTensor<Dispatch> {
        let bucket = &self.layout.buckets[number];
        let len = buffer.len().min(bucket.gradient_len());
        let data = self
            .averaged(number, buffer)
            .take(0..len, &[len], bucket.precision.dtype());
        let _waiting = self
            .watch
            .device("writing averages", number, Some(parameter));
        transfer::write(data, &self.parameters.entries[parameter].device)
    }
}
