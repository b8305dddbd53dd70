//! The bench programs of burn-dist: which there are, what they are told, and their files once built.

use super::line::Layout;
use super::run::Halt;
use crate::cargo::{self, Call};
use crate::error::Error;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

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
        }
    }

    /// The name of its program.
    fn program(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::DdpStep => "ddp_step",
            Self::Overlap => "overlap",
            Self::Loader => "loader",
            Self::Startup => "startup",
        }
    }

    pub(super) fn has_sizes(self) -> bool {
        self == Self::AllReduce
    }

    /// Layouts that its ranks can have.
    pub(super) fn layouts(self) -> &'static [Layout] {
        match self {
            Self::Loader => &[Layout::Threads],
            Self::Startup => &[Layout::Processes],
            _ => &[Layout::Threads, Layout::Processes],
        }
    }

    /// Numbers of ranks unless the user says.
    pub(super) fn ranks(self) -> &'static [u32] {
        match self {
            Self::Loader => &[2],
            _ => &[2, 4, 8],
        }
    }

    /// Number of rounds unless the user says. Short rounds alternate with the peers; the others take
    /// their turns with what they are compared with themselves.
    pub(super) fn rounds(self) -> u32 {
        match self {
            Self::AllReduce | Self::DdpStep => 5,
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
pub(super) struct Programs(BTreeMap<Bench, PathBuf>);

impl Programs {
    /// Builds the programs of these benches.
    ///
    /// # Errors
    ///
    /// As [`build`].
    pub(super) fn build(benches: &[Bench]) -> Result<Self, Halt> {
        let names: Vec<_> = benches.iter().map(|bench| bench.program()).collect();
        let files = build(&names)?;
        Ok(Self(benches.iter().copied().zip(files).collect()))
    }

    /// The command that times it once.
    pub(super) fn command(&self, setting: &Setting) -> Option<Command> {
        let mut command = Command::new(self.0.get(&setting.bench)?);
        command.args(setting.flags());
        Some(command)
    }
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
