//! What ours is compared with: found or built on this machine, and how each is started.
//!
//! Each peer prints lines like the bench programs' and takes the same flags. What is needed to build one
//! lies in `xtask/peers`, what is built in `target/peers`.

use super::line::Layout;
use super::programs::{self, Bench, Setting};
use super::run::{Halt, run};
use crate::cargo::{self, Call};
use crate::error::Error;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest time to build burn-collective with its Burn on a slow machine.
const BUILDING: Duration = Duration::from_hours(1);
/// Longest time of a compiler of one small file, or of an interpreter.
const TRYING: Duration = Duration::from_mins(2);

/// A kind of peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    OpenMpiShared,
    OpenMpiTcp,
    Torch,
    BurnCollective,
    RawTcp,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::RawTcp,
        Self::BurnCollective,
        Self::OpenMpiShared,
        Self::OpenMpiTcp,
        Self::Torch,
    ];

    /// Name in comparisons.
    pub(super) fn name(self, bench: Bench) -> &'static str {
        match self {
            Self::OpenMpiShared => "OpenMPI shared memory",
            Self::OpenMpiTcp => "OpenMPI TCP",
            Self::Torch if bench == Bench::DdpStep => "PyTorch DDP",
            Self::Torch => "PyTorch Gloo",
            Self::BurnCollective => "burn-collective, its best",
            Self::RawTcp => "two raw TCP streams",
        }
    }

    /// True if it does what is timed.
    pub(super) fn serves(self, bench: Bench, layout: Layout, ranks: u32) -> bool {
        match self {
            Self::OpenMpiShared | Self::BurnCollective => {
                bench == Bench::AllReduce && layout == Layout::Threads
            }
            Self::OpenMpiTcp => {
                let benches = [
                    Bench::AllReduce,
                    Bench::Growth,
                    Bench::Broadcast,
                    Bench::Launch,
                ];
                benches.contains(&bench) && layout == Layout::Processes
            }
            Self::RawTcp => bench == Bench::AllReduce && layout == Layout::Processes && ranks == 2,
            Self::Torch => {
                let benches = [
                    Bench::AllReduce,
                    Bench::DdpStep,
                    Bench::Growth,
                    Bench::Broadcast,
                ];
                benches.contains(&bench) && layout == Layout::Processes
            }
        }
    }

    /// Name of the bench in its lines.
    pub(super) fn says(self, bench: Bench) -> &'static str {
        match self {
            Self::RawTcp => "raw-tcp",
            _ => bench.name(),
        }
    }
}

/// A peer that is ready.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) kind: Kind,
    /// The command to start.
    pub(super) program: PathBuf,
    /// Its first arguments; what it runs, where it is a launcher or an interpreter.
    pub(super) file: Option<PathBuf>,
}

impl Peer {
    /// Finds or builds it; gives the reason if it is not to be had.
    ///
    /// # Errors
    ///
    /// When the user wants no more.
    pub(super) fn prepare(kind: Kind, python: Option<&Path>) -> Result<Result<Self, String>, Halt> {
        let ready = |program, file| Self {
            kind,
            program,
            file,
        };
        Ok(match kind {
            Kind::OpenMpiShared | Kind::OpenMpiTcp => {
                openmpi()?.map(|(mpirun, built)| ready(mpirun, Some(built)))
            }
            Kind::Torch => torch(python)?.map(|python| ready(python, Some(source("gloo.py")))),
            Kind::BurnCollective => burn_collective()?.map(|built| ready(built, None)),
            Kind::RawTcp => raw_tcp()?.map(|built| ready(built, None)),
        })
    }

    /// The command that times it once.
    pub(super) fn command(&self, setting: &Setting) -> Command {
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::OpenMpiShared => openmpi_flags(&mut command, setting, "vader,self"),
            Kind::OpenMpiTcp => {
                openmpi_flags(&mut command, setting, "tcp,self");
                // Without it, ranks that wait take the cores of those that have something to do.
                command.args(["--mca", "mpi_yield_when_idle", "1"]);
            }
            Kind::Torch | Kind::BurnCollective | Kind::RawTcp => {}
        }
        if let Some(file) = &self.file {
            command.arg(file);
        }
        if matches!(self.kind, Kind::OpenMpiTcp | Kind::Torch) {
            command.args(["--bench", setting.bench.name()]);
        }
        match self.kind {
            // There are two, as processes, in any case.
            Kind::RawTcp => command.args(setting.size_flags()),
            _ => command.args(setting.flags()),
        };
        command
    }
}

