//! One program under a deadline, its stdout kept for the caller.

use crate::error::Error;
use crate::job::{self, Task, Terms};
use crate::outcome::{Cause, after_signal};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Time that a watched program has to end after the user's signal: it has nothing to save.
const HURRY: Duration = Duration::from_secs(2);

/// Output and end of a watched program.
#[derive(Debug)]
pub struct Finished {
    /// The last 1000 lines of its stdout.
    pub lines: Vec<String>,
    /// End of the program.
    pub end: Finish,
}

/// End of a watched program.
#[derive(Clone, Debug, PartialEq)]
pub enum Finish {
    /// Exit code 0.
    Succeeded,
    /// Failure in words: `exit code 3`.
    Failed(String),
    /// The limit was over: the program was ended with everything it had started.
    Overdue,
    /// The user ended the caller, by Ctrl-C for one; the caller ends with this exit code.
    Stopped(ExitCode),
}

/// Runs a program, and ends it with everything it has started when `limit` is over or the caller gets a signal.
/// Its stderr is shown with the label before each line; its stdout is kept.
///
/// # Errors
///
/// [`Error`] if it can't be started.
pub fn watch(command: Command, label: &str, limit: Duration) -> Result<Finished, Error> {
    let terms = Terms {
        limit: Some(limit),
        keeps: true,
        saving: HURRY,
    };
    let outcome = job::run_under(vec![Task::new(command, label)], terms)?;
    let end = match (outcome.signal, outcome.cause) {
        (Some(signal), _) | (None, Some(Cause::Signal(signal))) => {
            Finish::Stopped(after_signal(signal))
        }
        (None, Some(Cause::OutputLost)) => Finish::Stopped(outcome.code()),
        (None, Some(Cause::Failed(process))) => Finish::Failed(outcome.ends[process].to_string()),
        (None, Some(Cause::Overdue)) => Finish::Overdue,
        (None, None) => Finish::Succeeded,
    };
    let text = |line: &Vec<u8>| String::from_utf8_lossy(line).into_owned();
    Ok(Finished {
        lines: outcome.kept.iter().map(text).collect(),
        end,
    })
}
