//! Runs of the `mnist` program on a few made-up digits, and what they leave.
#![allow(dead_code, reason = "each test uses a part")]

#[path = "digits.rs"]
mod digits;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// 45 digits are 6 steps of two ranks with 4 each, and these are the epochs.
pub(crate) const EPOCHS: &str = "2";
pub(crate) const STEPS: u64 = 12;

/// Longer than any step takes.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// A folder with a data set, and what runs leave.
pub(crate) struct Place(TempDir);

/// Results that must be equal however a run came to its end.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) parameters: String,
    test_accuracy: f64,
    /// Number, samples, loss and accuracy of each epoch.
    epochs: Vec<String>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        digits::write(folder.path(), 45);
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run with this output folder.
    pub(crate) fn run(&self, output: &str, gpus: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mnist"));
        command
            .args(["--backend", "cpu", "--batch-size", "4", "--epochs", EPOCHS])
            .args(["--gpus", gpus, "--data-dir"])
            .arg(self.0.path())
            .arg("--output")
            .arg(self.path(output))
            .arg("--report")
            .arg(self.path(output).join("report.json"))
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A run of two threads with checkpoints.
    pub(crate) fn saving(&self, folder: &Path, every: u64, keep: u32) -> Command {
        let mut command = self.run("saving", "2");
        command.arg("--checkpoint").arg(folder);
        command.args(["--checkpoint-every", &every.to_string()]);
        command.args(["--keep", &keep.to_string()]);
        command
    }

    pub(crate) fn outcome(&self, output: &str) -> Outcome {
        let folder = self.path(output);
        let report = std::fs::read(folder.join("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        let metrics = std::fs::read_to_string(folder.join("metrics.csv")).unwrap();
        let epochs = metrics.lines().skip(1).map(|line| {
            let figures: Vec<&str> = line.split(',').take(4).collect();
            figures.join(",")
        });
        Outcome {
            parameters: report["parameters_sha256"].as_str().unwrap().to_owned(),
            test_accuracy: report["test_accuracy"].as_f64().unwrap(),
            epochs: epochs.collect(),
        }
    }

    /// Returns the outcome of a run without checkpoints.
    pub(crate) fn uninterrupted(&self) -> Outcome {
        succeed(self.run("uninterrupted", "2"));
        self.outcome("uninterrupted")
    }
}

/// Runs a command that must succeed. Returns its standard output and error.
#[track_caller]
pub(crate) fn succeed(mut command: Command) -> [String; 2] {
    let output = command.output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said:?}");
    said
}

pub(crate) fn said(output: &Output) -> [String; 2] {
    [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned())
}

pub(crate) fn checkpoint(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:012}"))
}

/// Makes the commands those of the processes of one job.
pub(crate) fn job<const N: usize>(commands: [Command; N]) -> [Command; N] {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let mut process = 0;
    commands.map(|mut command| {
        command
            .env("RANK", process.to_string())
            .env("WORLD_SIZE", N.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env("BURN_DIST_SECRET", "the secret of all");
        process += 1;
        command
    })
}

/// A small disk, which is gone when this is dropped.
pub(crate) struct SmallDisk(pub(crate) PathBuf);
impl SmallDisk {
    /// Or says why this machine does not let us.
    pub(crate) fn new(at: PathBuf, megabytes: u32) -> Result<Self, String> {
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "none"]).arg(&at);
        let output = mount.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(Self(at))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
