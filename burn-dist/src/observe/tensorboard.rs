//! TensorBoard's event files, with scalars, written on a thread of their own.
//!
//! - `events`: the format; `writer`: the thread; `history`: where a run that is resumed goes on.
//!
//! Invariant: no call waits for the disk longer than [`PATIENCE`], nor does dropping a file. Events wait in a queue of
//! [`QUEUE`]; if it is full, or the disk takes nothing at the end, the file is given up with an error, and its thread
//! is left behind.
//!
//! `burn-dist/tests/observe/read_tensorboard.py` reads what this writes with TensorBoard's own package.

mod events;
mod history;
mod writer;

use crate::error::{Error, Result};
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender, TrySendError};
use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use writer::{Command, Target, Writer};

pub(crate) use writer::Beginning;

/// Time that making or closing a file may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of events that may wait for the disk: about 10 MB.
const QUEUE: usize = 1 << 16;

/// The series that tell at which step an epoch ended: of steps, and of burn-train's metrics, which counts if there are
/// both.
pub(crate) const MARKS: [&str; 2] = ["step/epoch", "epoch/number"];

/// One event file.
#[derive(Debug)]
pub(crate) struct EventFile {
    /// To the writer, until it is closed.
    commands: Option<Sender<Command>>,
    /// From the writer: once that the file is made, and once how it ended.
    outcomes: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
    /// True once it has the order to begin.
    begun: Arc<AtomicBool>,
    path: PathBuf,
    patience: Duration,
}

/// The folders of the files that this process is writing, in the order in which they were made, and whether they say
/// that the run begins. TensorBoard takes the files of a folder for one run, so that only one of them may say so: a
/// second one would have the first one's events forgotten.
static FILES: Mutex<Vec<(PathBuf, Weak<AtomicBool>)>> = Mutex::new(Vec::new());

fn files() -> MutexGuard<'static, Vec<(PathBuf, Weak<AtomicBool>)>> {
    // Nothing under this lock panics half-way.
    FILES.lock()
}

fn register(folder: &Path, begun: &Arc<AtomicBool>) {
    // Without asking the disk, which may hang.
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let mut files = files();
    files.retain(|(_, begun)| begun.strong_count() > 0);
    files.push((folder, Arc::downgrade(begun)));
}

impl EventFile {
    /// Makes a file in this folder, with a name that TensorBoard knows, and waits until it is there.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let mut events = Self::open(folder)?;
        let made = match events.outcomes.recv_timeout(events.patience) {
            Ok(made) => made,
            Err(RecvTimeoutError::Timeout) => {
                events.thread = None;
                return Err(events.hangs("makes no file"));
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        };
        made.map_err(|error| unwritten(folder, &format!("{error}; choose another folder")))?;
        Ok(events)
    }

    /// [`create`](Self::create) without waiting: a later call says what was wrong.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Self::start(Target::Folder(folder.to_owned()), QUEUE, PATIENCE)
    }

    fn start(target: Target, queue: usize, patience: Duration) -> Result<Self> {
        let (commands, orders) = channel::bounded(queue);
        // The second outcome finds room even if nobody takes the first.
        let (report, outcomes) = channel::bounded(2);
        let path = target.name();
        let begun = Arc::<AtomicBool>::default();
        register(&path, &begun);
        let write = move || {
            let writer = match Writer::open(target) {
                Ok(writer) => writer,
                Err(error) => return drop(report.send(Err(error))),
            };
            // Whoever dropped the file wants to know nothing.
            let _ = report.send(Ok(()));
            let _ = report.send(writer.run(&orders));
        };
        let thread = thread::Builder::new()
            .name("burn-dist-tensorboard".to_owned())
            .spawn(write)
            .map_err(|error| unwritten(&path, &error.to_string()))?;
        Ok(Self {
            commands: Some(commands),
            outcomes,
            thread: Some(thread),
            begun,
            path,
            patience,
        })
    }

    /// Writes that a run begins here: TensorBoard forgets what an earlier one wrote of later steps.
    pub(crate) fn begin(&mut self, beginning: Beginning) -> Result<()> {
        let announced = !self.begun_by_another();
        self.begun.store(true, Ordering::Release);
        self.tell(Command::Begin {
            beginning,
            announced,
        })
    }

    /// Writes one value of a series.
    pub(crate) fn scalar(&mut self, name: &str, value: f64, step: u64) -> Result<()> {
        self.tell(Command::Scalar {
            wall_time: writer::wall_time(),
            step,
            name: name.into(),
            value,
        })
    }

    /// Lets others see soon what was written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.tell(Command::Flush)
    }

    /// Returns whether a file of the folder that was made earlier says that the run begins.
    fn begun_by_another(&self) -> bool {
        let files = files();
        let this = |begun: &Weak<AtomicBool>| begun.as_ptr() == Arc::as_ptr(&self.begun);
        let folder = files.iter().find(|(_, begun)| this(begun));
        let mut earlier = files.iter().take_while(|(_, begun)| !this(begun));
        earlier.any(|(other, begun)| {
            let begun = begun.upgrade();
            folder.is_some_and(|(folder, _)| folder == other)
                && begun.is_some_and(|begun| begun.load(Ordering::Acquire))
        })
    }

    /// Never waits: an error gives the file up.
    fn tell(&mut self, command: Command) -> Result<()> {
        let Some(commands) = &self.commands else {
            return Err(unwritten(&self.path, "it was given up"));
        };
        let error = match commands.try_send(command) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => {
                let waiting = commands.capacity().unwrap_or_default();
                self.hangs(&format!("took none of the last {waiting} events"))
            }
            Err(TrySendError::Disconnected(_)) => self.failure(),
        };
        // Its thread may be stuck: nobody waits for it.
        (self.commands, self.thread) = (None, None);
        Err(error)
    }

    /// Returns why the writer ended by itself.
    fn failure(&self) -> Error {
        let outcome = self.outcomes.try_iter().find_map(io::Result::err);
        unwritten(&self.path, &outcome.unwrap_or_else(gone).to_string())
    }

    fn hangs(&self, how: &str) -> Error {
        let path = &self.path;
        unwritten(
            path,
            &format!("the disk hangs: it {how}; its thread is left behind"),
        )
    }

    /// Writes what waits, and ends the thread, or leaves it behind.
    fn close(&mut self) -> Result<()> {
        drop(self.commands.take());
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let deadline = std::time::Instant::now() + self.patience;
        loop {
            match self.outcomes.recv_deadline(deadline) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(unwritten(&self.path, &error.to_string())),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.hangs("did not take the last events"));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // It has nothing left to do.
        thread
            .join()
            .map_err(|_| unwritten(&self.path, "its thread panicked"))
    }
}

impl Drop for EventFile {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!("{error}");
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("its thread ended")
}

fn unwritten(path: &Path, message: &str) -> Error {
    Error::Observe {
        what: "TensorBoard's events can't be written to",
        place: path.display().to_string(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
