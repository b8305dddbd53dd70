//! The reducer: the thread that packs gradients into buckets and averages each bucket over the ranks
//! as soon as it is full, while the replica's own thread is still in backward.
//!
//! Threads: one reducer a replica, started by `attach`, joined by [`Reducer::stop`]. It
//! owns the buckets and the group's operations; the replica's thread sends it [`Command`]s and waits
//! only in [`Reducer::finish`].
//!
//! Invariants: each place of a bucket is written once a step, so that memory is used again as it is;
//! buckets are averaged strictly in the layout's order, which is the same on every rank,
//! whatever order they fill in; after the first error nothing is averaged any more, and every later
//! step gets that error.
//!
//! Callers: `attach`, hooks (through `Usage`), `Ddp::synchronize`.

use super::buffer::Buffer;
use super::config::DdpConfig;
use super::hook::HostRead;
use super::layout::{self, Bucket, Layout, Place};
use super::parameters::Parameters;
use super::pool::{Average, Pool};
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::TensorData;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the replica's thread tells the reducer.
pub(super) enum Command {
    /// A gradient is complete.
    Ready(Reading),
    /// Backward is over.
    Finish {
        /// The parameters that no hook handed over.
        rest: Vec<Reading>,
        /// The order in which hooks handed the others over.
        ready_order: Vec<usize>,
        /// Where the averages go.
        reply: Sender<Result<Averages>>,
    },
    /// The replica's end is gone. (Hooks on the model keep the channel open for as long as it lives.)
    Stop,
}

/// A gradient that is still to be read: the sum of its parts, or nothing.
pub(super) struct Reading {
    parameter: usize,
    parts: Vec<HostRead>,
}

impl Reading {
    pub(super) fn new(parameter: usize, parts: Vec<HostRead>) -> Self {
        Self { parameter, parts }
    }
}

/// The averaged buckets of one step.
#[derive(Debug)]
pub(super) struct Averages {
    pub(super) layout: Arc<Layout>,
    pub(super) buckets: Vec<Average>,
    /// When each bucket was averaged.
    pub(super) times: Vec<Range<Instant>>,
}

impl Averages {
    /// For how long buckets were averaged after this moment.
    pub(super) fn averaging_since(&self, moment: Instant) -> Duration {
        let times = self.times.iter();
        times
            .map(|time| time.end.saturating_duration_since(time.start.max(moment)))
            .sum()
    }

    /// The size of all buckets.
    pub(super) fn bytes(&self) -> u64 {
        self.layout.buckets.iter().map(Bucket::bytes).sum()
    }
}

