//! The reducer's thread.

use super::messages::{Averaged, Averages, Outcome, Reading, ReducerCommand};
use super::step::{Averaging, StepBuckets};
use super::watch::Watch;
use crate::codec;
use crate::ddp::buffer::{BucketBuffer, checked_len};
use crate::ddp::config::DdpConfig;
use crate::ddp::layout::{self, BucketLayout, BucketPlace, Status};
use crate::ddp::parameters::Parameters;
use crate::ddp::pool::{HostAverage, Pool};
use crate::ddp::strategy::Strategy;
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::TensorData;
use crossbeam::channel::Receiver;
use std::sync::Arc;
use std::time::Instant;
use tracing::Span;

/// The thread's own state.
pub(super) struct ReducerWorker {
    pub(super) config: DdpConfig,
    pub(super) group: ProcessGroup,
    pub(super) parameters: Arc<Parameters>,
    pub(super) watch: Arc<Watch>,
    pub(super) strategy: Strategy,
    pub(super) layout: Arc<BucketLayout>,
    /// The place of each parameter in the layout.
    places: Vec<Option<BucketPlace>>,
    pub(super) pool: Pool,
    pub(super) step: StepBuckets,
    /// True once the layout follows the order in which gradients really come.
    ordered: bool,
    /// The first error: the end of all averaging.
    failed: Option<Error>,
}

impl ReducerWorker {
    pub(super) fn new(
        config: DdpConfig,
        group: ProcessGroup,
        (parameters, watch): (Arc<Parameters>, Arc<Watch>),
        strategy: Strategy,
    ) -> Self {
        let count = parameters.entries.len();
        let layout = plan(&config, &parameters, &layout::reversed(count));
        Self {
            places: layout.places(count),
            pool: Pool::new(&layout),
            step: StepBuckets::new(&layout, count),
            layout: Arc::new(layout),
            config,
            group,
            parameters,
            watch,
            strategy,
            ordered: false,
            failed: None,
        }
    }

    /// Runs until the replica's end is dropped.
    pub(super) fn run(&mut self, inbox: &Receiver<ReducerCommand>) {
        while let Ok(command) = inbox.recv() {
            if self.watch.is_stopping() {
                break;
            }
            match command {
                ReducerCommand::Ready(reading) => self.take(reading),
                ReducerCommand::Finish {
                    rest,
                    ready_order,
                    status,
                    reply,
                } => {
                    for reading in rest {
                        self.take(reading);
                    }
                    self.close(status);
                    // A replica that is gone wants no answer.
                    let _ = reply.send(self.finish(&ready_order));
                }
                ReducerCommand::Stop => break,
            }
        }
    }

    /// Puts one gradient to its bucket and averages the buckets that are full; keeps the first error.
    fn take(&mut self, reading: Reading) {
        if self.failed.is_none()
            && let Err(error) = self.pack(reading).and_then(|()| self.average_full())
        {
            self.fail(error);
        }
    }

    /// Adds the status to the last bucket, which completes it.
    fn close(&mut self, status: Status) {
        self.step.status = status;
        if let Some(last) = self.step.missing.last_mut() {
            *last -= 1;
        }
        if self.failed.is_none()
            && let Err(error) = self.average_full()
        {
            self.fail(error);
        }
    }

    /// Keeps the first error, and tells the other ranks: they would wait for this one otherwise.
    fn fail(&mut self, error: Error) {
        let message = error.to_string();
        self.group.abort(&message);
        for group in self.strategy.beside() {
            group.abort(&message);
        }
        self.failed = Some(error);
    }

    fn pack(&mut self, reading: Reading) -> Result<()> {
        let Reading { parameter, parts } = reading;
        let rank = self.group.global_rank();
        let _span = tracing::trace_span!("pack", rank, parameter).entered();
        let Some(place) = self.places[parameter].clone() else {
            // `synchronize` gives only what has a place, and only trained parameters are hooked.
            return Err(self.unreadable(parameter, "it has no place in a bucket"));
        };
        let used = !parts.is_empty();
        if self.strategy.joins() {
            let precision = self.layout.buckets[place.bucket].precision;
            for part in parts {
                checked_len(part.len(), place.range.len())
                    .map_err(|message| self.unreadable(parameter, &message))?;
                let _waiting =
                    self.watch
                        .device("joining gradients", place.bucket, Some(parameter));
                self.step.sums[parameter].add(part.into_tensor(), precision);
            }
        } else {
            for (number, part) in parts.into_iter().enumerate() {
                let read = {
                    let _waiting =
                        self.watch
                            .device("reading a gradient", place.bucket, Some(parameter));
                    part.read()
                };
                // The gradient's own memory goes as soon as it is copied.
                let packed = read.and_then(|data| self.pack_part(&place, data, number > 0));
                packed.map_err(|message| self.unreadable(parameter, &message))?;
            }
            if !used {
                let range = place.range.clone();
                self.filling(place.bucket).clear(range);
            }
        }
        self.step.used[parameter] = used;
        let (flag_bucket, _) = place.flag;
        let flagged = (flag_bucket != place.bucket).then_some(flag_bucket);
        for bucket in std::iter::once(place.bucket).chain(flagged) {
            let missing = self.step.missing[bucket].checked_sub(1);
            self.step.missing[bucket] =
                missing.ok_or_else(|| self.unreadable(parameter, "it came twice in one step"))?;
        }
        Ok(())
    }

