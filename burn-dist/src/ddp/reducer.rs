//! The reducer: the thread that packs gradients into buckets and averages each bucket over the ranks
//! as soon as it is full, while the replica's own thread is still in backward.
//!
//! Threads: one reducer a replica, started by `attach`, joined by [`Reducer::stop`], or left behind there
//! if its device hangs (`watch`). It owns the buckets and the group's operations; the replica's thread sends
//! it [`ReducerCommand`]s and waits only in [`Reducer::finish`].
//!
//! Invariants: each place of a bucket is written once a step, so that memory is used again as it is;
//! buckets are averaged strictly in the layout's order, which is the same on every rank,
//! whatever order they fill in; after the first error nothing is averaged any more, and every later
//! step gets that error.

mod devices;
pub(super) mod messages;
mod step;
mod watch;
mod worker;

use super::config::DdpConfig;
use super::layout::Status;
use super::parameters::Parameters;
use super::strategy::Strategy;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use crate::transport::thread::Thread;
use burn::tensor::StreamId;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use messages::{Outcome, Reading, ReducerCommand};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use watch::Watch;
use worker::ReducerWorker;

/// The interval at which a waiter for the thread checks for a device that hangs.
const LOOK: Duration = Duration::from_millis(50);

/// The replica's end of its reducer.
#[derive(Debug)]
pub(super) struct Reducer {
    group: ProcessGroup,
    /// The groups of a process and of leaders, if they are used too.
    beside: Vec<ProcessGroup>,
    parameters: Arc<Parameters>,
    watch: Arc<Watch>,
    commands: Sender<ReducerCommand>,
    thread: Option<Thread>,
}

impl Reducer {
    /// The channel that a reducer will listen on.
    pub(super) fn channel() -> (Sender<ReducerCommand>, Receiver<ReducerCommand>) {
        unbounded()
    }

    /// Starts the thread, on the lane that gradients come on.
    pub(super) fn start(
        config: DdpConfig,
        group: ProcessGroup,
        parameters: Arc<Parameters>,
        strategy: Strategy,
        lane: StreamId,
        (commands, inbox): (Sender<ReducerCommand>, Receiver<ReducerCommand>),
    ) -> Result<Self> {
        let rank = group.global_rank();
        let beside = strategy.beside();
        let watch = Arc::<Watch>::default();
        let known = (Arc::clone(&parameters), Arc::clone(&watch));
        let mut worker = ReducerWorker::new(config, group.clone(), known, strategy);
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
        let finish = ReducerCommand::Finish {
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
        let _ = self.commands.send(ReducerCommand::Stop);
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
