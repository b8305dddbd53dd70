//! A program of the workspace: the features that its flags need, how it is built, and how it is started, once or by
//! `burn-dist run` as the processes of a job.

use crate::cargo::{self, Call};
use crate::error::Error;
use crate::machine::{Backend, Machine};
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Flags of the program, of which xtask reads those that decide what to build.
#[derive(Args, Clone, Debug)]
pub(crate) struct Passed {
    /// --nodes M: start M processes of the program, as on M machines [default: 1]. All other flags are the
    /// program's; --backend, --tls-* and --download also choose the features that it is built with
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FLAGS"
    )]
    pub(crate) flags: Vec<OsString>,
}

/// A program, and how to run it.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) package: &'static str,
    pub(crate) name: &'static str,
    /// Its arguments, without those that are for xtask.
    args: Vec<OsString>,
    /// Processes to start.
    nodes: u32,
    backend: Option<Backend>,
    features: Vec<&'static str>,
}

/// The package of the binary `burn-dist`, and the binary.
const CLI: (&str, &str) = ("burn-dist-cli", "burn-dist");

impl Program {
    /// The binary `mnist` of the examples.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for a wrong `--nodes` or `--backend`.
    pub(crate) fn mnist(passed: &Passed) -> Result<Self, Error> {
        Self::read("examples", "mnist", &[], &passed.flags)
    }

    /// A subcommand of the binary `burn-dist`.
    ///
    /// # Errors
    ///
    /// As [`mnist`](Self::mnist).
    pub(crate) fn cli(subcommand: &'static str, passed: &Passed) -> Result<Self, Error> {
        Self::read(CLI.0, CLI.1, &[subcommand], &passed.flags)
    }

    /// `burn-dist run`, which has flags of its own.
    pub(crate) fn launcher(passed: &Passed) -> Self {
        let args = std::iter::once("run".into()).chain(passed.flags.iter().cloned());
        Self {
            package: CLI.0,
            name: CLI.1,
            args: args.collect(),
            nodes: 1,
            backend: Some(Backend::Cpu),
            features: Vec::new(),
        }
    }

    fn read(
        package: &'static str,
        name: &'static str,
        first: &[&str],
        flags: &[OsString],
    ) -> Result<Self, Error> {
        let mut program = Self {
            package,
            name,
            args: first.iter().map(Into::into).collect(),
            nodes: 1,
            backend: None,
            features: Vec::new(),
        };
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            let text = flag.to_string_lossy();
            let (name, joined) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (&*text, None),
            };
            let mut value = || {
                let next = || {
                    flags
                        .next()
                        .map(|value| value.to_string_lossy().into_owned())
                };
                joined.clone().or_else(next).unwrap_or_default()
            };
            match name {
                "--" => {
                    program.args.push(flag.clone());
                    program.args.extend(flags.cloned());
                    break;
                }
                "--nodes" => {
                    program.nodes = nodes(&value())?;
                    continue;
                }
                "--backend" => {
                    let value = value();
                    program.backend = backend(&value)?;
                    program.args.extend(["--backend".into(), value.into()]);
                    continue;
                }
                "--download" => program.feature("download"),
                tls if tls.starts_with("--tls-") => program.feature("tls"),
                _ => {}
            }
            program.args.push(flag.clone());
        }
        Ok(program)
    }

    fn feature(&mut self, feature: &'static str) {
        if !self.features.contains(&feature) {
            self.features.push(feature);
        }
    }

    /// Builds the program and lets it take over; for more than one node, lets `burn-dist run` take over, which
    /// starts so many processes of it.
    ///
    /// # Errors
    ///
    /// If cargo or a program can't be started.
    pub(crate) fn run(&self) -> Result<ExitCode, Error> {
        let backend = self
            .backend
            .unwrap_or_else(|| Machine::observe().best_backend());
        if self.nodes == 1 {
            let call = self.call(backend);
            eprintln!("{call}");
            return call.hand_over();
        }

        let build = self.build_call(backend);
        eprintln!("{build}");
        let output = build.read()?;
        if !output.status.success() {
            return Ok(cargo::exit_code(output.status));
        }
        let launcher = cargo::built_file(&output.stdout, "bin", CLI.1)?;
        let program = cargo::built_file(&output.stdout, "bin", self.name)?;
        eprintln!(
            "{} processes of {}, their output with their numbers",
            self.nodes,
            program.display()
        );
        cargo::hand_over(self.launch(launcher, program))
    }

    /// The call of cargo that builds the program for `backend` and runs it with its arguments.
    fn call(&self, backend: Backend) -> Call {
        let mut call = Call::new(["run"]);
        self.choose(&mut call, &[(self.package, self.name)], backend);
        call.arg("--");
        for arg in &self.args {
            call.arg(arg);
        }
        call
    }

    /// The call of cargo that builds the same program and `burn-dist` at once, so that Burn is built with one set
    /// of features, and tells where they are.
    fn build_call(&self, backend: Backend) -> Call {
        let mut call = Call::new(["build"]);
        let mut programs = vec![(self.package, self.name)];
        if self.name != CLI.1 {
            programs.push(CLI);
        }
        self.choose(&mut call, &programs, backend);
        call.arg("--message-format=json-render-diagnostics");
        call
    }

    /// The command that starts the processes.
    fn launch(&self, launcher: PathBuf, program: PathBuf) -> Command {
        let mut command = Command::new(launcher);
        command
            .args(["run", "--nproc-per-node", &self.nodes.to_string(), "--"])
            .arg(program)
            .args(&self.args);
        command
    }

    /// Names the programs and their features.
    fn choose(&self, call: &mut Call, programs: &[(&str, &str)], backend: Backend) {
        call.arg("--release");
        for (package, name) in programs {
            for arg in ["--package", package, "--bin", name] {
                call.arg(arg);
            }
        }
        // The CPU backend is always built: replicas fall back to it.
        let mut features = vec!["flex"];
        match backend {
            Backend::Cuda => features.push("cuda"),
            Backend::Wgpu => features.push("wgpu"),
            Backend::Cpu => {}
        }
        features.extend(&self.features);
        let of = |(package, _): &(&str, &str)| {
            // Only the examples load data.
            let shared = features
                .iter()
                .filter(|one| **one != "download" || *package == "examples");
            shared
                .map(|one| format!("{package}/{one}"))
                .collect::<Vec<_>>()
        };
        let features: Vec<_> = programs.iter().flat_map(of).collect();
        call.arg("--no-default-features")
            .arg("--features")
            .arg(features.join(","));
    }
}