/// Arguments of mpirun before the program: to move bytes by nothing but these.
fn openmpi_flags(command: &mut Command, setting: &Setting, layers: &str) {
    if is_root() {
        command.arg("--allow-run-as-root");
    }
    command
        .args(["--oversubscribe", "--mca", "pml", "ob1", "--mca", "btl"])
        .args([layers, "-np", &setting.ranks.to_string()]);
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// `mpirun`, and the program for it.
fn openmpi() -> Result<Result<(PathBuf, PathBuf), String>, Halt> {
    let found = find("mpicc").and_then(|mpicc| Ok((mpicc, find("mpirun")?)));
    let (mpicc, mpirun) = match found {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    let built = built_folder()?
        .join("openmpi")
        .with_extension(env::consts::EXE_EXTENSION);
    let mut compile = Command::new(mpicc);
    compile
        .arg("-O3")
        .arg("-o")
        .arg(&built)
        .arg(source("openmpi.c"));
    let ran = run(compile, "mpicc", TRYING)?;
    Ok(match ran.trouble {
        None => Ok((mpirun, built)),
        Some(trouble) => Err(format!("mpicc {trouble}")),
    })
}

/// A Python that has PyTorch with Gloo.
fn torch(chosen: Option<&Path>) -> Result<Result<PathBuf, String>, Halt> {
    let pythons = match chosen {
        Some(python) => vec![python.to_owned()],
        None => find("python3")
            .into_iter()
            .chain([PathBuf::from("/usr/bin/python3")])
            .filter(|python| python.is_file())
            .collect(),
    };
    for python in &pythons {
        let mut attempt = Command::new(python);
        attempt.args(["-c", HAS_GLOO]);
        if run(attempt, "python", TRYING)?.trouble.is_none() {
            return Ok(Ok(python.clone()));
        }
    }
    let tried: Vec<_> = pythons
        .iter()
        .map(|python| python.display().to_string())
        .collect();
    Ok(Err(format!(
        "no Python with PyTorch and Gloo (tried: {}); --python names one",
        tried.join(", ")
    )))
}

/// Ends with exit code 1, in silence, where there is none.
const HAS_GLOO: &str = "\
import sys
try:
    import torch.distributed
except Exception:
    sys.exit(1)
sys.exit(not torch.distributed.is_gloo_available())";

fn burn_collective() -> Result<Result<PathBuf, String>, Halt> {
    let mut call = Call::new(["build", "--release", "--locked", "--manifest-path"]);
    call.arg(source("burn-collective/Cargo.toml"))
        .arg("--target-dir")
        .arg(built_folder()?.join("burn-collective"))
        .arg("--message-format=json-render-diagnostics");
    eprintln!("{call}");
    let ran = run(call.command(), "burn-collective", BUILDING)?;
    if let Some(trouble) = ran.trouble {
        return Ok(Err(format!("its build {trouble}")));
    }
    let messages = ran.lines.join("\n");
    let built = cargo::built_file(messages.as_bytes(), "bin", "burn-collective-peer");
    Ok(built.map_err(|error| error.to_string()))
}

/// The bench program that moves bytes over two TCP streams and does nothing else.
fn raw_tcp() -> Result<Result<PathBuf, String>, Halt> {
    match programs::build(&["raw_tcp"]) {
        Ok(mut files) => Ok(files.pop().ok_or_else(|| "it was not built".to_owned())),
        Err(Halt::Ended(_)) => Ok(Err("its build failed".to_owned())),
        Err(halt) => Err(halt),
    }
}

/// A file of `xtask/peers`.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(name)
}

/// `target/peers`: this program is target/PROFILE/xtask.
fn built_folder() -> Result<PathBuf, Error> {
    let this = env::current_exe().map_err(Error::system("find the target folder"))?;
    let target = this.parent().and_then(Path::parent).unwrap_or(&this);
    let folder = target.join("peers");
    fs::create_dir_all(&folder).map_err(Error::system("make target/peers"))?;
    Ok(folder)
}

/// The file of a program on the PATH.
fn find(program: &str) -> Result<PathBuf, String> {
    let file = Path::new(program).with_extension(env::consts::EXE_EXTENSION);
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(&file))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("`{program}` is not on the PATH"))
}

#[cfg(test)]
mod tests;
