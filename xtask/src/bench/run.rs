//! Runs one program to its end.

use crate::error::Error;
use burn_dist_launcher::{self as launcher, Finish};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Reason to run no more.
#[derive(Debug)]
pub(super) enum Halt {
    Failed(Error),
    /// The user wants no more, or has seen the error: with this exit code.
    Ended(ExitCode),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Output and end of a program.
#[derive(Debug)]
pub(super) struct Ran {
    /// Lines on stdout.
    pub(super) lines: Vec<String>,
    /// Reason why it didn't succeed, in words that go on after its name.
    pub(super) trouble: Option<String>,
}

/// Runs a program, at most for `limit`, and ends all that it has started.
///
/// # Errors
///
/// When the system refuses what every program needs, or the user wants no more.
pub(super) fn run(command: Command, label: &str, limit: Duration) -> Result<Ran, Halt> {
    let finished = match launcher::watch(command, label, limit) {
        Err(launcher::Error::Start { cause, .. }) => {
            return Ok(Ran {
                lines: Vec::new(),
                trouble: Some(format!("can't be started: {cause}")),
            });
        }
        finished => finished.map_err(Error::from)?,
    };
    let trouble = match finished.end {
        Finish::Succeeded => None,
        Finish::Failed(how) => Some(format!("failed: {how}")),
        Finish::Overdue => Some(format!(
            "took longer than {} s and was ended",
            limit.as_secs()
        )),
        Finish::Stopped(code) => return Err(Halt::Ended(code)),
    };
    Ok(Ran {
        lines: finished.lines,
        trouble,
    })
}
