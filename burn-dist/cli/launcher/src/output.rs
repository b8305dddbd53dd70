//! Output of the processes: whole lines, each with its process's label, in the order of their stream.
//!
//! Lines of several streams never mix, for a line leaves in one write under the lock of stdout or
//! stderr. Bytes pass as they are, UTF-8 or not, with these exceptions: a last line without its end
//! gets one; a carriage return ends a line like a newline, so that a bar that is redrawn in place
//! leaves plain lines; and a line over [`MAX_LINE`] bytes is broken.

use crate::error::Error;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

/// Longest line in bytes that memory is taken for.
const MAX_LINE: usize = 64 << 10;

/// Destination of a process's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// The launcher's own stdout.
    Stdout,
    /// The launcher's own stderr.
    Stderr,
    /// None: only the last lines are kept.
    Nowhere,
}

impl Sink {
    fn write(self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => write_all(io::stdout().lock(), lines),
            Self::Stderr => write_all(io::stderr().lock(), lines),
            Self::Nowhere => Ok(()),
        }
    }

    /// The text before each line of a process: its label, on a terminal in a colour of its number, unless
    /// `NO_COLOR` is set.
    pub(crate) fn prefix(self, process: usize, label: &str) -> Vec<u8> {
        let terminal = match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
            Self::Nowhere => false,
        };
        let colours = cfg!(unix) && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        if terminal && colours {
            // The six colours of a terminal between red and cyan.
            format!("\x1b[3{}m[{label}]\x1b[0m ", 1 + process % 6).into_bytes()
        } else {
            format!("[{label}] ").into_bytes()
        }
    }
}

fn write_all(mut to: impl Write, lines: &[u8]) -> io::Result<()> {
    to.write_all(lines)?;
    to.flush()
}

/// File with the lines of both streams of a process.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// None once a write has failed.
    file: Mutex<Option<File>>,
}

impl Log {
    /// Makes the file; an older one is replaced.
    pub(crate) fn create(path: PathBuf) -> Result<Self, Error> {
        let file = File::create(&path).map_err(Error::log(&path))?;
        Ok(Self {
            path,
            file: Mutex::new(Some(file)),
        })
    }

    /// Writes whole lines. After the first failure, which is returned, nothing more is written.
    fn write(&self, lines: &[u8]) -> Result<(), Error> {
        let mut file = self.file.lock();
        let Some(open) = &mut *file else {
            return Ok(());
        };
        open.write_all(lines).map_err(|cause| {
            *file = None;
            Error::log(&self.path)(cause)
        })
    }
}

/// The last lines of a stream.
#[derive(Debug)]
pub(crate) struct Tail {
    kept: usize,
    lines: Mutex<VecDeque<Vec<u8>>>,
}

impl Tail {
    /// Keeps that many lines.
    pub(crate) fn new(kept: usize) -> Self {
        Self {
            kept,
            lines: Mutex::default(),
        }
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.lines.lock();
        if lines.len() == self.kept {
            lines.pop_front();
        }
        lines.push_back(line.to_vec());
    }

    /// Returns the lines without their ends, the oldest first.
    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        let lines = self.lines.lock();
        lines.iter().cloned().collect()
    }
}

/// Destinations of one stream's lines.
#[derive(Debug)]
pub(crate) struct Copied<'a> {
    pub(crate) sink: Sink,
    /// Text before each line in the sink.
    pub(crate) prefix: Vec<u8>,
    pub(crate) tail: Option<&'a Tail>,
    pub(crate) log: Option<&'a Log>,
}

/// Copies a process's stream until it ends.
///
/// Calls `lost` once the sink can't be written to any more. The rest is then read without being written there, so
/// that the process isn't stopped in a write. A failure of the log file goes to `log_lost`, once.
pub(crate) fn copy(
    mut from: impl Read,
    to: &Copied<'_>,
    lost: impl FnOnce(),
    log_lost: impl Fn(Error),
) {
    let mut lost = Some(lost);
    let mut lines = Lines::default();
    let mut chunk = vec![0; 16 << 10];
    let (mut shown, mut logged) = (Vec::new(), Vec::new());
    loop {
        let read = match from.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A pipe that can't be read has ended as far as anybody can tell.
            Err(_) => 0,
        };
        shown.clear();
        logged.clear();
        let emit = |line: &[u8]| {
            for part in [&to.prefix, line, b"\n"] {
                shown.extend_from_slice(part);
            }
            if to.log.is_some() {
                logged.extend_from_slice(line);
                logged.push(b'\n');
            }
            if let Some(tail) = to.tail {
                tail.push(line);
            }
        };
        if read == 0 {
            lines.finish(emit);
        } else {
            lines.feed(&chunk[..read], emit);
        }
        if !shown.is_empty() && lost.is_some() && to.sink.write(&shown).is_err() {
            lost.take().into_iter().for_each(|lost| lost());
        }
        if let Some(Err(error)) = to.log.map(|log| log.write(&logged)) {
            log_lost(error);
        }
        if read == 0 {
            return;
        }
    }
}

/// Cuts bytes into lines, however they are divided on the way.
#[derive(Debug, Default)]
struct Lines {
    /// The line that has not ended yet.
    begun: Vec<u8>,
    /// A line has just ended without its newline, at a carriage return or at [`MAX_LINE`]: a newline now
    /// belongs to it.
    ended: bool,
}

impl Lines {
    /// Calls `emit` with each line that ends in these bytes.
    fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = bytes.len().min(MAX_LINE - self.begun.len());
            let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
            let Some(at) = bytes[..room].iter().position(ends) else {
                self.begun.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
                self.ended = self.begun.len() == MAX_LINE;
                if self.ended {
                    self.emit(&mut emit);
                }
                continue;
            };
            let end = bytes[at];
            self.begun.extend_from_slice(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let second_half = end == b'\n' && at == 0 && self.ended;
            // A lone carriage return before a text only says where it is drawn.
            let nothing = end == b'\r' && self.begun.is_empty();
            self.ended = end == b'\r' && (self.ended || !nothing);
            if !second_half && !nothing {
                self.emit(&mut emit);
            }
        }
    }

    /// Calls `emit` with a last line that has no end.
    fn finish(&mut self, mut emit: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            self.emit(&mut emit);
        }
    }

    fn emit(&mut self, emit: &mut impl FnMut(&[u8])) {
        emit(&self.begun);
        self.begun.clear();
    }
}

#[cfg(test)]
mod tests;
