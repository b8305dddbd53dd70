//! `burn-dist run`: starts a program as the processes of one node, and tells each its place in the job.

use crate::error::Error;
use burn_dist_launcher::Task;
use clap::{Args, value_parser};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

/// Port of process 0 where none is given for several nodes.
const PORT: u16 = 29_500;

/// The program, and this node's part of the job.
#[derive(Args, Clone, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Arguments {
    /// Nodes of the job; `burn-dist run` is started once on each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    nnodes: u32,

    /// Processes to start on this node, the same number on every node
    #[arg(long, alias = "nproc_per_node", value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    nproc_per_node: u32,

    /// Number of this node, from 0; needed for more than one node
    #[arg(long, alias = "node_rank", value_name = "N")]
    node_rank: Option<u32>,

    /// Address of node 0's machine and a free port there, the same on every node [default: this machine and a
    /// free port for one node; port 29500 where only a host is given]
    #[arg(long, aliases = ["rdzv-endpoint", "rdzv_endpoint"], value_name = "HOST:PORT", value_parser = endpoint)]
    rdzv: Option<Endpoint>,

    /// The host of --rdzv by itself
    #[arg(long, alias = "master_addr", value_name = "HOST", value_parser = host, conflicts_with = "rdzv")]
    master_addr: Option<String>,

    /// The port of --rdzv by itself
    #[arg(long, alias = "master_port", value_name = "PORT", conflicts_with = "rdzv", value_parser = value_parser!(u16).range(1..))]
    master_port: Option<u16>,

    /// One node and a free port, as without --nnodes and --rdzv
    #[arg(long, conflicts_with_all = ["rdzv", "master_addr", "master_port"], hide = true)]
    standalone: bool,

    /// Name that only this job has, the same on every node: processes of jobs with different names never join
    /// one another [default: BURN_DIST_JOB]
    #[arg(long, aliases = ["rdzv-id", "rdzv_id"], value_name = "NAME")]
    job: Option<String>,

    /// Folder for the output of each process, in a file `rank-R.log`; made if missing [default: none]
    #[arg(long, alias = "log_dir", value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// The program and its arguments
    #[arg(
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        value_name = "PROGRAM"
    )]
    command: Vec<OsString>,
}

impl Arguments {
    /// Starts so many processes of a command on this machine.
    pub(crate) fn of_one_node(processes: u32, command: Vec<OsString>) -> Self {
        Self {
            nnodes: 1,
            nproc_per_node: processes,
            node_rank: None,
            rdzv: None,
            master_addr: None,
            master_port: None,
            standalone: false,
            job: None,
            log_dir: None,
            command,
        }
    }
}

const ABOUT: &str = "\
Examples:
  burn-dist run --nproc-per-node 2 -- ./train --epochs 3
      two processes on this machine
  burn-dist run --nnodes 2 --node-rank 0 --rdzv 10.0.0.1:29500 -- ./train --epochs 3
      on 10.0.0.1; on the other machine the same with --node-rank 1; on both with the same BURN_DIST_SECRET, for
      which `openssl rand -hex 32` makes a value

Each process finds its place in its environment, which JobConfig::from_env of burn-dist reads:
  RANK, WORLD_SIZE              its number among the processes of all nodes, and how many they are
  LOCAL_RANK, LOCAL_WORLD_SIZE  its number among the processes of this node, and how many they are
  GROUP_RANK                    the number of this node
  MASTER_ADDR, MASTER_PORT      where process 0 listens
  BURN_DIST_SECRET              for one node: a fresh secret, unless it or BURN_DIST_SECRET_FILE is set
  BURN_DIST_ERROR_FILE          where it writes a failure that began in it
A process may train several replicas, each a rank of burn-dist's groups: RANK counts processes.

Its output is shown line by line, with its number before each line. It reads no input.

When a process fails, the others have 2 seconds to end by themselves; then they are asked to (SIGTERM), and
killed after 5 more. Of several that fail, the one where the failure began counts, or else the one that ended
first: a summary shows the last lines of its stderr, and its exit code becomes the launcher's (128 and the
number of the signal, if one killed it). Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed on, once;
those that were ignored, as SIGHUP under nohup, stay so. Processes that have not ended 30 seconds later are
killed, or at once on a second Ctrl-C, half a second or more after the first. What the processes started ends
with them, unless it made a process group of its own.";

/// Host and port of `--rdzv`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    port: Option<u16>,
}

/// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let expected =
        || "expected HOST:PORT, as node0:29500, 10.0.0.1:29500 or [fd00::1]:29500".to_owned();
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(expected)?,
        // An IPv6 address without brackets has no port. After `%` it may name an interface.
        None if text.matches(':').count() > 1 => {
            let address = text.split('%').next().unwrap_or_default();
            address.parse::<Ipv6Addr>().map_err(|_| expected())?;
            (text, "")
        }
        None => text
            .find(':')
            .map_or((text, ""), |colon| text.split_at(colon)),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err(expected()),
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(format!("{}; a port is from 1 to 65535", expected())),
            Ok(port) => Some(port),
        },
    };
    let host = host(name).map_err(|_| expected())?;
    Ok(Endpoint { host, port })
}

