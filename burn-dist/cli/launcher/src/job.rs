//! Processes that run and end together.
//!
//! The thread that calls [`run`] owns the [`Job`], decides, and alone sends signals. Each process has
//! three threads that report to it: one waits for its end, two copy its stdout and stderr. They are
//! joined, except those of a process that can't be killed or of a stream that a program outside the
//! process group holds open: they end with the launcher. `signals` adds a thread.
//!
//! A job goes through [`Phase`]s, each with a deadline once the end has begun, so it ends in any case.

use crate::error::Error;
use crate::group::Group;
use crate::outcome::{Cause, End, Outcome};
use crate::output::{Copied, Log, Sink, Tail, copy};
use crate::signals::{INTERRUPT, Signals};
use std::io;
use std::mem;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Time that the others have to end by themselves after one has failed. They may have heard of the failure
/// from the process where it began, which may end after them and still says why.
const SETTLING: Duration = Duration::from_secs(2);
/// Time that processes have to end after SIGTERM, and to be gone after SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Time that processes have to save their work after the user's signal. A second Ctrl-C cuts it short.
const SAVING: Duration = Duration::from_secs(30);
/// Shortest time between two Ctrl-C of a person: launchers of launchers send a signal more than once.
const SECOND_THOUGHT: Duration = Duration::from_millis(500);

/// Number of the last lines of a process's stderr that the summary shows.
const LAST: usize = 10;
/// Number of the last lines of stdout that are kept for the caller.
const KEPT: usize = 1000;

/// A process to start.
#[derive(Debug)]
pub struct Task {
    command: Command,
    label: String,
    log: Option<PathBuf>,
}

impl Task {
    /// A process of this command. The label stands before each line of its output and in messages about it.
    pub fn new(command: Command, label: impl Into<String>) -> Self {
        Self {
            command,
            label: label.into(),
            log: None,
        }
    }

    /// Writes the lines of stdout and stderr to this file too, without the label. An older file is replaced.
    #[must_use]
    pub fn with_log(mut self, file: PathBuf) -> Self {
        self.log = Some(file);
        self
    }
}

/// Limits of a job, and where its output goes.
#[derive(Debug)]
pub(crate) struct Terms {
    /// Longest time of the whole job; none for no limit.
    pub(crate) limit: Option<Duration>,
    /// True if stdout is kept for the caller instead of shown.
    pub(crate) keeps: bool,
    /// Time that the processes have to end after the user's signal.
    pub(crate) saving: Duration,
}

/// Report of a thread of the job.
#[derive(Debug)]
enum Event {
    Ended(usize, io::Result<ExitStatus>),
    /// A stream of a process has ended, and all of it is written.
    Closed,
    /// The launcher's stdout or stderr is gone.
    OutputLost,
    /// A log file can't be written any more.
    LogLost(Error),
    Signal(i32),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    /// One has failed, and the others may end by themselves.
    Settling(Instant),
    /// The processes were asked to end.
    Ending(Instant),
    /// They were killed.
    Killed(Instant),
}

/// Processes that run and end together. Dropping it kills them.
#[derive(Debug)]
struct Job {
    terms: Terms,
    /// End of the time limit.
    until: Option<Instant>,
    phase: Phase,
    cause: Option<Cause>,
    /// The first signal that the launcher got.
    signal: Option<i32>,
    /// Time of the first Ctrl-C.
    ctrl_c: Option<Instant>,
    labels: Vec<String>,
    ends: Vec<End>,
    lost_logs: Vec<Error>,
    tails: Vec<Arc<Tail>>,
    kept: Arc<Tail>,
    /// Processes that have not ended, and streams that have not.
    running: usize,
    open: usize,
    events: Receiver<Event>,
    report: Sender<Event>,
    group: Group,
    threads: Vec<JoinHandle<()>>,
}

/// Starts the processes and waits until all have ended. The first that fails ends the others; so does a
/// signal to the launcher.
///
/// # Errors
///
/// [`Error`] if a process can't be started; those that were started have been ended.
pub fn run(tasks: Vec<Task>) -> Result<Outcome, Error> {
    let terms = Terms {
        limit: None,
        keeps: false,
        saving: SAVING,
    };
    run_under(tasks, terms)
}

/// [`run`] under the given terms.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_under(tasks: Vec<Task>, terms: Terms) -> Result<Outcome, Error> {
    let (report, events) = channel();
    // Before the first process, so that no signal can come between.
    let tell = report.clone();
    let _signals = Signals::new(move |signal| drop(tell.send(Event::Signal(signal))))?;
    let mut job = Job {
        until: terms.limit.map(|limit| Instant::now() + limit),
        terms,
        phase: Phase::Running,
        cause: None,
        signal: None,
        ctrl_c: None,
        labels: Vec::new(),
        ends: Vec::new(),
        lost_logs: Vec::new(),
        tails: Vec::new(),
        kept: Arc::new(Tail::new(KEPT)),
        running: 0,
        open: 0,
        events,
        report,
        group: Group::new()?,
        threads: Vec::new(),
    };
    for task in tasks {
        if let Err(error) = job.start(task) {
            job.kill();
            job.wait();
            return Err(error);
        }
    }
    job.wait();
    Ok(job.outcome())
}

