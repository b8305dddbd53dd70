//! The spans of a run as a file that Perfetto (<https://ui.perfetto.dev>) and `chrome://tracing` show: a
//! process for each rank, and in it a track for each of its threads, so that one sees what is averaged
//! while backward runs.
//!
//! - `layer`: listens to spans, and sends what happens to the thread that writes;
//! - `tracks`: which thread is which track;
//! - `file`: that thread, and the format.
//!
//! The format: the JSON array of Google's "Trace Event Format". The crate tracing-chrome writes it too, but
//! has no notion of ranks, and panics where a file can't be written.
//!
//! Threads: `burn-dist-trace` owns the file. Listeners only send to it, and never wait: where it falls
//! behind by [`layer::BEHIND`] events, spans are left out whole, counted, and told at the end.

mod file;
mod layer;
mod tracks;

use crate::error::{Error, Result};
use crossbeam::channel::{Receiver, Sender, unbounded};
use file::Message;
use layer::Listener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

/// A trace of the spans that ranks open.
///
/// [`layer`](Self::layer) goes into the program's subscriber, [`start`](Self::start) names the file, and
/// [`finish`](Self::finish) completes it. What there is at any time can be looked at already: a program that
/// is killed leaves all but its last moments.
///
/// ```no_run
/// use burn_dist::observe::ChromeTrace;
/// use tracing_subscriber::prelude::*;
///
/// let mut trace = ChromeTrace::new();
/// tracing_subscriber::registry().with(trace.layer()).init();
/// trace.start("trace.json", 0)?;
/// // Train, then:
/// trace.finish()?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// Spans without a rank are left out: a rank's are those on the thread that a
/// [`launch`](crate::launch)er started, those inside another of its spans, and those with a field `rank`.
#[derive(Debug)]
pub struct ChromeTrace {
    sender: Sender<Message>,
    /// Until the file is named.
    inbox: Option<Receiver<Message>>,
    lost: Arc<AtomicU64>,
    clock: Clock,
    writer: Option<(PathBuf, JoinHandle<std::io::Result<()>>)>,
}

impl Default for ChromeTrace {
    fn default() -> Self {
        Self::new()
    }
}

impl ChromeTrace {
    /// A trace that has no file yet.
    pub fn new() -> Self {
        let (sender, inbox) = unbounded();
        Self {
            sender,
            inbox: Some(inbox),
            lost: Arc::default(),
            clock: Clock::new(),
            writer: None,
        }
    }

    /// Returns the layer that records all spans of this crate, and those of others from the level `info` up.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'s> LookupSpan<'s>,
    {
        let filter = Targets::new()
            .with_default(LevelFilter::INFO)
            .with_target("burn_dist", LevelFilter::TRACE);
        Listener::new(self.sender.clone(), Arc::clone(&self.lost)).with_filter(filter)
    }

    /// Begins to write, as this process of the job: process 0 to this file, process 3 of `trace.json` to
    /// `trace.3.json`. (`jq -s add trace*.json` makes one file of all; their times are those of the
    /// machines' clocks.) Nothing is lost that happened since the layer was made.
    ///
    /// # Errors
    /// [`Error::Observe`] if the file can't be made. [`Error::System`] if the thread can't be started.
    pub fn start(&mut self, path: impl AsRef<Path>, process: usize) -> Result<()> {
        let path = file_of(path.as_ref(), process);
        let Some(inbox) = self.inbox.take() else {
            return Err(Error::Observe {
                what: UNWRITTEN,
                place: path.display().to_string(),
                message: "it has another file already".into(),
            });
        };
        let file = std::fs::File::create(&path).map_err(|error| Error::Observe {
            what: UNWRITTEN,
            place: path.display().to_string(),
            message: format!("{error}; choose another file"),
        })?;
        let clock = self.clock;
        let thread = std::thread::Builder::new()
            .name("burn-dist-trace".to_owned())
            .spawn(move || file::write(file, &inbox, clock))
            .map_err(|error| Error::System {
                rank: 0,
                what: "starting the thread that writes the trace",
                message: error.to_string(),
            })?;
        self.writer = Some((path, thread));
        Ok(())
    }

    /// Completes the file. What happens later is not in it.
    ///
    /// # Errors
    /// [`Error::Observe`] if something could not be written.
    pub fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        // Listeners of a program-wide subscriber stay, and would go on collecting.
        self.inbox = None;
        let Some((path, thread)) = self.writer.take() else {
            return Ok(());
        };
        // Fails only if the thread has ended, which its result tells.
        let _ = self.sender.send(Message::End);
        let written = thread.join();
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                "{lost} spans are missing in {}: they came faster than they could be written",
                path.display()
            );
        }
        let message = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its thread panicked".to_owned(),
        };
        Err(Error::Observe {
            what: UNWRITTEN,
            place: path.display().to_string(),
            message,
        })
    }
}

impl Drop for ChromeTrace {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error}");
        }
    }
}

const UNWRITTEN: &str = "the trace can't be written to";

/// The file of a process.
fn file_of(path: &Path, process: usize) -> PathBuf {
    if process == 0 {
        return path.to_owned();
    }
    let mut extension = std::ffi::OsString::from(process.to_string());
    if let Some(old) = path.extension() {
        extension.push(".");
        extension.push(old);
    }
    path.with_extension(extension)
}

/// Monotonic times as those of the machine's clock, so that the files of several processes fit.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
    /// Nanoseconds since 1970.
    offset: u128,
}

impl Clock {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: Instant::now(),
            offset: since.map_or(0, |since| since.as_nanos()),
        }
    }

    fn nanoseconds(self, moment: Instant) -> u128 {
        self.offset + moment.saturating_duration_since(self.start).as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_a_file_of_its_own() {
        for (path, process, file) in [
            ("a/trace.json", 0, "a/trace.json"),
            ("a/trace.json", 3, "a/trace.3.json"),
            ("trace", 12, "trace.12"),
        ] {
            assert_eq!(file_of(Path::new(path), process), Path::new(file));
        }
    }

    #[test]
    fn a_file_that_can_t_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut trace = ChromeTrace::new();
        let path = folder.path().join("none").join("trace.json");
        let error = trace.start(path, 0).unwrap_err().to_string();
        assert!(error.contains("none/trace.json"), "{error}");
    }
}