/// Reads a name or an address.
fn host(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_whitespace) {
        Err("expected a name or an address".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Starts the processes of this node, waits for them, and says why if they did not all succeed. The exit code is
/// that of the process where the failure began: the first that has said so, or else the first to end.
///
/// # Errors
///
/// [`Error`] if the arguments don't go together or the processes can't be started.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let node = Node::of(arguments, std::env::var_os)?;
    let errors = tempfile::tempdir().map_err(Error::system("make a temporary folder"))?;
    let file = |process: usize| errors.path().join(process.to_string());
    if let Some(folder) = &arguments.log_dir {
        fs::create_dir_all(folder).map_err(|cause| Error::LogDir {
            folder: folder.clone(),
            cause,
        })?;
    }
    let mut tasks = Vec::new();
    for local in 0..node.processes {
        let mut command = node.command(local);
        command.env("BURN_DIST_ERROR_FILE", file(local as usize));
        let rank = node.rank(local);
        let mut task = Task::new(command, rank.to_string());
        if let Some(folder) = &arguments.log_dir {
            task = task.with_log(folder.join(format!("rank-{rank}.log")));
        }
        tasks.push(task);
    }
    let outcome = burn_dist_launcher::run(tasks)?.blame(|process| written(&file(process)));
    // Without a stderr there is nobody to tell; the exit code says it all the same.
    let _ = io::stderr().write_all(&outcome.summary());
    Ok(outcome.code())
}

/// This node's part of a job.
#[derive(Debug)]
struct Node<'a> {
    command: &'a [OsString],
    nodes: u32,
    number: u32,
    /// Processes of each node.
    processes: u32,
    host: String,
    port: u16,
    job: Option<&'a str>,
    /// A fresh secret, where the user has chosen none.
    secret: Option<String>,
}

impl<'a> Node<'a> {
    /// Checks that the arguments go together, and fills in what they leave open.
    fn of(
        arguments: &'a Arguments,
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, Error> {
        let nodes = arguments.nnodes;
        let number = match arguments.node_rank {
            Some(number) if number < nodes => number,
            Some(number) => {
                return Err(Error::Usage(format!(
                    "--node-rank is {number}: expected a number from 0 to {}, because --nnodes is {nodes}",
                    nodes - 1
                )));
            }
            None if nodes == 1 => 0,
            None => {
                return Err(Error::Usage(format!(
                    "--nnodes is {nodes}: give each node its number with --node-rank, from 0 to {}",
                    nodes - 1
                )));
            }
        };
        let (host, port) = match &arguments.rdzv {
            Some(given) => (Some(given.host.clone()), given.port),
            None => (arguments.master_addr.clone(), arguments.master_port),
        };
        let (host, port) = match (host, port) {
            _ if nodes > 1 && arguments.standalone => {
                return Err(Error::Usage(format!(
                    "--standalone is for one node, and --nnodes is {nodes}: leave one of them out"
                )));
            }
            (None, _) if nodes > 1 => {
                return Err(Error::Usage(format!(
                    "--nnodes is {nodes}: give every node the same --rdzv HOST:PORT, the address of node 0's \
                     machine and a free port there"
                )));
            }
            (None, Some(port)) => (Ipv4Addr::LOCALHOST.to_string(), port),
            (None, None) => (Ipv4Addr::LOCALHOST.to_string(), free_port()?),
            (Some(host), port) => (host, port.unwrap_or(PORT)),
        };
        let secret = match has_secret(variable) {
            true => None,
            false if nodes > 1 => return Err(Error::NoSecret { nodes }),
            false => Some(fresh_secret()?),
        };
        Ok(Self {
            command: &arguments.command,
            nodes,
            number,
            processes: arguments.nproc_per_node,
            host,
            port,
            job: arguments.job.as_deref(),
            secret,
        })
    }

    /// Number of a process among those of all nodes.
    fn rank(&self, local: u32) -> u32 {
        self.number * self.processes + local
    }

    /// The command of a process of this node.
    fn command(&self, local: u32) -> Command {
        let (program, args) = match self.command {
            [] => (OsString::new(), &[][..]),
            [program, args @ ..] => (program.clone(), args),
        };
        let mut command = Command::new(program);
        command.args(args);
        for (name, value) in [
            ("RANK", self.rank(local)),
            ("WORLD_SIZE", self.nodes * self.processes),
            ("LOCAL_RANK", local),
            ("LOCAL_WORLD_SIZE", self.processes),
            ("GROUP_RANK", self.number),
            ("MASTER_PORT", self.port.into()),
        ] {
            command.env(name, value.to_string());
        }
        command.env("MASTER_ADDR", &self.host);
        // A torchrun around this launcher is another job.
        command.env_remove("TORCHELASTIC_USE_AGENT_STORE");
        command.env_remove("TORCHELASTIC_RUN_ID");
        if let Some(job) = self.job {
            command.env("BURN_DIST_JOB", job);
        }
        if let Some(secret) = &self.secret {
            command.env("BURN_DIST_SECRET", secret);
        }
        command
    }
}

/// Time at which a process wrote that a failure began in it, if it did.
fn written(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|file| file.modified()).ok()
}

/// A port of this machine that nobody listens on just now.
fn free_port() -> Result<u16, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::system("find a free port"))
}

/// True if the user has chosen a secret.
fn has_secret(variable: impl Fn(&'static str) -> Option<OsString>) -> bool {
    ["BURN_DIST_SECRET", "BURN_DIST_SECRET_FILE"]
        .into_iter()
        .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}

/// Makes 32 random bytes in hexadecimal.
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