fn nodes(value: &str) -> Result<u32, Error> {
    let count = value
        .parse()
        .ok()
        .filter(|count| (1..=1024).contains(count));
    count.ok_or_else(|| {
        Error::Usage(format!(
            "--nodes is {value:?}: expected a number from 1 to 1024"
        ))
    })
}

/// The backend to build; none if the machine decides.
fn backend(value: &str) -> Result<Option<Backend>, Error> {
    match value {
        "auto" => Ok(None),
        "cuda" => Ok(Some(Backend::Cuda)),
        "wgpu" => Ok(Some(Backend::Wgpu)),
        "cpu" => Ok(Some(Backend::Cpu)),
        _ => Err(Error::Usage(format!(
            "--backend is {value:?}: expected auto, cuda, wgpu or cpu"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mnist(flags: &str) -> Program {
        let flags = flags.split_whitespace().map(Into::into).collect();
        Program::mnist(&Passed { flags }).unwrap()
    }

    #[test]
    fn all_flags_but_nodes_reach_the_program() {
        let call = mnist("--epochs 2 --nodes 3 --backend cpu --gpus=4 --resume").call(Backend::Cpu);
        let expected = "cargo run --release --package examples --bin mnist --no-default-features \
                        --features examples/flex -- --epochs 2 --backend cpu --gpus=4 --resume";
        assert_eq!(call.to_string(), expected);
        let doctor = Passed {
            flags: vec!["--gpus".into(), "2".into()],
        };
        let call = Program::cli("doctor", &doctor).unwrap().call(Backend::Wgpu);
        let expected = "cargo run --release --package burn-dist-cli --bin burn-dist --no-default-features \
                        --features burn-dist-cli/flex,burn-dist-cli/wgpu -- doctor --gpus 2";
        assert_eq!(call.to_string(), expected);
    }

    #[test]
    fn features_follow_the_flags() {
        let features = |flags: &str, backend| {
            let call = mnist(flags).build_call(backend).to_string();
            let (_, after) = call.split_once("--features ").unwrap();
            after.split_once(' ').unwrap().0.to_owned()
        };
        let cuda = "examples/flex,examples/cuda,burn-dist-cli/flex,burn-dist-cli/cuda";
        assert_eq!(features("", Backend::Cuda), cuda);
        let download = "examples/flex,examples/download,burn-dist-cli/flex";
        assert_eq!(features("--download", Backend::Cpu), download);
        let tls = "examples/flex,examples/tls,burn-dist-cli/flex,burn-dist-cli/tls";
        assert_eq!(features("--tls-cert c --tls-key=k", Backend::Cpu), tls);
    }

    #[test]
    fn several_nodes_are_launched_with_the_same_arguments() {
        let program = mnist("--nodes=3 --gpus 2 -- --nodes 4");
        let command = program.launch("burn-dist".into(), "mnist".into());
        assert_eq!(command.get_program(), "burn-dist");
        let args: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_str().unwrap())
            .collect();
        let expected = "run --nproc-per-node 3 -- mnist --gpus 2 -- --nodes 4";
        assert_eq!(args.join(" "), expected);
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for wrong in [
            "--nodes 0",
            "--nodes -1",
            "--nodes 1025",
            "--nodes",
            "--backend tpu",
            "--backend",
        ] {
            let flags = wrong.split(' ').map(Into::into).collect();
            let error = Program::mnist(&Passed { flags }).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{wrong}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn paths_need_not_be_utf_8() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec(vec![b'a', 0xFF]);
        let flags = vec!["--report".into(), path.clone()];
        assert!(
            Program::mnist(&Passed { flags })
                .unwrap()
                .args
                .contains(&path)
        );
    }
}
