//! Why a process could not join its job.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;

/// Reason why a process could not join its job: the detail of [`Error::Rendezvous`](super::Error::Rendezvous).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinFailure {
    /// A variable of the environment is missing, or its value can't be right.
    #[error("{name} {}; expected: {expected}", VariableValue(value.as_deref()))]
    Variable {
        /// The variable.
        name: &'static str,
        /// Value of the variable; none if it is not set.
        value: Option<String>,
        /// Value expected.
        expected: String,
    },

    /// The configuration can't be right, before anyone is asked.
    #[error("{0}")]
    Configuration(String),

    /// A port that other machines can reach would be open to everyone.
    #[error(
        "this address is open to other machines, and the job has {}; make a secret with \
         `openssl rand -hex 32` and give the same to every process, in BURN_DIST_SECRET or in a file \
         named by BURN_DIST_SECRET_FILE",
        if *short { "a secret that is too short (fewer than 16 bytes)" } else { "no secret" }
    )]
    NoSecret {
        /// True if there is a secret that is too short.
        short: bool,
    },

    /// Another program, or a second process 0, listens on the job's port.
    #[error(
        "the port is taken, by another program or by a second process 0; end it, or choose another \
         port for the job (MASTER_PORT)"
    )]
    PortTaken,

    /// Process 0 can't listen on the address it was given.
    #[error(
        "can't listen on this address ({0}); MASTER_ADDR must be an address of the machine of \
         process 0, or process 0 must be told on which of its addresses to listen (`interface`)"
    )]
    Listen(String),

    /// A host name has no address.
    #[error("the name of process 0's machine was not resolved ({0}); is MASTER_ADDR right?")]
    Unresolved(String),

    /// Nobody answers where process 0 should be.
    #[error(
        "tried for {:.1} s to reach process 0 ({detail}); does it run, is this its address, and does \
         the network let this port through?",
        after.as_secs_f64()
    )]
    Unreachable {
        /// Time spent trying.
        after: Duration,
        /// Result of the last attempt.
        detail: String,
    },

    /// The other side did not prove the secret, or did not believe ours.
    #[error("{0}")]
    Rejected(String),

    /// The programs of two processes were built with different versions of this crate.
    #[error(
        "this program was built with burn-dist {ours}, that of process 0 with {theirs}; run the same \
         program on every machine"
    )]
    Version {
        /// The version of this program.
        ours: String,
        /// The version of the other.
        theirs: String,
    },

    /// Two processes were told different numbers of processes.
    #[error(
        "process {process} was told that the job has {told} processes, process 0 that it has \
         {processes}; give every process the same number (WORLD_SIZE)"
    )]
    WorldSize {
        /// The process that disagrees with process 0.
        process: usize,
        /// The number it was told.
        told: usize,
        /// The number that process 0 was told.
        processes: usize,
    },

    /// Processes were started with different options, of those that the program declares.
    #[error(
        "the processes were started with different options: {}; start every process with the same",
        Differences(.0)
    )]
    Options(Vec<DifferentOption>),

    /// A process ended before all had joined.
    #[error(
        "process {process} ended before all processes had joined{}; look at what it said last",
        Reason(reason.as_deref())
    )]
    Gone {
        /// The process.
        process: usize,
        /// Reason that the other side gave, if any.
        reason: Option<String>,
    },

    /// Two processes have the same number.
    #[error(
        "two processes call themselves process {process}: {first} and {second}; give every process \
         its own number (RANK), and after a crash start all of them again"
    )]
    Duplicate {
        /// The number.
        process: usize,
        /// Process that came first.
        first: String,
        /// Process that came second.
        second: String,
    },

    /// Some processes did not come before the deadline.
    #[error(
        "waited {:.0} s: {} of {processes} did not come; were they started, and can they reach this \
         address?{}",
        after.as_secs_f64(), ProcessList(missing), TurnedAway(*turned_away)
    )]
    Missing {
        /// Processes that did not come.
        missing: Vec<usize>,
        /// Number of processes in the job.
        processes: usize,
        /// Time that the process that gave up first had waited.
        after: Duration,
        /// Number of connections that process 0 turned away meanwhile, which only process 0 knows.
        turned_away: u64,
    },

    /// All processes came, but not all could be connected with one another.
    #[error(
        "waited {:.1} s for connections: {detail}; can every machine reach the others at these \
         addresses, and does a firewall let them through?",
        after.as_secs_f64()
    )]
    Unconnected {
        /// The processes that this one is not connected with.
        missing: Vec<usize>,
        /// Time it waited.
        after: Duration,
        /// Their addresses, and what the last attempts met with.
        detail: String,
    },

    /// The connection to process 0's store was lost.
    #[error("lost process 0 while joining ({0}); look at its own error first")]
    Lost(Arc<str>),

    /// The operating system refused something.
    #[error("the system refused {what}: {detail}")]
    System {
        /// Resource asked for.
        what: &'static str,
        /// Message of the operating system.
        detail: String,
    },
}

