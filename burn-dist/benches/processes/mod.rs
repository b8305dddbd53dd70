//! Runs a bench as threads of this process, or as several processes of this machine, over loopback or
//! over a link of limited speed between two network namespaces.
#![allow(dead_code, reason = "each bench uses a part of this")]

#[path = "../../tests/support/machines.rs"]
mod machines;

use std::net::TcpListener;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use burn_dist::JobConfig;
use clap::{Args, ValueEnum};
use machines::{ADDRESSES, TwoMachines};
use signal_hook::consts::{SIGINT, SIGTERM};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Interval at which the processes are checked.
const LOOK: Duration = Duration::from_millis(50);

/// The options of every bench that has ranks.
#[derive(Clone, Debug, Args)]
pub(crate) struct Ranked {
    /// Layout of the ranks.
    #[arg(long, value_enum, default_value = "threads")]
    pub(crate) layout: Layout,
    /// Number of ranks.
    #[arg(long, default_value_t = 2)]
    pub(crate) ranks: usize,
    /// Two processes, each in a network namespace of its own, joined by a link of this speed in each
    /// direction, as `tc` writes it (`1gbit`). Needs root.
    #[arg(long, value_name = "RATE")]
    link: Option<String>,
    /// Flag that `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Layout of ranks over threads and processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// All are threads of one process.
    Threads,
    /// Each is a process of its own.
    Processes,
}

impl Layout {
    /// As options and measurements write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        }
    }
}

impl Ranked {
    /// The address of the first process, where there are several.
    pub(crate) fn host(&self) -> Option<String> {
        std::env::var("MASTER_ADDR")
            .ok()
            .filter(|_| self.layout == Layout::Processes)
    }

    /// Runs `work` with the number of ranks of this process and its place in a job; for processes, this
    /// program again in each of them.
    pub(crate) fn run(
        &self,
        work: impl FnOnce(usize, Option<JobConfig>) -> Result<()>,
    ) -> Result<()> {
        if self.link.is_some() && (self.layout, self.ranks) != (Layout::Processes, 2) {
            return Err("--link joins two processes: --layout processes --ranks 2".into());
        }
        match (self.layout, JobConfig::from_env()?) {
            (Layout::Threads, _) => work(self.ranks, None),
            (Layout::Processes, Some(job)) => work(1, Some(job)),
            (Layout::Processes, None) => {
                let stop = Stop::new()?;
                let machines = self.link.as_deref().map(join).transpose()?;
                start(self.ranks, machines.as_ref(), |_| ())?.wait(&stop)
            }
        }
    }
}

/// Set when somebody ends this program, which then ends the others and their network first.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self(stop))
    }
}

/// Starts this program, with its own arguments, once for each process of a job.
pub(crate) fn start(
    processes: usize,
    machines: Option<&TwoMachines>,
    prepare: impl Fn(&mut Command),
) -> Result<Processes> {
    let (host, port) = if machines.is_some() {
        // Their networks are new, so every port is free.
        (ADDRESSES[0], 29_500)
    } else {
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        ("127.0.0.1", free)
    };
    // Nobody is let in without one who is reached by more than the loopback interface.
    let mut secret = [0; 16];
    getrandom::fill(&mut secret)?;
    let secret = format!("{:032x}", u128::from_ne_bytes(secret));
    let mut started = Processes(Vec::with_capacity(processes));
    for process in 0..processes {
        let mut command = program(machines.map(|machines| machines.names()[process].as_str()))?;
        command
            .args(std::env::args_os().skip(1))
            .env("RANK", process.to_string())
            .env("WORLD_SIZE", processes.to_string())
            .env("MASTER_ADDR", host)
            .env("MASTER_PORT", port.to_string())
            .env("BURN_DIST_SECRET", &secret);
        prepare(&mut command);
        started.0.push(command.spawn()?);
    }
    Ok(started)
}

/// Two namespaces with a link of this speed.
fn join(rate: &str) -> Result<TwoMachines> {
    let joined = TwoMachines::new().and_then(|machines| {
        machines.bring_up()?;
        machines.limit(rate)?;
        Ok(machines)
    });
    let needs = "--link needs root, network namespaces, and the programs ip and tc";
    joined.map_err(|reason| format!("{needs}: {reason}").into())
}

/// This program, in a network namespace if one is given.
fn program(namespace: Option<&str>) -> Result<Command> {
    let this = std::env::current_exe()?;
    Ok(match namespace {
        Some(namespace) => {
            // `ip` becomes the program, so that the child's number is the program's.
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(this);
            command
        }
        None => Command::new(this),
    })
}

/// Processes that have ended when this is dropped.
pub(crate) struct Processes(pub(crate) Vec<Child>);

impl Processes {
    /// Waits until all have ended well, one has not, or they are to stop.
    pub(crate) fn wait(mut self, stop: &Stop) -> Result<()> {
        loop {
            let mut running = false;
            for child in &mut self.0 {
                match child.try_wait()? {
                    None => running = true,
                    Some(status) if status.success() => {}
                    Some(status) => return Err(format!("a process ended with {status}").into()),
                }
            }
            if !running {
                return Ok(());
            }
            if stop.0.load(Relaxed) {
                return Err("it was stopped".into());
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