/// The replica's end of its reducer.
#[derive(Debug)]
pub(super) struct Reducer {
    group: ProcessGroup,
    /// The number of parameters; there is at most one bucket more.
    parameters: usize,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Reducer {
    /// The channel that a reducer will listen on.
    pub(super) fn channel() -> (Sender<Command>, Receiver<Command>) {
        unbounded()
    }

    /// Starts the thread.
    pub(super) fn start(
        config: DdpConfig,
        group: ProcessGroup,
        parameters: Arc<Parameters>,
        (commands, inbox): (Sender<Command>, Receiver<Command>),
    ) -> Result<Self> {
        let rank = group.global_rank();
        let count = parameters.entries.len();
        let mut worker = Worker::new(config, group.clone(), parameters);
        let thread = std::thread::Builder::new()
            .name(format!("burn-dist-reducer-{rank}"))
            .spawn(move || worker.run(&inbox))
            .map_err(|error| Error::System {
                rank,
                what: "starting the reducer thread",
                message: error.to_string(),
            })?;
        Ok(Self {
            group,
            parameters: count,
            commands,
            thread: Some(thread),
        })
    }

    /// Hands over what is missing, and waits for the averages of the step.
    pub(super) fn finish(&self, rest: Vec<Reading>, ready_order: Vec<usize>) -> Result<Averages> {
        let (reply, averages) = bounded(1);
        let finish = Command::Finish {
            rest,
            ready_order,
            reply,
        };
        if self.commands.send(finish).is_err() {
            return Err(self.ended());
        }
        // The thread answers after at most one timeout of the group for each bucket and the new order.
        // A device that never answers a read is the one thing that has no deadline of its own.
        let operations = u32::try_from(self.parameters.saturating_add(3)).unwrap_or(u32::MAX);
        let deadline = self.group.timeout().saturating_mul(operations);
        match averages.recv_timeout(deadline) {
            Ok(averages) => averages,
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => {
                let error = Error::Tensor {
                    rank: self.group.global_rank(),
                    operation: "reading gradients",
                    message: format!("the device gave none for {:.0} s", deadline.as_secs_f64()),
                };
                self.group.abort(&error.to_string());
                Err(error)
            }
        }
    }

    fn ended(&self) -> Error {
        Error::System {
            rank: self.group.global_rank(),
            what: "averaging gradients",
            message: "the reducer thread has ended; its panic message is above".into(),
        }
    }
}

impl Reducer {
    /// Ends the thread. In mid-step it may wait for other ranks, which this one will not join any
    /// more: then a launcher, which knows better why, tells them and joins the thread; without one
    /// they are told here.
    pub(super) fn stop(&mut self, mid_step: bool) {
        // If the thread has ended already, there is nothing to stop.
        let _ = self.commands.send(Command::Stop);
        let thread = self.thread.take();
        let thread = if mid_step {
            let untold = self.group.entrust(thread);
            if untold.is_err() {
                self.group.abort("it dropped its Ddp in mid-step");
            }
            untold.err().flatten()
        } else {
            thread
        };
        if let Some(thread) = thread {
            // A panic in it was reported by `finish` already.
            let _ = thread.join();
        }
    }
}

/// The thread's own state.
struct Worker {
    config: DdpConfig,
    group: ProcessGroup,
    parameters: Arc<Parameters>,
    layout: Arc<Layout>,
    /// Where each parameter is in it.
    places: Vec<Option<Place>>,
    pool: Pool,
    step: Step,
    /// Whether the layout follows the order in which gradients really come.
    ordered: bool,
    /// The first error: the end of all averaging.
    failed: Option<Error>,
}

/// The buckets of the current step.
struct Step {
    /// Those that gradients have come for.
    filling: Vec<Option<Buffer>>,
    /// How many parameters each bucket still waits for, for their gradients or flags.
    missing: Vec<usize>,
    /// Those that are averaged: a beginning of all buckets.
    averaged: Vec<Average>,
    /// When they were.
    times: Vec<Range<Instant>>,
}

impl Step {
    fn new(layout: &Layout) -> Self {
        let buckets = layout.buckets.iter();
        Self {
            filling: buckets.clone().map(|_| None).collect(),
            missing: buckets.map(Bucket::writers).collect(),
            averaged: Vec::new(),
            times: Vec::new(),
        }
    }
}

impl Worker {
    fn new(config: DdpConfig, group: ProcessGroup, parameters: Arc<Parameters>) -> Self {
        let order = layout::reversed(parameters.entries.len());
        let layout = plan(&config, &parameters, &order);
        Self {
            places: layout.places(parameters.entries.len()),
            pool: Pool::new(&layout),
            step: Step::new(&layout),
            layout: Arc::new(layout),
            config,
            group,
            parameters,
            ordered: false,
            failed: None,
        }
    }

    /// Runs until the replica's end is dropped.
    fn run(&mut self, inbox: &Receiver<Command>) {
        while let Ok(command) = inbox.recv() {
            match command {
                Command::Ready(reading) => self.take(reading),
                Command::Finish {
                    rest,
                    ready_order,
                    reply,
                } => {
                    for reading in rest {
                        self.take(reading);
                    }
                    // A replica that is gone wants no answer.
                    let _ = reply.send(self.finish(&ready_order));
                }
                Command::Stop => break,
            }
        }
    }

    /// Packs one gradient and averages the buckets that are full; keeps the first error.
    fn take(&mut self, reading: Reading) {
        if self.failed.is_none()
            && let Err(error) = self.pack(reading).and_then(|()| self.average_full())
        {
            self.fail(error);
        }
    }

