//! A program of the examples: the features that its backend needs, how it is built, and how it is started,
//! once or as the processes of a job.
//!
//! Callers: `train_mnist`, `doctor`.

use crate::cargo::{self, Call};
use crate::error::Error;
use crate::interface;
use crate::job_options::{self, JobOptions};
use crate::launch::Launch;
use crate::machine::{Backend, Machine};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::ExitCode;

/// A program, and how to run it.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// Its name among those of the examples.
    pub(crate) name: &'static str,
    /// The flags that all programs have.
    pub(crate) job: &'a JobOptions,
    /// Features that it needs beside those for its backend and for TLS.
    pub(crate) features: &'a [&'static str],
    /// Its flags beside those of all programs.
    pub(crate) flags: Vec<OsString>,
}

impl Program<'_> {
    /// Builds the program and lets it take over; or, for more than one node, launches so many processes of
    /// it, which meet at the port (a free one if none).
    ///
    /// # Errors
    ///
    /// When there is no interface as the flags say, or cargo or the program cannot be started.
    pub(crate) fn run(&self, nodes: u32, port: Option<u16>) -> Result<ExitCode, Error> {
        let address = match &self.job.interface {
            Some(name) => interface::find(name)?,
            None => Ipv4Addr::LOCALHOST.into(),
        };
        let backend = to_build(self.job.backend, Machine::observe);
        if nodes == 1 {
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
        let program = cargo::built_file(&output.stdout, "bin", self.name)?;
        eprintln!(
            "{nodes} processes of {}, their output with their numbers",
            program.display()
        );
        Launch {
            program: program.as_os_str(),
            args: &self.all_flags(),
            nodes,
            devices: self.job.gpus,
            address,
            port,
        }
        .run()
    }

    /// The call of cargo that builds the program for `backend` and runs it with the flags.
    pub(crate) fn call(&self, backend: Backend) -> Call {
        let mut call = Call::new(["run"]);
        self.choose(&mut call, backend);
        call.arg("--");
        for flag in self.all_flags() {
            call.arg(flag);
        }
        call
    }

    /// The call of cargo that builds the same program, and tells where it is.
    pub(crate) fn build_call(&self, backend: Backend) -> Call {
        let mut call = Call::new(["build"]);
        self.choose(&mut call, backend);
        call.arg("--message-format=json-render-diagnostics");
        call
    }

    /// Names the program and its features.
    fn choose(&self, call: &mut Call, backend: Backend) {
        // The CPU backend is always built: replicas fall back to it.
        let mut features = vec!["flex"];
        match backend {
            Backend::Cuda => features.push("cuda"),
            Backend::Wgpu => features.push("wgpu"),
            Backend::Cpu => {}
        }
        features.extend(self.features);
        if self.job.tls.is_some() {
            features.push("tls");
        }
        for arg in ["--release", "--package", "examples", "--bin", self.name] {
            call.arg(arg);
        }
        call.arg("--no-default-features")
            .arg("--features")
            .arg(features.join(","));
    }

    fn all_flags(&self) -> Vec<OsString> {
        let mut flags = self.job.flags();
        flags.extend_from_slice(&self.flags);
        flags
    }
}

/// The backend to build. `auto` looks at the machine.
pub(crate) fn to_build(
    backend: job_options::Backend,
    machine: impl FnOnce() -> Machine,
) -> Backend {
    match backend {
        job_options::Backend::Auto => machine().best_backend(),
        job_options::Backend::Cuda => Backend::Cuda,
        job_options::Backend::Wgpu => Backend::Wgpu,
        job_options::Backend::Cpu => Backend::Cpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::System;
    use clap::ValueEnum;

    #[test]
    fn only_auto_looks_at_the_machine() {
        let with_nvidia = || Machine {
            system: System::Linux,
            cuda_library: true,
            nvidia_device: true,
            render_drivers: Vec::new(),
            vulkan_loader: false,
        };
        let auto = job_options::Backend::Auto;
        assert_eq!(to_build(auto, with_nvidia), Backend::Cuda);
        let never = || panic!("looked at the machine");
        for (asked, built) in [
            (job_options::Backend::Cuda, Backend::Cuda),
            (job_options::Backend::Wgpu, Backend::Wgpu),
            (job_options::Backend::Cpu, Backend::Cpu),
        ] {
            assert_eq!(to_build(asked, never), built);
        }
    }

    #[test]
    fn backend_names_are_those_of_the_command_line() {
        for backend in job_options::Backend::value_variants() {
            let options = JobOptions {
                gpus: 1,
                backend: *backend,
                oversubscribe: false,
                interface: None,
                job: None,
                join_timeout: None,
                heartbeat: None,
                collective_timeout: None,
                tls: None,
            };
            let name = backend.to_possible_value().unwrap();
            assert_eq!(options.flags()[1], name.get_name());
        }
    }
}