    /// Puts a gradient, or a further part of it, to its place.
    fn pack_part(
        &mut self,
        place: &BucketPlace,
        data: TensorData,
        add: bool,
    ) -> Result<(), String> {
        let bucket = &self.layout.buckets[place.bucket];
        if bucket.is_lone() && !add {
            let buffer = BucketBuffer::of(data, bucket.precision, bucket.len())?;
            self.step.filling[place.bucket] = Some(buffer);
            return Ok(());
        }
        let range = place.range.clone();
        self.filling(place.bucket).pack(range, &data, add)
    }

    /// The memory of a bucket in this step.
    fn filling(&mut self, bucket: usize) -> &mut BucketBuffer {
        let memory = || self.pool.take(&self.layout, bucket);
        self.step.filling[bucket].get_or_insert_with(memory)
    }

    fn average_full(&mut self) -> Result<()> {
        loop {
            let next = self.step.averaging.len();
            if self.step.missing.get(next) != Some(&0) {
                return Ok(());
            }
            let bytes = self.layout.buckets[next].bytes();
            let rank = self.group.global_rank();
            let span = tracing::debug_span!("bucket", rank, bucket = next, bytes);
            let averaging = match &self.strategy {
                Strategy::HostPack { in_pieces } => {
                    self.average_in_memory(next, *in_pieces, &span)?
                }
                Strategy::DeviceConcat => self.average_joined(next, &span)?,
                Strategy::DeviceReduce(devices) => {
                    let devices = Arc::clone(devices);
                    self.average_on_device(next, &devices, &span)?
                }
            };
            self.step.averaging.push(averaging);
        }
    }

    /// Averages a bucket that gradients were packed to.
    fn average_in_memory(
        &mut self,
        number: usize,
        in_pieces: bool,
        span: &Span,
    ) -> Result<Averaging> {
        let _span = span.enter();
        let filled = self.step.filling[number].take();
        // A bucket of nothing but flags has had no writer.
        let mut buffer = filled.unwrap_or_else(|| self.pool.take(&self.layout, number));
        self.set_flags(number, &mut buffer);
        let cap = if in_pieces {
            self.config.caps().1
        } else {
            usize::MAX
        };
        let pieces = self.layout.buckets[number].pieces(cap);
        let start = Instant::now();
        buffer.average(&self.group, &pieces)?;
        self.step.times.push(start..Instant::now());
        self.read_flags(number, &buffer);
        let average = self.averaged(number, buffer);
        Ok(Averaging::Done(Averaged::InMemory(average)))
    }

    pub(super) fn set_flags(&self, number: usize, buffer: &mut BucketBuffer) {
        let bucket = &self.layout.buckets[number];
        for (at, &parameter) in (bucket.gradient_len()..).zip(&bucket.flags) {
            buffer.set_flag(at, self.step.used[parameter]);
        }
        let status = bucket.status();
        for (at, flag) in status.zip(self.step.status.flags()) {
            buffer.set_flag(at, flag);
        }
    }

    pub(super) fn read_flags(&mut self, number: usize, buffer: &BucketBuffer) {
        let bucket = &self.layout.buckets[number];
        for (at, &parameter) in (bucket.gradient_len()..).zip(&bucket.flags) {
            self.step.used[parameter] = buffer.flag(at);
        }
        let status: Vec<bool> = bucket.status().map(|at| buffer.flag(at)).collect();
        if let Ok(flags) = status.try_into() {
            self.step.any = Status::of_flags(flags);
        }
    }

    pub(super) fn averaged(&self, number: usize, buffer: BucketBuffer) -> HostAverage {
        if self.layout.buckets[number].is_lone() {
            HostAverage::Lone(buffer)
        } else {
            self.pool.lend(number, buffer)
        }
    }

