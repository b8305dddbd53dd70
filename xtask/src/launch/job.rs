//! Several processes that run and end together.
//!
//! The thread that calls [`run`] owns the [`Job`], decides, and alone sends signals. Each process has
//! three threads that report to it: one waits for its end, two copy its stdout and stderr. They are
//! joined, except those of a process that can't be killed or of a stream that a program outside the
//! process group holds open: they end with the launcher. `signals` adds a thread.
//!
//! A job goes through [`Phase`]s, each with a deadline once the end has begun, so it ends in any case.
//!
//! Caller: `launch`.

use super::group::Group;
use super::outcome::{Cause, End, Outcome};
use super::output::{Stream, Tail, copy};
use super::signals::{INTERRUPT, Signals};
use crate::error::Error;
use std::io;
use std::mem;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How long the others have to end by themselves after one has failed: they have heard of it from that
/// one, and it may have been quicker to end than the one where it began, which still says why.
const SETTLING: Duration = Duration::from_secs(2);
/// How long processes have to end after they were asked to, and to be gone after they were killed.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long they have after the user's signal: to save their work. Who can't wait presses Ctrl-C once more.
const SAVING: Duration = Duration::from_secs(30);
/// The shortest time between two Ctrl-C of a person: launchers of launchers send a signal more than once.
const SECOND_THOUGHT: Duration = Duration::from_millis(500);

/// How many of the last lines of a process's stderr are kept for the summary.
const LAST: usize = 10;
/// How many of its stdout, where that is kept for the caller.
const KEPT: usize = 1000;

/// How a job is run.
#[derive(Debug)]
pub(super) struct Terms {
    /// How long it may take; as long as it likes if none.
    pub(super) limit: Option<Duration>,
    /// What the lines of its processes are labelled with; their numbers if none.
    pub(super) label: Option<String>,
    /// Whether stdout is kept for the caller instead of shown.
    pub(super) keeps: bool,
    /// How long the processes have to end after the user's signal.
    pub(super) saving: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            limit: None,
            label: None,
            keeps: false,
            saving: SAVING,
        }
    }
}

/// What the threads of a job report.
#[derive(Debug)]
enum Event {
    Ended(usize, io::Result<ExitStatus>),
    /// A stream of a process has ended, and all of it is written.
    Closed,
    /// The launcher's stdout or stderr is gone.
    OutputLost,
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
    /// When it has taken too long.
    until: Option<Instant>,
    phase: Phase,
    cause: Option<Cause>,
    /// The first signal that the launcher got.
    signal: Option<i32>,
    /// When the first Ctrl-C came.
    ctrl_c: Option<Instant>,
    ends: Vec<End>,
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

/// Starts the commands as processes 0, 1, … and waits until all have ended. The first that fails ends
/// the others, as a signal to the launcher does, and the end of the time.
///
/// # Errors
///
/// When a process can't be started; those that were are ended before.
pub(super) fn run(commands: Vec<Command>, terms: Terms) -> Result<Outcome, Error> {
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
        ends: Vec::new(),
        tails: Vec::new(),
        kept: Arc::new(Tail::new(KEPT)),
        running: 0,
        open: 0,
        events,
        report,
        group: Group::new()?,
        threads: Vec::new(),
    };
    for command in commands {
        if let Err(error) = job.start(command) {
            job.kill();
            job.wait();
            return Err(error);
        }
    }
    job.wait();
    Ok(job.outcome())
}

impl Job {
    fn start(&mut self, mut command: Command) -> Result<(), Error> {
        let process = self.ends.len();
        self.group.enter(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|cause| Error::Start {
            program: command.get_program().into(),
            process,
            cause,
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        self.ends.push(End::Never);
        let tail = Arc::new(Tail::new(LAST));
        self.tails.push(Arc::clone(&tail));

        self.attend(process, child)?;
        if let Some(stdout) = stdout {
            if self.terms.keeps {
                let kept = Arc::clone(&self.kept);
                self.copy(process, stdout, Stream::Kept, Some(kept))?;
            } else {
                self.copy(process, stdout, Stream::Out, None)?;
            }
        }
        if let Some(stderr) = stderr {
            self.copy(process, stderr, Stream::Err, Some(tail))?;
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
        to: Stream,
        tail: Option<Arc<Tail>>,
    ) -> Result<(), Error> {
        let report = self.report.clone();
        let label = self.terms.label.clone();
        let label = label.unwrap_or_else(|| process.to_string());
        self.spawn(format!("launch-output-{process}"), move || {
            // As above.
            let lost = || drop(report.send(Event::OutputLost));
            copy(from, (process, &label), to, tail.as_deref(), lost);
            let _ = report.send(Event::Closed);
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

    /// Until all processes and streams have ended, or can't be made to.
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
            ends: mem::take(&mut self.ends),
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
