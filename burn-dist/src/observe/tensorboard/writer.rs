//! The thread that writes an event file: a disk that hangs holds up nobody else.
//!
//! Thread: `burn-dist-tensorboard`, one for each file, started by [`EventFile`](super::EventFile). It ends once the
//! file is closed or can't be written to. While the disk hangs, it waits for the disk, alone.

use super::events::{self, Content};
use super::{MARKS, history};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest time that events stay in memory.
const FLUSH: Duration = Duration::from_secs(2);

/// The number of the next file: two of a process may be made in the same microsecond.
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// The order to write something.
#[derive(Debug)]
pub(super) enum Command {
    Begin {
        beginning: Beginning,
        /// True if TensorBoard is told.
        announced: bool,
    },
    Scalar {
        wall_time: f64,
        step: u64,
        name: Box<str>,
        value: f64,
    },
    Flush,
}

/// The step that a run begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beginning {
    /// This one: all steps are counted from 0.
    At(u64),
    /// The one after the end of this epoch in an earlier run: steps are counted from there.
    #[cfg_attr(
        not(feature = "train"),
        allow(dead_code, reason = "only burn-train's runs are counted in epochs")
    )]
    AfterEpoch(u64),
}

/// Destination of a writer's file.
pub(super) enum Target {
    /// A new file in this folder.
    Folder(PathBuf),
    #[cfg(test)]
    Sink(Box<dyn Write + Send>),
}

/// The file, on its thread.
pub(super) struct Writer {
    file: BufWriter<Box<dyn Write + Send>>,
    folder: PathBuf,
    /// Added to all steps.
    base: u64,
    dirty: bool,
    flushed: Instant,
}

impl Writer {
    /// Makes the file.
    pub(super) fn open(target: Target) -> io::Result<Self> {
        let (file, folder): (Box<dyn Write + Send>, _) = match target {
            Target::Folder(folder) => {
                std::fs::create_dir_all(&folder)?;
                let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
                let (seconds, process) = (wall_time(), std::process::id());
                let name = format!("events.out.tfevents.{seconds:.6}.burn-dist.{process}.{serial}");
                let file = File::create_new(folder.join(name))?;
                (Box::new(file), folder.canonicalize()?)
            }
            #[cfg(test)]
            Target::Sink(sink) => (sink, PathBuf::new()),
        };
        let mut writer = Self {
            file: BufWriter::new(file),
            folder,
            base: 0,
            dirty: false,
            flushed: Instant::now(),
        };
        writer.write(wall_time(), 0, &Content::Version)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Writes what it is told to until the file is closed.
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> io::Result<()> {
        loop {
            match commands.recv_timeout(FLUSH) {
                Ok(Command::Begin {
                    beginning,
                    announced,
                }) => self.begin(beginning, announced)?,
                Ok(Command::Scalar {
                    wall_time,
                    step,
                    name,
                    value,
                }) => {
                    let step = self.base.saturating_add(step);
                    self.write(wall_time, step, &Content::Scalar(&name, value as f32))?;
                }
                Ok(Command::Flush) => self.flush()?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
            if self.dirty && self.flushed.elapsed() >= FLUSH {
                self.flush()?;
            }
        }
    }

    fn begin(&mut self, beginning: Beginning, announced: bool) -> io::Result<()> {
        let first = match beginning {
            Beginning::At(step) => step,
            Beginning::AfterEpoch(epoch) => {
                self.base = self.step_after(epoch)?;
                self.base
            }
        };
        if announced {
            self.write(wall_time(), first, &Content::Start)?;
        }
        self.flush()
    }

    fn step_after(&self, epoch: u64) -> io::Result<u64> {
        let found = history::step_after(&self.folder, epoch, MARKS)?;
        if found.is_none() {
            tracing::warn!(
                "TensorBoard's steps begin at 0: no earlier event file in {} has the end of epoch {epoch}; choose \
                 the folder of the run that is resumed",
                self.folder.display()
            );
        }
        Ok(found.unwrap_or(0))
    }

    fn write(&mut self, wall_time: f64, step: u64, content: &Content<'_>) -> io::Result<()> {
        self.dirty = true;
        let event = events::event(wall_time, step, content);
        self.file.write_all(&events::record(&event))
    }

    fn flush(&mut self) -> io::Result<()> {
        (self.dirty, self.flushed) = (false, Instant::now());
        self.file.flush()
    }
}

/// Returns the seconds since 1970.
pub(super) fn wall_time() -> f64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0.0, |time| time.as_secs_f64())
}

impl Target {
    /// Returns what messages call it.
    pub(super) fn name(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.clone(),
            #[cfg(test)]
            Self::Sink(_) => PathBuf::from("sink"),
        }
    }
}