/// An option that differs between the processes of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferentOption {
    /// Its name, as the program declares it.
    pub name: String,
    /// Its values, that of process 0 first.
    pub values: Vec<OptionValue>,
}

/// A value of an option, and the processes that have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionValue {
    /// The value; none where the option is not declared.
    pub value: Option<String>,
    /// The first of the processes that have it.
    pub processes: Vec<usize>,
    /// The number of all processes that have it.
    pub count: usize,
}

impl JoinFailure {
    /// The error of a program that does not know its place in a job yet.
    pub(crate) fn unplaced(self) -> Error {
        Error::Rendezvous {
            process: None,
            address: String::new(),
            failure: self,
        }
    }
}

/// Writes what a variable holds.
struct VariableValue<'a>(Option<&'a str>);

impl std::fmt::Display for VariableValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => f.write_str("is not set"),
            Some(value) => write!(f, "is {value:?}"),
        }
    }
}

/// Writes `--lr is "0.03" in process 0, "0.3" in process 1`.
struct Differences<'a>(&'a [DifferentOption]);

impl std::fmt::Display for Differences<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, option) in self.0.iter().enumerate() {
            let start = ["", "; "][usize::from(place > 0)];
            // A flag of a command line reads well as it is; whatever else it may hold is escaped.
            write!(f, "{start}{} is", option.name.escape_debug())?;
            for (place, value) in option.values.iter().enumerate() {
                f.write_str([" ", ", "][usize::from(place > 0)])?;
                match &value.value {
                    Some(value) => write!(f, "{value:?}")?,
                    None => f.write_str("not declared")?,
                }
                write!(f, " in {}", ProcessList(&value.processes))?;
                match value.count.saturating_sub(value.processes.len()) {
                    0 => {}
                    more => write!(f, " and {more} more")?,
                }
            }
        }
        Ok(())
    }
}

/// Writes a reason, if there is one.
struct Reason<'a>(Option<&'a str>);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Writes `process 3` or `processes 3 and 5`.
struct ProcessList<'a>(&'a [usize]);

impl std::fmt::Display for ProcessList<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => f.write_str("no process"),
            [one] => write!(f, "process {one}"),
            [first @ .., last] => {
                let first: Vec<String> = first.iter().map(usize::to_string).collect();
                write!(f, "processes {} and {last}", first.join(", "))
            }
        }
    }
}

/// Writes a hint where connections were turned away.
struct TurnedAway(u64);

impl std::fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(
                f,
                " {count} {} turned away; the log says why (another secret or version?)",
                if count == 1 {
                    "connection was"
                } else {
                    "connections were"
                }
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_processes_are_listed_as_a_person_would() {
        let failure = JoinFailure::Missing {
            missing: vec![3, 5],
            processes: 8,
            after: Duration::from_mins(1),
            turned_away: 0,
        };
        let text = failure.to_string();
        assert!(text.starts_with("waited 60 s: processes 3 and 5 of 8 did not come"));
    }
}
