//! `cargo xtask launch`: several processes of one program on this machine, to try out what will run on
//! several machines.
//!
//! Imports point one way: `launch` > `job` > `group`, `outcome`, `output` > `signals`.
//!
//! Callers: `main`, `program` for `--nodes`, and `bench`, which runs programs one after the other under a
//! deadline and reads what they write.

#[cfg_attr(unix, path = "launch/group_unix.rs")]
#[cfg_attr(not(unix), path = "launch/group_other.rs")]
mod group;
mod job;
mod outcome;
mod output;
#[cfg_attr(unix, path = "launch/signals_unix.rs")]
#[cfg_attr(not(unix), path = "launch/signals_other.rs")]
mod signals;

use crate::error::Error;
use clap::{Args, value_parser};
pub(crate) use group::guard;
use job::Terms;
use outcome::Cause;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

/// What to start, and how often.
#[derive(Args, Clone, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Options {
    /// Processes to start
    #[arg(long, value_name = "M", value_parser = value_parser!(u32).range(1..=1024))]
    nodes: u32,

    /// Devices that each process is told to use, in LOCAL_DEVICES
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    gpus_per_node: u32,

    /// Port at which the processes meet [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    master_port: Option<u16>,

    /// The program and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "PROGRAM")]
    command: Vec<OsString>,
}

const ABOUT: &str = "\
Each process finds its place in its environment:
  RANK, LOCAL_RANK              its number, from 0
  WORLD_SIZE, LOCAL_WORLD_SIZE  M
  LOCAL_DEVICES                 N
  MASTER_ADDR, MASTER_PORT      127.0.0.1 and the port
  BURN_DIST_ERROR_FILE          where it writes a failure that began in it
  BURN_DIST_SECRET              a fresh secret, unless it or BURN_DIST_SECRET_FILE is set

Its output is shown line by line, with its number before each line. It reads no input.

When a process fails, the others have 2 seconds to end by themselves; then they are asked to (SIGTERM),
and killed after 5 more. Of several that fail, the one that ended first counts: a summary shows the last
lines of its stderr, and its exit code becomes the launcher's (128 and the number of the signal, if one
killed it). Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed on, once; those that were ignored, as
SIGHUP under nohup, stay so. Who has not ended 30 seconds later is killed, or at once on a second Ctrl-C, half
a second or more after the first. What the processes started ends with them, unless it made a process group
of its own.";

/// Starts the processes and waits for them.
///
/// # Errors
///
/// When they can't be started.
pub(crate) fn run(options: &Options) -> Result<ExitCode, Error> {
    let (program, args) = options
        .command
        .split_first()
        .ok_or_else(|| Error::system("start no program")(io::ErrorKind::InvalidInput.into()))?;
    Launch {
        program,
        args,
        nodes: options.nodes,
        devices: options.gpus_per_node,
        address: Ipv4Addr::LOCALHOST.into(),
        port: options.master_port,
    }
    .run()
}

/// A job on this machine.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a OsStr,
    pub(crate) args: &'a [OsString],
    /// Processes.
    pub(crate) nodes: u32,
    /// Devices of each process.
    pub(crate) devices: u32,
    /// Where process 0 listens: an address of this machine.
    pub(crate) address: IpAddr,
    /// At which port; a free one if none.
    pub(crate) port: Option<u16>,
}

impl Launch<'_> {
    /// Starts the processes, waits for them, and says why if they did not all succeed. The exit code is
    /// that of the process where the failure began: the first that has said so, or else the first to end.
    ///
    /// # Errors
    ///
    /// When they can't be started.
    pub(crate) fn run(&self) -> Result<ExitCode, Error> {
        let errors = tempfile::tempdir().map_err(Error::system("make a temporary folder"))?;
        let files: Vec<_> = (0..self.nodes)
            .map(|rank| errors.path().join(rank.to_string()))
            .collect();
        let mut commands = self.commands()?;
        for (command, file) in commands.iter_mut().zip(&files) {
            command.env("BURN_DIST_ERROR_FILE", file);
        }
        let outcome = job::run(commands, Terms::default())?.blame(|process| began(&files[process]));
        // Without a stderr there is nobody to tell; the exit code says it all the same.
        let _ = io::stderr().write_all(&outcome.summary());
        Ok(outcome.code())
    }

    fn commands(&self) -> Result<Vec<Command>, Error> {
        let port = self.port.map_or_else(|| free_port(self.address), Ok)?;
        let secret = if has_secret(std::env::var_os) {
            None
        } else {
            Some(fresh_secret()?)
        };
        let command = |rank: u32| {
            let mut command = Command::new(self.program);
            command.args(self.args);
            for (names, value) in [
                (&["RANK", "LOCAL_RANK"][..], rank),
                (&["WORLD_SIZE", "LOCAL_WORLD_SIZE"], self.nodes),
                (&["LOCAL_DEVICES"], self.devices),
                (&["MASTER_PORT"], u32::from(port)),
            ] {
                for name in names {
                    command.env(name, value.to_string());
                }
            }
            command.env("MASTER_ADDR", self.address.to_string());
            if let Some(secret) = &secret {
                command.env("BURN_DIST_SECRET", secret);
            }
            command
        };
        Ok((0..self.nodes).map(command).collect())
    }
}

/// How long a program that is watched has to end after the user's signal: it has nothing to save, but
/// others to tell.
const HURRY: Duration = Duration::from_secs(2);

/// What a program wrote to stdout, as far as it was read, and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Its last 1000 lines.
    pub(crate) lines: Vec<String>,
    pub(crate) end: Finish,
}

/// How a program ended that was waited for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finish {
    Succeeded,
    /// How, in words: `exit code 3`.
    Failed(String),
    /// It had no time left, and was ended with all that it had started.
    Overdue,
    /// The user wants no more: this program was told to end, by Ctrl-C for one. With the exit code to end
    /// with.
    Stopped(ExitCode),
}

/// Runs a program with all that it starts, and ends them when `limit` is over or this program is told to
/// end. Its stderr is shown with the label before each line, its stdout is kept.
///
/// # Errors
///
/// When it can't be started.
pub(crate) fn watch(command: Command, label: &str, limit: Duration) -> Result<Finished, Error> {
    let outcome = job::run(
        vec![command],
        Terms {
            limit: Some(limit),
            label: Some(label.to_owned()),
            keeps: true,
            saving: HURRY,
        },
    )?;
    let end = match (outcome.signal, outcome.cause) {
        (Some(signal), _) | (None, Some(Cause::Signal(signal))) => {
            Finish::Stopped(outcome::after_signal(signal))
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

/// When a process wrote that a failure began in it, if it did.
fn began(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|file| file.modified()).ok()
}

/// A port of an address that nobody listens on just now.
fn free_port(address: IpAddr) -> Result<u16, Error> {
    let listener = TcpListener::bind((address, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::system("find a free port"))
}

/// Whether the user has chosen a secret.
fn has_secret(variable: impl Fn(&'static str) -> Option<OsString>) -> bool {
    ["BURN_DIST_SECRET", "BURN_DIST_SECRET_FILE"]
        .into_iter()
        .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}

/// 32 random bytes in hexadecimal.
fn fresh_secret() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|cause| Error::system("make a secret")(io::Error::other(cause)))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests;
