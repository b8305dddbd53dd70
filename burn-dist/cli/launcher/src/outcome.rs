//! End of a job: the summary for the user, and the exit code.

use crate::error::Error;
use crate::signals;
use std::fmt;
use std::io;
use std::process::{ExitCode, ExitStatus};
use std::time::SystemTime;

/// End of a process.
#[derive(Debug)]
pub(crate) enum End {
    Known(ExitStatus),
    /// The system did not tell.
    Unknown(io::Error),
    /// The process is still there, although it was killed.
    Never,
}

impl End {
    pub(crate) fn is_success(&self) -> bool {
        matches!(self, Self::Known(status) if status.success())
    }

    /// 128 and the signal's number after a signal, as shells have it.
    fn code(&self) -> ExitCode {
        let Self::Known(status) = self else {
            return ExitCode::FAILURE;
        };
        let code = signal_of(*status).map_or(status.code(), |signal| Some(128 + signal));
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(status) => match (status.code(), signal_of(*status)) {
                (Some(code), _) => write!(f, "exit code {code}"),
                (None, Some(signal)) => write!(f, "signal {signal}, {}", signals::name(signal)),
                (None, None) => write!(f, "{status}"),
            },
            Self::Unknown(cause) => write!(f, "unknown end: {cause}"),
            Self::Never => write!(f, "still there although killed"),
        }
    }
}

/// The exit code after a signal, as shells have it.
pub(crate) fn after_signal(signal: i32) -> ExitCode {
    u8::try_from(128 + signal).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_status: ExitStatus) -> Option<i32> {
    None
}

/// Reason why a job ended before all its processes had done their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The failure began in this process.
    Failed(usize),
    /// The launcher got this signal.
    Signal(i32),
    /// Nobody reads the launcher's stdout or stderr any more.
    OutputLost,
    /// It has taken too long.
    Overdue,
}

/// End of a job.
#[derive(Debug)]
pub struct Outcome {
    /// None after success.
    pub(crate) cause: Option<Cause>,
    /// The first signal that the launcher got, also when the job was ending already.
    pub(crate) signal: Option<i32>,
    /// Labels of the processes.
    pub(crate) labels: Vec<String>,
    /// End of each process.
    pub(crate) ends: Vec<End>,
    /// Log files that could not be written to their end.
    pub(crate) lost_logs: Vec<Error>,
    /// The last lines that each process wrote to stderr, if one has failed.
    pub(crate) last_lines: Vec<Vec<Vec<u8>>>,
    /// The lines of stdout, where they are kept.
    pub(crate) kept: Vec<Vec<u8>>,
    /// Something outside the job's processes holds their output open, and was not waited for.
    pub(crate) held: bool,
}

impl Outcome {
    /// Blames the failure on the process with the earliest time in `began`, which returns the time at which a
    /// process, by its number from 0, has said that a failure began in it. Others that failed because of that
    /// failure may have ended before.
    #[must_use]
    pub fn blame(mut self, began: impl Fn(usize) -> Option<SystemTime>) -> Self {
        if matches!(self.cause, Some(Cause::Failed(_))) {
            let said = (0..self.ends.len()).filter(|&process| !self.ends[process].is_success());
            let said = said.filter_map(|process| Some((began(process)?, process)));
            if let Some((_, process)) = said.min() {
                self.cause = Some(Cause::Failed(process));
            }
        }
        self
    }

    /// Returns the exit code for the launcher: the failed process's, 128 and the number of a signal, or 0.
    pub fn code(&self) -> ExitCode {
        match self.cause {
            None => ExitCode::SUCCESS,
            Some(Cause::Failed(process)) => self.ends[process].code(),
            Some(Cause::Signal(signal)) => after_signal(signal),
            Some(Cause::OutputLost | Cause::Overdue) => ExitCode::FAILURE,
        }
    }

    /// Returns the summary as bytes, for the last lines may be no UTF-8. It is empty after success.
    pub fn summary(&self) -> Vec<u8> {
        let mut text = Vec::new();
        match self.cause {
            None => {}
            Some(Cause::Failed(process)) => self.failure(process, &mut text),
            Some(Cause::Signal(signal)) => text.extend(
                format!(
                    "ended by {}; {}\n",
                    signals::name(signal),
                    self.others(None)
                )
                .bytes(),
            ),
            Some(Cause::OutputLost) => text.extend(
                format!(
                    "error: the output can't be written any more; {}\n",
                    self.others(None)
                )
                .bytes(),
            ),
            Some(Cause::Overdue) => {
                text.extend(format!("error: not done in time; {}\n", self.others(None)).bytes());
            }
        }
        if self.held {
            text.extend(
                b"warning: a program that left the job's process group holds its output open, \
                  and may still run\n",
            );
        }
        for lost in &self.lost_logs {
            text.extend(format!("warning: {lost}; the rest of the output is not in it\n").bytes());
        }
        text
    }

    fn failure(&self, process: usize, text: &mut Vec<u8>) {
        let end = &self.ends[process];
        text.extend(
            format!(
                "error: process {} failed first ({end})",
                self.labels[process]
            )
            .bytes(),
        );
        let lines = &self.last_lines[process];
        if lines.is_empty() {
            text.extend(b"; it wrote nothing to stderr\n");
        } else {
            text.extend(b"; its last lines on stderr:\n");
            for line in lines {
                text.extend(b"    ");
                text.extend(line);
                text.push(b'\n');
            }
        }
        if self.ends.len() > 1 {
            text.extend(format!("the others: {}\n", self.others(Some(process))).bytes());
        }
    }

    fn others(&self, but: Option<usize>) -> String {
        let all = self.ends.iter().enumerate();
        let others = all.filter(|(process, _)| Some(*process) != but);
        let ends: Vec<_> = others
            .map(|(process, end)| format!("process {}: {end}", self.labels[process]))
            .collect();
        ends.join("; ")
    }
}