    fn finish(&mut self, ready_order: &[usize]) -> Result<Outcome> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.conclude(ready_order).inspect_err(|error| {
            self.fail(error.clone());
        })
    }

    fn conclude(&mut self, ready_order: &[usize]) -> Result<Outcome> {
        let averaging = std::mem::take(&mut self.step.averaging);
        let buckets = averaging.into_iter().enumerate();
        let buckets = buckets.map(|(number, averaging)| self.wait(number, averaging));
        let buckets = buckets.collect::<Result<Vec<Averaged>>>()?;
        if let Strategy::DeviceReduce(_) = self.strategy {
            self.reduce_flags()?;
        }
        let any = self.step.any;
        let parameters = self.parameters.entries.len();
        if any.void {
            self.check_void()?;
            self.step = StepBuckets::new(&self.layout, parameters);
            return Ok(Outcome {
                averages: None,
                late: false,
            });
        }
        let layout = Arc::clone(&self.layout);
        if !self.ordered {
            self.follow(ready_order)?;
        }
        let next = StepBuckets::new(&self.layout, parameters);
        let done = std::mem::replace(&mut self.step, next);
        Ok(Outcome {
            averages: Some(Averages {
                layout,
                buckets,
                used: done.used,
                times: done.times,
            }),
            late: any.late,
        })
    }

    /// Reduces the flags of all parameters, and the status, where no bucket carries them.
    fn reduce_flags(&mut self) -> Result<()> {
        let flags = self
            .step
            .used
            .iter()
            .copied()
            .chain(self.step.status.flags());
        let mut flags: Vec<u8> = flags.map(u8::from).collect();
        self.group.all_reduce(&mut flags, ReduceOp::Max)?;
        let status = flags.split_off(self.step.used.len());
        self.step.used = flags.into_iter().map(|used| used > 0).collect();
        let status: Vec<bool> = status.into_iter().map(|flag| flag > 0).collect();
        if let Ok(flags) = status.try_into() {
            self.step.any = Status::of_flags(flags);
        }
        Ok(())
    }

    /// After a step in which the part of a rank was void: an error on all ranks if that of another was not, and
    /// can't be given again.
    fn check_void(&self) -> Result<()> {
        let (own, any) = (self.step.status, self.step.any);
        if !any.spent {
            return Ok(());
        }
        let all: Vec<(bool, bool)> = self.group.objects().all_gather(&(own.void, own.spent))?;
        let ranks = |which: fn(&(bool, bool)) -> bool| {
            let ranks = all.iter().zip(self.group.ranks());
            let ranks: Vec<String> = ranks
                .filter(|(status, _)| which(status))
                .map(|(_, rank)| rank.to_string())
                .collect();
            ranks.join(", ")
        };
        Err(Error::Order {
            rank: self.group.global_rank(),
            message: format!(
                "ranks that dropped a backward pass after it was handed over (`discard`, or another model's \
                 `synchronize`): {}; ranks whose own gradients were averaged with that: {}; all ranks drop a \
                 pass, or none does: run such passes in `Ddp::ignore`",
                ranks(|(void, _)| *void),
                ranks(|(_, spent)| *spent)
            ),
        })
    }

    /// Lays the buckets out anew, in the order that rank 0 has seen in the first step.
    fn follow(&mut self, ready_order: &[usize]) -> Result<()> {
        let rank = self.group.global_rank();
        let peer = self.group.ranks()[0];
        let control = |message| Error::Control {
            rank,
            peer,
            message,
        };
        let ours = (self.group.rank() == 0).then(|| codec::encode(&ready_order));
        let ours = ours.transpose().map_err(control)?;
        let bytes = self.group.broadcast_bytes(ours.as_deref(), 0)?;
        let order: Vec<usize> = codec::decode(&bytes).map_err(control)?;
        let parameters = self.parameters.entries.len();
        let order = layout::completed(order, parameters)
            .ok_or_else(|| control("its bucket order names other parameters".into()))?;
        self.layout = Arc::new(plan(&self.config, &self.parameters, &order));
        self.places = self.layout.places(parameters);
        self.pool = Pool::new(&self.layout);
        self.ordered = true;
        tracing::debug!(
            buckets = self.layout.buckets.len(),
            "buckets follow backward's order"
        );
        Ok(())
    }

    pub(super) fn unreadable(&self, parameter: usize, message: &str) -> Error {
        Error::Tensor {
            rank: self.group.global_rank(),
            operation: "reading a gradient",
            message: format!(
                "{message} (parameter `{}`)",
                self.parameters.entries[parameter].description.path
            ),
        }
    }
}

fn plan(config: &DdpConfig, parameters: &Parameters, order: &[usize]) -> BucketLayout {
    let (first, cap) = config.caps();
    BucketLayout::new(&parameters.entries, order, first, cap)
}
