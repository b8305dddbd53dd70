//! The bench programs of burn-dist: which there are, what they are told, and their files once built.

use super::line::Layout;
use super::run::Halt;
use crate::cargo::{self, Call};
use crate::error::Error;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Benches that can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Bench {
    /// all_reduce of f32, by size
    AllReduce,
    /// A training step of the MNIST CNN with synchronised gradients, against one without
    DdpStep,
    /// Share of the synchronisation that hides behind the backward pass
    Overlap,
    /// Loading batches
    Loader,
    /// From the start of the processes to the first step
    Startup,
    /// Barrier and all_reduce over more and more processes, and messages counted
    Growth,
    /// broadcast of f32 from rank 0, by size, and bytes counted
    Broadcast,
    /// `burn-dist run` of a program that joins, makes one barrier and ends; threads and memory counted
    Launch,
}

impl Bench {
    /// As it is typed, and as its lines say.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all-reduce",
            Self::DdpStep => "ddp-step",
            Self::Overlap => "overlap",
            Self::Loader => "loader",
            Self::Startup => "startup",
            Self::Growth => "growth",
            Self::Broadcast => "broadcast",
            Self::Launch => "launch",
        }
    }

    /// The name of its program.
    fn program(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::DdpStep => "ddp_step",
            Self::Overlap => "overlap",
            Self::Loader => "loader",
            Self::Startup | Self::Launch => "startup",
            Self::Growth | Self::Broadcast => "growth",
        }
    }

    pub(super) fn has_sizes(self) -> bool {
        matches!(self, Self::AllReduce | Self::Growth | Self::Broadcast)
    }

    /// Sizes in bytes unless the user says.
    pub(super) fn sizes(self) -> &'static [u64] {
        match self {
            Self::AllReduce => &[1 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20],
            Self::Growth => &[1 << 10, 64 << 10, 1 << 20],
            Self::Broadcast => &[64 << 20],
            _ => &[],
        }
    }

    /// Layouts that its ranks can have.
    pub(super) fn layouts(self) -> &'static [Layout] {
        match self {
            Self::Loader => &[Layout::Threads],
            Self::Startup | Self::Growth | Self::Broadcast | Self::Launch => &[Layout::Processes],
            _ => &[Layout::Threads, Layout::Processes],
        }
    }

    /// Numbers of ranks unless the user says.
    pub(super) fn ranks(self) -> &'static [u32] {
        match self {
            Self::Loader => &[2],
            Self::Growth => &[2, 4, 8, 16, 32, 64],
            Self::Broadcast => &[16],
            Self::Launch => &[64],
            _ => &[2, 4, 8],
        }
    }

    /// Number of rounds unless the user says. Short rounds alternate with the peers; the others take
    /// their turns with what they are compared with themselves.
    pub(super) fn rounds(self) -> u32 {
        match self {
            Self::AllReduce | Self::DdpStep | Self::Launch => 5,
            Self::Growth | Self::Broadcast => 3,
            _ => 1,
        }
    }
}

/// One measurement: a bench with a layout, ranks and sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Setting<'a> {
    pub(super) bench: Bench,
    pub(super) layout: Layout,
    pub(super) ranks: u32,
    /// In bytes; for benches that have sizes.
    pub(super) sizes: &'a [u64],
    /// Seconds for each size.
    pub(super) budget: f64,
}

impl Setting<'_> {
    /// Describes the measurement in words.
    pub(super) fn title(&self) -> String {
        format!(
            "{}, {} {}",
            self.bench.name(),
            self.ranks,
            self.layout.name()
        )
    }

    /// The flags that the program of ours and the peers share.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut pair = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        if self.bench.layouts().len() > 1 {
            pair("--layout", self.layout.name().to_owned());
        }
        pair("--ranks", self.ranks.to_string());
        if self.bench == Bench::DdpStep {
            // A short round.
            pair("--blocks", "8".to_owned());
            pair("--steps", "1".to_owned());
        }
        if self.bench == Bench::Launch {
            // The time just before the command is started.
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            pair("--began", since.unwrap_or_default().as_nanos().to_string());
        }
        if self.bench.has_sizes() {
            flags.extend(self.size_flags());
        }
        flags
    }

    /// Those of them that say what is timed at each size, and how long.
    pub(super) fn size_flags(&self) -> [String; 4] {
        let sizes: Vec<_> = self.sizes.iter().map(u64::to_string).collect();
        let (sizes, budget) = (sizes.join(","), self.budget.to_string());
        ["--sizes".to_owned(), sizes, "--budget".to_owned(), budget]
    }
}

/// The programs' files.
#[derive(Debug)]
pub(super) struct Programs {
    benches: BTreeMap<Bench, PathBuf>,
    /// `burn-dist`, where a bench needs it.
    launcher: Option<PathBuf>,
}

impl Programs {
    /// Builds the programs of these benches.
    ///
    /// # Errors
    ///
    /// As [`build`].
    pub(super) fn build(benches: &[Bench]) -> Result<Self, Halt> {
        let mut names: Vec<_> = benches.iter().map(|bench| bench.program()).collect();
        names.sort_unstable();
        names.dedup();
        let files: BTreeMap<_, _> = names.iter().zip(build(&names)?).collect();
        let file = |bench: &Bench| Some((*bench, files.get(&bench.program())?.clone()));
        let launcher = benches.contains(&Bench::Launch).then(build_launcher);
        Ok(Self {
            benches: benches.iter().filter_map(file).collect(),
            launcher: launcher.transpose()?,
        })
    }

    /// The command that times it once.
    pub(super) fn command(&self, setting: &Setting) -> Option<Command> {
        let program = self.benches.get(&setting.bench)?;
        let mut command = Command::new(program);
        match setting.bench {
            Bench::Launch => {
                command = Command::new(self.launcher.as_ref()?);
                command.args(["run", "--nproc-per-node", &setting.ranks.to_string(), "--"]);
                command.arg(program).arg("--launched");
            }
            Bench::Growth | Bench::Broadcast => {
                command.args(["--operations", setting.bench.name()]);
            }
            _ => {}
        }
        command.args(setting.flags());
        Some(command)
    }
}

/// Builds `burn-dist`, optimised, and gives its file.
fn build_launcher() -> Result<PathBuf, Halt> {
    let mut call = Call::new(["build", "--release", "--package", "burn-dist-cli"]);
    call.arg("--message-format=json-render-diagnostics");
    eprintln!("{call}");
    let output = call.read()?;
    if !output.status.success() {
        return Err(Halt::Ended(cargo::exit_code(output.status)));
    }
    Ok(cargo::built_file(&output.stdout, "bin", "burn-dist")?)
}

/// Builds bench programs, optimised as cargo's `bench` profile has it, and gives their files.
///
/// # Errors
///
/// When cargo can't be started, can't build them (then it has said why), or doesn't say where one is.
pub(super) fn build(names: &[&str]) -> Result<Vec<PathBuf>, Halt> {
    let call = call(names);
    eprintln!("{call}");
    let output = call.read()?;
    if !output.status.success() {
        return Err(Halt::Ended(cargo::exit_code(output.status)));
    }
    let file = |name: &&str| cargo::built_file(&output.stdout, "bench", name);
    let files: Result<_, Error> = names.iter().map(file).collect();
    Ok(files?)
}

fn call(names: &[&str]) -> Call {
    let mut call = Call::new(["bench", "--no-run", "--package", "burn-dist"]);
    for name in names {
        call.arg("--bench").arg(name);
    }
    call.arg("--message-format=json-render-diagnostics");
    call
}
