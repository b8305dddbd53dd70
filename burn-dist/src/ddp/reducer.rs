//! The reducer: the thread that packs gradients into buckets and averages each bucket over the ranks
//! as soon as it is full, while the replica's own thread is still in backward.
//!
//! Threads: one reducer a replica, started by `attach`, joined by [`Reducer::stop`], or left behind there
//! if its device hangs (`watch`). It owns the buckets and the group's operations; the replica's thread sends
//! it [`Command`]s and waits only in [`Reducer::finish`].
//!
//! Invariants: each place of a bucket is written once a step, so that memory is used again as it is;
//! buckets are averaged strictly in the layout's order, which is the same on every rank,
//! whatever order they fill in; after the first error nothing is averaged any more, and every later
//! step gets that error.

mod devices;
mod watch;
mod worker;

use super::config::DdpConfig;
use super::fabric::Pending;
use super::gradient::Gradient;
use super::layout::{Bucket, Layout};
use super::parameters::Parameters;
use super::pool::Average;
use super::route::Route;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use crate::transport::thread::Thread;
use burn::tensor::StreamId;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use watch::Watch;
use worker::Worker;

/// How often whoever waits for the thread looks whether its device hangs.
const LOOK: Duration = Duration::from_millis(50);

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
        /// The status of this rank's part.
        status: Status,
        /// Where the averages go.
        reply: Sender<Result<Outcome>>,
    },
    /// The replica's end is gone. (Hooks on the model keep the channel open for as long as it lives.)
    Stop,
}

/// The status of a rank's part of a step. It travels with the last bucket, which waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// What it handed over is of a pass that was dropped since: the step does not count.
    pub(super) void: bool,
    /// What it gave counts, and can't be given again.
    pub(super) spent: bool,
    /// It has late parts.
    pub(super) late: bool,
}

impl Status {
    /// The number of its flags.
    pub(super) const LEN: usize = 3;

    pub(super) fn flags(self) -> [bool; Self::LEN] {
        [self.void, self.spent, self.late]
    }

    pub(super) fn of_flags([void, spent, late]: [bool; Self::LEN]) -> Self {
        Self { void, spent, late }
    }
}

/// The end of a step, the same on all ranks.
#[derive(Debug)]
pub(super) struct Outcome {
    /// None where the part of a rank was void: all ranks give theirs again.
    pub(super) averages: Option<Averages>,
    /// True if any rank has late parts.
    pub(super) late: bool,
}

/// A gradient that is still to be read: the sum of its parts, or nothing.
#[derive(Clone)]
pub(super) struct Reading {
    parameter: usize,
    parts: Vec<Gradient>,
}

impl Reading {
    pub(super) fn new(parameter: usize, parts: Vec<Gradient>) -> Self {
        Self { parameter, parts }
    }

    /// The parameter, and the parts of the sum.
    #[cfg(test)]
    pub(super) fn into_parts(self) -> (usize, Vec<Gradient>) {
        (self.parameter, self.parts)
    }

    /// True if it has no parts.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// An averaged bucket.
#[derive(Debug)]
pub(super) enum Averaged {
    /// It is in host memory, for gradients that are views of it.
    InMemory(Average),
    /// Its device has it, or was asked for it.
    OnDevice(Pending),
    /// It holds no gradients, or they were taken out.
    Nothing,
}

/// The averaged buckets of one step.
#[derive(Debug)]
pub(super) struct Averages {
    pub(super) layout: Arc<Layout>,
    pub(super) buckets: Vec<Averaged>,
    /// For each parameter, whether any rank used it.
    pub(super) used: Vec<bool>,
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
    /// The groups of a process and of leaders, if they are used too.
    beside: Vec<ProcessGroup>,
    parameters: Arc<Parameters>,
    watch: Arc<Watch>,
    commands: Sender<Command>,
    thread: Option<Thread>,
}

impl Reducer {
    /// The channel that a reducer will listen on.
    pub(super) fn channel() -> (Sender<Command>, Receiver<Command>) {
        unbounded()
    }

    /// Starts the thread, on the lane that gradients come on.
    pub(super) fn start(
        config: DdpConfig,
        group: ProcessGroup,
        parameters: Arc<Parameters>,
        route: Route,
        lane: StreamId,
        (commands, inbox): (Sender<Command>, Receiver<Command>),
    ) -> Result<Self> {
        let rank = group.global_rank();
        let beside = route.beside();
        let watch = Arc::<Watch>::default();
        let known = (Arc::clone(&parameters), Arc::clone(&watch));
        let mut worker = Worker::new(config, group.clone(), known, route);
        let body = move || lane.executes(|| worker.run(&inbox));
        let thread = Thread::spawn(format!("burn-dist-reducer-{rank}"), body);
        let thread = thread.map_err(|error| Error::System {
            rank,
            what: "starting the reducer thread",
            message: error.to_string(),
        })?;
        Ok(Self {
            group,
            beside,
            parameters,
            watch,
            commands,
            thread: Some(thread),
        })
    }

    /// Hands over what is missing, and waits for the averages of the step.
    pub(super) fn finish(
        &self,
        rest: Vec<Reading>,
        ready_order: Vec<usize>,
        status: Status,
    ) -> Result<Outcome> {
        let (reply, averages) = bounded(1);
        let finish = Command::Finish {
            rest,
            ready_order,
            status,
            reply,
        };
        if self.commands.send(finish).is_err() {
            return Err(self.ended());
        }
        loop {
            match averages.recv_timeout(LOOK) {
                Ok(averages) => return averages,
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // All else that the thread waits for has a deadline of its own.
            if let Some(stall) = self.watch.stall(self.group.timeout()) {
                let error = stall.error(self.group.global_rank(), &self.parameters);
                self.abort(&error.to_string());
                return Err(error);
            }
        }
    }

    /// Ends all groups: the other ranks can't go on without this one.
    pub(super) fn abort(&self, message: &str) {
        for group in self.beside.iter().chain([&self.group]) {
            group.abort(message);
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
    /// more: then a launcher joins it when the rank's worker has ended; without one the others are told
    /// here.
    pub(super) fn stop(&mut self, mid_step: bool) {
        self.watch.stopping.store(true, Ordering::Relaxed);
        // If the thread has ended already, there is nothing to stop.
        let _ = self.commands.send(Command::Stop);
        let Some(mut thread) = self.thread.take() else {
            return;
        };
        if mid_step && self.watch.stall(self.group.timeout()).is_none() {
            match self.group.keep_thread(thread) {
                Ok(()) => return,
                Err(back) => thread = back,
            }
            self.abort("it dropped its Ddp in mid-step");
        }
        // What it waits for ends: operations at their deadlines, its device or the patience with it.
        while let Err(running) = thread.join_within(LOOK) {
            if let Some(stall) = self.watch.stall(self.group.timeout()) {
                let rank = self.group.global_rank();
                let error = stall.error(rank, &self.parameters);
                tracing::error!(rank, "the reducer thread is left behind: {error}");
                return;
            }
            thread = running;
        }
    }
}

#[cfg(test)]
mod tests;
