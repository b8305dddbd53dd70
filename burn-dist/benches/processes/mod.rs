//! Runs a bench as threads of this process, or as several processes of this machine.
//!
//! Callers: every bench that has ranks.

use std::fmt;
use std::net::TcpListener;
use std::process::{Child, Command};

use burn_dist::JobConfig;
use clap::ValueEnum;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How ranks lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// All are threads of one process.
    Threads,
    /// Each is a process of its own.
    Processes,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        })
    }
}

/// Runs `work` with the number of ranks of this process and its place in a job; for processes, this
/// program again in each of them.
pub(crate) fn run(
    layout: Layout,
    ranks: usize,
    work: impl FnOnce(usize, Option<JobConfig>) -> Result<()>,
) -> Result<()> {
    match (layout, JobConfig::from_env()?) {
        (Layout::Threads, _) => work(ranks, None),
        (Layout::Processes, Some(job)) => work(1, Some(job)),
        (Layout::Processes, None) => start(ranks),
    }
}

/// Starts this program once for each process, and waits for all.
fn start(processes: usize) -> Result<()> {
    let program = std::env::current_exe()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let start = |process: usize| -> std::io::Result<Child> {
        Command::new(&program)
            .args(std::env::args_os().skip(1))
            .env("RANK", process.to_string())
            .env("WORLD_SIZE", processes.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .spawn()
    };
    let children: Vec<Child> = (0..processes).map(start).collect::<std::io::Result<_>>()?;
    for mut child in children {
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("a process ended with {status}").into());
        }
    }
    Ok(())
}