    /// Keeps the first error, and tells the other ranks: they would wait for this one otherwise.
    fn fail(&mut self, error: Error) {
        self.group.abort(&error.to_string());
        self.failed = Some(error);
    }

    fn pack(&mut self, reading: Reading) -> Result<()> {
        let Reading { parameter, parts } = reading;
        let rank = self.group.global_rank();
        let _span = tracing::trace_span!("pack", rank, parameter).entered();
        let Some(place) = self.places[parameter].clone() else {
            // `settle` collects only what has a place, and only trained parameters are hooked.
            return Err(self.unreadable(parameter, "it has no place in a bucket"));
        };
        let mut used = false;
        for read in parts {
            // The gradient's own memory goes as soon as it is copied.
            let packed = futures_lite::future::block_on(read)
                .and_then(|data| self.pack_part(&place, data, used));
            packed.map_err(|message| self.unreadable(parameter, &message))?;
            used = true;
        }
        if !used {
            let range = place.range.clone();
            self.filling(place.bucket).clear(range);
        }
        let (flag_bucket, flag) = place.flag;
        self.filling(flag_bucket).set_flag(flag, used);
        self.step.missing[place.bucket] -= 1;
        if flag_bucket != place.bucket {
            self.step.missing[flag_bucket] -= 1;
        }
        Ok(())
    }

    /// Puts a gradient, or a further part of it, to its place.
    fn pack_part(&mut self, place: &Place, data: TensorData, add: bool) -> Result<(), String> {
        let bucket = &self.layout.buckets[place.bucket];
        if bucket.is_lone() && !add {
            let buffer = Buffer::of(data, bucket.precision, bucket.len())?;
            self.step.filling[place.bucket] = Some(buffer);
            return Ok(());
        }
        let range = place.range.clone();
        self.filling(place.bucket).pack(range, &data, add)
    }

    /// The memory of a bucket in this step.
    fn filling(&mut self, bucket: usize) -> &mut Buffer {
        let memory = || self.pool.take(&self.layout, bucket);
        self.step.filling[bucket].get_or_insert_with(memory)
    }

    fn average_full(&mut self) -> Result<()> {
        let step = &mut self.step;
        loop {
            let next = step.averaged.len();
            if step.missing.get(next) != Some(&0) {
                return Ok(());
            }
            let Some(mut buffer) = step.filling[next].take() else {
                // Every bucket has a writer, and so is full only after one has written.
                return Ok(());
            };
            let bucket = &self.layout.buckets[next];
            let (rank, bytes) = (self.group.global_rank(), bucket.bytes());
            let span = tracing::debug_span!("bucket", rank, bucket = next, bytes).entered();
            let start = Instant::now();
            buffer.average(&self.group)?;
            step.times.push(start..Instant::now());
            drop(span);
            step.averaged.push(if bucket.is_lone() {
                Average::Lone(buffer)
            } else {
                self.pool.lend(next, buffer)
            });
        }
    }

    fn finish(&mut self, ready_order: &[usize]) -> Result<Averages> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let layout = Arc::clone(&self.layout);
        if !self.ordered
            && let Err(error) = self.follow(ready_order)
        {
            self.fail(error.clone());
            return Err(error);
        }
        let next = Step::new(&self.layout);
        let done = std::mem::replace(&mut self.step, next);
        Ok(Averages {
            layout,
            buckets: done.averaged,
            times: done.times,
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
        let ours = (self.group.rank() == 0).then(|| crate::control::encode(&ready_order));
        let ours = ours.transpose().map_err(control)?;
        let bytes = self.group.broadcast_bytes(ours.as_deref(), 0)?;
        let order: Vec<usize> = crate::control::decode(&bytes).map_err(control)?;
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

    fn unreadable(&self, parameter: usize, message: &str) -> Error {
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

fn plan(config: &DdpConfig, parameters: &Parameters, order: &[usize]) -> Layout {
    let (first, cap) = config.caps();
    Layout::new(&parameters.entries, order, first, cap)
}

#[cfg(test)]
mod tests;
