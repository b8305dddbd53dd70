//! `burn-dist bench tune`: measures at which sizes the collectives of a job should change their algorithm.
//!
//! The processes join anew for each algorithm, with crossovers that choose it at every size, and so round after round:
//! what else the machine does meets all algorithms alike. Process 0 writes the file.

use super::boundaries::boundaries;
use super::{median_of, seconds, time};
use crate::Failure;
use crate::error::Error;
use crate::run;
use burn_dist::launch::{Backend, Devices, Launcher, Worker};
use burn_dist::{Crossovers, JobConfig, ReduceOp, Tuned};
use clap::{Args, value_parser};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Sizes in bytes that are measured: these and the powers of two between them.
const SIZES: [usize; 2] = [256, 1 << 20];
/// Most bytes that one process sends or keeps where everybody sends everybody everything.
const MAX_ROUND: usize = 4 << 20;

/// Processes and times of a measurement, and its file.
#[derive(Args, Clone, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Arguments {
    /// Processes to start on this machine [default: those of the job that `burn-dist run` started this program in]
    #[arg(long, alias = "nproc_per_node", value_name = "N", value_parser = value_parser!(u32).range(2..=1024))]
    nproc_per_node: Option<u32>,

    /// Ranks of each process, each a thread
    #[arg(long, alias = "local_ranks", value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=256))]
    local_ranks: u32,

    /// File to write, as JSON
    #[arg(long, value_name = "FILE", default_value = "crossovers.json")]
    output: PathBuf,

    /// Measurements of each algorithm, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Seconds that one algorithm takes at one size in one round, about
    #[arg(long, value_name = "SECONDS", default_value_t = 0.05, value_parser = seconds)]
    budget: f64,

    /// Seconds to wait for the job's other processes, and in an operation for the other ranks
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u32).range(1..=86400))]
    timeout: u32,
}

const ABOUT: &str = "\
Examples:
  burn-dist bench tune --nproc-per-node 4
      four processes of this machine
  burn-dist run --nnodes 2 --node-rank 0 --rdzv 10.0.0.1:29500 -- burn-dist bench tune
      two machines; on the other one with --node-rank 1

Jobs of as many processes use the file that process 0 gets with --crossovers FILE, or with
JobConfig::with_crossovers_file. It changes how long an operation takes, and never its result.";

/// An operation that has several algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    AllReduce,
    Broadcast,
}

/// One way of doing an operation.
struct Algorithm {
    operation: Operation,
    name: &'static str,
    /// Chooses it at every size, for so many processes.
    force: fn(usize) -> Crossovers,
    /// True if everybody sends everybody everything.
    is_round: bool,
}

/// All algorithms. Those of an operation are in the order of the sizes that they are for.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm {
        operation: Operation::AllReduce,
        name: "one round",
        force: |processes| Crossovers::default().with_all_reduce(processes, usize::MAX, 0),
        is_round: true,
    },
    Algorithm {
        operation: Operation::AllReduce,
        name: "doubling",
        force: |processes| Crossovers::default().with_all_reduce(processes, 0, usize::MAX),
        is_round: false,
    },
    Algorithm {
        operation: Operation::AllReduce,
        name: "large",
        force: |processes| Crossovers::default().with_all_reduce(processes, 0, 0),
        is_round: false,
    },
    Algorithm {
        operation: Operation::Broadcast,
        name: "tree",
        force: |_| Crossovers::default().with_broadcast(usize::MAX),
        is_round: false,
    },
    Algorithm {
        operation: Operation::Broadcast,
        name: "scattered",
        force: |_| Crossovers::default().with_broadcast(0),
        is_round: false,
    },
];

impl Algorithm {
    /// True if a buffer of this size is measured.
    fn takes(&self, bytes: usize, processes: usize) -> bool {
        let round_fits = || bytes.saturating_mul(processes - 1) <= MAX_ROUND;
        let has_rounds = || Crossovers::default().has_rounds(processes);
        !self.is_round || has_rounds() && round_fits()
    }
}

