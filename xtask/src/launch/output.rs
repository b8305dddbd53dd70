//! What the processes write: whole lines with the process before them, in the order of their stream.
//!
//! Lines of several streams never mix, for a line leaves in one write under the lock of stdout or
//! stderr. Bytes pass as they are, UTF-8 or not, with these exceptions: a last line without its end
//! gets one; a carriage return ends a line like a newline, so that a bar that is redrawn in place
//! leaves plain lines; and a line over [`LONGEST`] bytes is broken.
//!
//! Caller: `job`, which runs [`copy`] on a thread for each stream.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::{Mutex, PoisonError};

/// The bytes of a line that memory is taken for.
const LONGEST: usize = 64 << 10;

/// Where a child's stream goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// The launcher's own.
    Out,
    Err,
    /// Nowhere: only its last lines are kept.
    Kept,
}

impl Stream {
    fn write(self, lines: &[u8]) -> io::Result<()> {
        fn all(mut to: impl Write, lines: &[u8]) -> io::Result<()> {
            to.write_all(lines)?;
            to.flush()
        }
        match self {
            Self::Out => all(io::stdout().lock(), lines),
            Self::Err => all(io::stderr().lock(), lines),
            Self::Kept => Ok(()),
        }
    }

    /// What precedes each line of a process: its label, in a colour of its number on a terminal, unless
    /// `NO_COLOR` is set.
    fn prefix(self, process: usize, label: &str) -> Vec<u8> {
        let terminal = match self {
            Self::Out => io::stdout().is_terminal(),
            Self::Err => io::stderr().is_terminal(),
            Self::Kept => false,
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

/// The last lines of a stream.
#[derive(Debug)]
pub(super) struct Tail {
    kept: usize,
    lines: Mutex<VecDeque<Vec<u8>>>,
}

impl Tail {
    /// Keeps that many.
    pub(super) fn new(kept: usize) -> Self {
        Self {
            kept,
            lines: Mutex::default(),
        }
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == self.kept {
            lines.pop_front();
        }
        lines.push_back(line.to_vec());
    }

    /// Oldest first, without their ends.
    pub(super) fn lines(&self) -> Vec<Vec<u8>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

/// Copies a process's stream to the launcher's until it ends.
///
/// When the launcher's stream can't be written to any more, `lost` is called, and the rest is read
/// without being written, so that the process isn't stopped in a write.
pub(super) fn copy(
    mut from: impl Read,
    (process, label): (usize, &str),
    to: Stream,
    tail: Option<&Tail>,
    lost: impl FnOnce(),
) {
    let prefix = to.prefix(process, label);
    let mut lost = Some(lost);
    let mut lines = Lines::default();
    let mut chunk = vec![0; 16 << 10];
    let mut ready = Vec::new();
    loop {
        let read = match from.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A pipe that can't be read has ended as far as anybody can tell.
            Err(_) => 0,
        };
        ready.clear();
        let emit = |line: &[u8]| {
            ready.extend_from_slice(&prefix);
            ready.extend_from_slice(line);
            ready.push(b'\n');
            if let Some(tail) = tail {
                tail.push(line);
            }
        };
        if read == 0 {
            lines.finish(emit);
        } else {
            lines.feed(&chunk[..read], emit);
        }
        if !ready.is_empty() && lost.is_some() && to.write(&ready).is_err() {
            lost.take().into_iter().for_each(|lost| lost());
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
    /// A line has just ended without its newline, at a carriage return or at [`LONGEST`]: a newline now
    /// belongs to it.
    ended: bool,
}

impl Lines {
    /// Calls `emit` with each line that ends in these bytes.
    fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = bytes.len().min(LONGEST - self.begun.len());
            let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
            let Some(at) = bytes[..room].iter().position(ends) else {
                self.begun.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
                self.ended = self.begun.len() == LONGEST;
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