impl Job {
    fn start(&mut self, task: Task) -> Result<(), Error> {
        let Task {
            mut command,
            label,
            log,
        } = task;
        let log = log.map(Log::create).transpose()?.map(Arc::new);
        self.group.enter(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|cause| Error::Start {
            program: command.get_program().into(),
            process: label.clone(),
            cause,
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let process = self.ends.len();
        self.ends.push(End::Never);
        self.labels.push(label);
        let tail = Arc::new(Tail::new(LAST));
        self.tails.push(Arc::clone(&tail));

        self.attend(process, child)?;
        if let Some(stdout) = stdout {
            let (sink, tail) = if self.terms.keeps {
                (Sink::Nowhere, Some(Arc::clone(&self.kept)))
            } else {
                (Sink::Stdout, None)
            };
            self.copy(process, stdout, sink, tail, log.clone())?;
        }
        if let Some(stderr) = stderr {
            self.copy(process, stderr, Sink::Stderr, Some(tail), log)?;
        }
        Ok(())
    }

    /// Waits for the process on a thread.
    fn attend(&mut self, process: usize, child: Child) -> Result<(), Error> {
        let wait = self.group.waiter(child);
        let report = self.report.clone();
        self.spawn(format!("launch-wait-{process}"), move || {
            let end = wait();
            // The job is there as long as anybody waits for its processes.
            let _ = report.send(Event::Ended(process, end));
        })?;
        self.running += 1;
        Ok(())
    }

    /// Copies a stream of the process on a thread.
    fn copy(
        &mut self,
        process: usize,
        from: impl io::Read + Send + 'static,
        sink: Sink,
        tail: Option<Arc<Tail>>,
        log: Option<Arc<Log>>,
    ) -> Result<(), Error> {
        let report = self.report.clone();
        let prefix = sink.prefix(process, &self.labels[process]);
        self.spawn(format!("launch-output-{process}"), move || {
            // The job is there as long as anybody waits for its streams.
            let lost = |event| drop(report.send(event));
            let to = Copied {
                sink,
                prefix,
                tail: tail.as_deref(),
                log: log.as_deref(),
            };
            copy(
                from,
                &to,
                || lost(Event::OutputLost),
                |error| lost(Event::LogLost(error)),
            );
            lost(Event::Closed);
        })?;
        self.open += 1;
        Ok(())
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = Builder::new()
            .name(name)
            .spawn(work)
            .map_err(Error::system("start a thread"))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits until all processes and streams have ended, or can't be made to.
    fn wait(&mut self) {
        while self.running > 0 || self.open > 0 {
            match self.next() {
                Some(event) => self.take(event),
                None => match self.phase {
                    Phase::Running => {
                        self.cause = Some(Cause::Overdue);
                        self.terminate();
                    }
                    Phase::Settling(_) => self.terminate(),
                    Phase::Ending(_) => self.kill(),
                    Phase::Killed(_) => return,
                },
            }
        }
    }

    /// The next event; none when the phase has lasted long enough.
    fn next(&self) -> Option<Event> {
        let until = match self.phase {
            Phase::Running => self.until,
            Phase::Settling(until) | Phase::Ending(until) | Phase::Killed(until) => Some(until),
        };
        let Some(until) = until else {
            return self.events.recv().ok();
        };
        let left = until.saturating_duration_since(Instant::now());
        self.events.recv_timeout(left).ok()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Ended(process, end) => {
                let end = end.map_or_else(End::Unknown, End::Known);
                let failed = !end.is_success();
                self.ends[process] = end;
                self.running -= 1;
                if failed && matches!(self.phase, Phase::Running) {
                    self.cause = Some(Cause::Failed(process));
                    self.phase = Phase::Settling(Instant::now() + SETTLING);
                }
                if self.running == 0 && matches!(self.phase, Phase::Running | Phase::Settling(_)) {
                    // What the processes left behind doesn't outlive them.
                    self.terminate();
                }
            }
            Event::Closed => self.open -= 1,
            Event::OutputLost => {
                if matches!(self.phase, Phase::Running) {
                    self.cause = Some(Cause::OutputLost);
                    self.terminate();
                }
            }
            Event::LogLost(error) => self.lost_logs.push(error),
            Event::Signal(signal) => {
                self.signal.get_or_insert(signal);
                let again = signal == INTERRUPT
                    && self.ctrl_c.get_or_insert_with(Instant::now).elapsed() >= SECOND_THOUGHT;
                match self.phase {
                    Phase::Running => {
                        self.cause = Some(Cause::Signal(signal));
                        self.group.forward(signal);
                        self.phase = Phase::Ending(Instant::now() + self.terms.saving);
                    }
                    // They go already.
                    Phase::Settling(_) => self.terminate(),
                    Phase::Ending(_) if again => self.kill(),
                    Phase::Ending(_) | Phase::Killed(_) => {}
                }
            }
        }
    }

    fn terminate(&mut self) {
        self.phase = Phase::Ending(Instant::now() + GRACE);
        self.group.terminate();
    }

    fn kill(&mut self) {
        self.phase = Phase::Killed(Instant::now() + GRACE);
        self.group.kill();
    }

    fn outcome(mut self) -> Outcome {
        let last_lines = match self.cause {
            Some(Cause::Failed(_)) => self.tails.iter().map(|tail| tail.lines()).collect(),
            _ => Vec::new(),
        };
        let outcome = Outcome {
            cause: self.cause,
            signal: self.signal,
            labels: mem::take(&mut self.labels),
            ends: mem::take(&mut self.ends),
            lost_logs: mem::take(&mut self.lost_logs),
            last_lines,
            kept: self.kept.lines(),
            held: self.running == 0 && self.open > 0,
        };
        if self.running == 0 && self.open == 0 {
            for thread in self.threads.drain(..) {
                // Each has reported its end, so this takes no time, and none can have panicked.
                let _ = thread.join();
            }
        }
        outcome
    }
}