/// Measures as one process of a job, or starts the processes of one.
///
/// # Errors
///
/// If there is no job and no number of processes, the job can't be joined, an operation fails, or the file can't be
/// written.
pub(super) fn run(options: &Arguments) -> Result<ExitCode, Failure> {
    let timeout = Duration::from_secs(options.timeout.into());
    let Some(job) = JobConfig::from_env()? else {
        return start(options);
    };
    let job = job.with_join_timeout(timeout);
    let processes = job.processes();
    if processes < 2 {
        return Err(usage());
    }
    let first = job.process() == 0;
    if first {
        // A file that can't be written is an error before the measurement.
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&options.output);
        let opened = opened.map_err(|cause| unwritten(options, &cause));
        opened.inspect_err(|error| drop(job.abandon(error)))?;
    }
    let measured = measure(options, &job, timeout)?;
    if first {
        let (crossovers, text) = choose(&measured.times, processes);
        let ranks = measured.ranks;
        let tuned = Tuned::new(machine(), processes, ranks, crossovers);
        tuned
            .write(&options.output)
            .map_err(|cause| unwritten(options, &cause))?;
        let mut stdout = std::io::stdout();
        writeln!(
            stdout,
            "{ranks} ranks in {processes} processes; * is chosen"
        )?;
        write!(stdout, "{text}")?;
        writeln!(stdout, "wrote {}", options.output.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the name of this machine.
fn machine() -> String {
    let file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = file.or_else(|| std::env::var("COMPUTERNAME").ok());
    name.map_or_else(|| "unknown".into(), |name| name.trim().to_owned())
}

fn usage() -> Failure {
    let message = "there is one process alone, which has nobody to send to: give --nproc-per-node 2, or start \
                   several processes with `burn-dist run --nproc-per-node 2 -- burn-dist bench tune`";
    message.into()
}

fn unwritten(options: &Arguments, cause: &std::io::Error) -> Failure {
    format!("can't write {}: {cause}", options.output.display()).into()
}

/// Starts this program again as the processes of a job.
fn start(options: &Arguments) -> Result<ExitCode, Failure> {
    let processes = options.nproc_per_node.ok_or_else(usage)?;
    let this = std::env::current_exe().map_err(Error::system("find this program"))?;
    let command = std::iter::once(this.into_os_string()).chain(std::env::args_os().skip(1));
    Ok(run::run(&run::Arguments::of_one_node(
        processes,
        command.collect(),
    ))?)
}

/// Times of each algorithm.
struct Measured {
    ranks: usize,
    /// By algorithm and size; infinite where it was not measured.
    times: Vec<Vec<f64>>,
}

/// Measures every algorithm in every round. The times are right in process 0 alone.
fn measure(options: &Arguments, job: &JobConfig, timeout: Duration) -> Result<Measured, Failure> {
    let local = options.local_ranks as usize;
    // The slices lie in host memory; the devices are only what ranks are started on.
    let Devices { devices, .. } = Devices::select(Backend::Cpu, local, false)?;
    let processes = job.processes();
    let mut rounds: Vec<Vec<Vec<f64>>> = ALGORITHMS.iter().map(|_| Vec::new()).collect();
    let mut ranks = 0;
    for _ in 0..options.rounds {
        for (algorithm, rounds) in ALGORITHMS.iter().zip(&mut rounds) {
            let job = job.clone().with_crossovers((algorithm.force)(processes));
            let launcher = Launcher::new(devices.clone())
                .with_timeout(timeout)
                .with_job(Some(job));
            let times = launcher.run(|worker| {
                let times = times(algorithm, options.budget, processes, &worker)?;
                Ok::<_, Failure>((worker.world_size(), times))
            })?;
            // The first rank of process 0 is rank 0.
            let (count, times) = times.into_iter().next().ok_or("no rank was started")?;
            ranks = count;
            rounds.push(times);
        }
    }
    let median = |rounds: &Vec<Vec<f64>>| {
        let of_size = |at: usize| median_of(rounds.iter().map(|times| times[at]).collect());
        (0..sizes().count()).map(of_size).collect()
    };
    Ok(Measured {
        ranks,
        times: rounds.iter().map(median).collect(),
    })
}

/// Returns the median time of each size, as this rank sees it.
fn times(
    algorithm: &Algorithm,
    budget: f64,
    processes: usize,
    worker: &Worker,
) -> Result<Vec<f64>, Failure> {
    let group = worker.group();
    let measure = |bytes: usize| {
        if !algorithm.takes(bytes, processes) {
            return Ok(f64::INFINITY);
        }
        let mut buffer = vec![0.0_f32; bytes / size_of::<f32>()];
        super::median_time(group, budget, || {
            group.barrier()?;
            let start = Instant::now();
            match algorithm.operation {
                Operation::AllReduce => group.all_reduce(&mut buffer, ReduceOp::Sum)?,
                Operation::Broadcast => {
                    group.broadcast(&mut buffer, 0)?;
                    // Until all have it, and not until rank 0 has sent it.
                    group.barrier()?;
                }
            }
            Ok(start.elapsed().as_secs_f64())
        })
    };
    sizes().map(measure).collect()
}

fn sizes() -> impl Iterator<Item = usize> {
    let double = |bytes: &usize| Some(bytes * 2);
    std::iter::successors(Some(SIZES[0]), double).take_while(|bytes| *bytes <= SIZES[1])
}

/// Chooses from the times of each algorithm by size. Returns the crossovers, and a table of all times.
fn choose(times: &[Vec<f64>], processes: usize) -> (Crossovers, String) {
    let sizes: Vec<_> = sizes().collect();
    let mut text = String::new();
    let mut chosen = |operation: Operation, name: &str| {
        let of_it = |at: &usize| ALGORITHMS[*at].operation == operation;
        let here: Vec<_> = (0..ALGORITHMS.len()).filter(of_it).collect();
        let times: Vec<_> = here.iter().map(|&at| &times[at][..]).collect();
        let names: Vec<_> = here.iter().map(|&at| ALGORITHMS[at].name).collect();
        let ends = boundaries(&times);
        text.push_str(&table(name, &names, &sizes, &times, &ends));
        // The largest size of each algorithm; 0 if it has none.
        let mut begin = 0;
        let mut largest = Vec::new();
        for end in ends {
            largest.push(if end > begin { sizes[end - 1] } else { 0 });
            begin = end;
        }
        largest
    };
    let all_reduce = chosen(Operation::AllReduce, "all_reduce");
    let broadcast = chosen(Operation::Broadcast, "broadcast");
    let crossovers = Crossovers::default()
        .with_all_reduce(processes, all_reduce[0], all_reduce[1])
        .with_broadcast(broadcast[0]);
    (crossovers, text)
}

/// Returns the times of an operation as text. The algorithm at number `a` is chosen for sizes before `ends[a]`.
fn table(
    operation: &str,
    names: &[&str],
    sizes: &[usize],
    times: &[&[f64]],
    ends: &[usize],
) -> String {
    let heads = names.iter().map(|name| format!("{name:>14}"));
    let mut lines = vec![format!("{operation:>12}{}\n", heads.collect::<String>())];
    for (at, bytes) in sizes.iter().enumerate() {
        let chosen = ends.iter().position(|&end| at < end);
        let cell = |(algorithm, times): (usize, &&[f64])| {
            let mark = if chosen == Some(algorithm) { '*' } else { ' ' };
            let cell = match times[at] {
                measured if measured.is_finite() => time(measured),
                _ => "-".to_owned(),
            };
            format!("{cell:>13}{mark}")
        };
        let cells: String = times.iter().enumerate().map(cell).collect();
        lines.push(format!("{bytes:>12}{cells}\n"));
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crossovers_are_where_algorithms_overtake_one_another() {
        let count = sizes().count();
        let line = |start: f64, slope: f64| -> Vec<f64> {
            (0..count).map(|at| start * slope.powi(at as i32)).collect()
        };
        // 256 B to 1 KiB; 2 KiB to 32 KiB; the rest. Broadcast never leaves the tree.
        let times = [
            line(1.0, 3.0),
            line(4.0, 1.8),
            line(36.0, 1.35),
            line(1.0, 1.5),
            line(2.0, 1.5),
        ];
        let (crossovers, text) = choose(&times, 4);
        let expected = Crossovers::default()
            .with_all_reduce(4, 1 << 10, 32 << 10)
            .with_broadcast(1 << 20);
        assert_eq!(crossovers, expected, "{text}");
        assert_eq!(text.matches('*').count(), 2 * count, "{text}");
    }

    #[test]
    fn rounds_of_all_to_all_have_a_bound() {
        assert!(ALGORITHMS[0].takes(1 << 20, 4));
        assert!(!ALGORITHMS[0].takes(8 << 20, 4));
        assert!(!ALGORITHMS[0].takes(4, 64));
        assert!(ALGORITHMS[1].takes(1 << 20, 64));
    }
}
