//! A launcher whose program is a shell script, and a look at the processes of the system.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time of anything on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Time that the launcher gives processes to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// `burn-dist run` with a script as the program, in a folder of its own.
pub(crate) struct Launch {
    pub(crate) folder: TempDir,
    pub(crate) command: Command,
}

impl Launch {
    pub(crate) fn new(processes: usize, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("script"), script).unwrap();
        Self::of(folder, &["--nproc-per-node", &processes.to_string()])
    }

    /// A launcher with these flags, of the file `script` of the folder.
    pub(crate) fn of(folder: TempDir, flags: &[&str]) -> Self {
        let mut command = burn_dist();
        command
            .arg("run")
            .args(flags)
            .args(["--", "/bin/sh", "script", "an argument"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(folder.path());
        Self { folder, command }
    }

    pub(crate) fn output(&mut self) -> Output {
        self.command.output().unwrap()
    }

    pub(crate) fn start(&mut self) -> Running {
        Running(Some(self.command.spawn().unwrap()))
    }

    /// Waits until the file is there with a whole line, and gives that.
    pub(crate) fn wait_for(&self, file: &str) -> String {
        wait_for_line(&self.folder.path().join(file))
    }

    /// The pids in the files, once they are there.
    pub(crate) fn pids(&self, files: &[&str]) -> Vec<u32> {
        let pid = |file: &&str| self.wait_for(file).parse().unwrap();
        files.iter().map(pid).collect()
    }
}

/// The program, with nothing in its environment that says that it belongs to a job.
pub(crate) fn burn_dist() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn-dist"));
    for name in [
        "BURN_DIST_SECRET",
        "BURN_DIST_SECRET_FILE",
        "MASTER_PORT",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command
}

/// A launcher; a test that fails ends it.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Its guard ends the processes.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn wait_for_line(path: &Path) -> String {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(line) = text.strip_suffix('\n') {
            return line.to_owned();
        }
        assert!(start.elapsed() < PATIENCE, "{} never came", path.display());
        sleep(Duration::from_millis(5));
    }
}

/// True if the process runs; a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    let state = Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(state.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// Writes a script that can be run as `./program` in the folder.
pub(crate) fn make_program(folder: &Path, script: &str) {
    let path = folder.join("program");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits until the processes are gone: the kernel ends them a moment after the launcher.
pub(crate) fn assert_soon_gone(pids: &[u32]) {
    let start = Instant::now();
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(start.elapsed() < PATIENCE, "left behind: {pids:?}");
        sleep(Duration::from_millis(10));
    }
}

pub(crate) fn assert_gone(pids: &[u32]) {
    for pid in pids {
        assert!(!runs(*pid), "left behind: {pid} of {pids:?}");
    }
}

/// The pids of the processes in the group of this one.
pub(crate) fn group_of(pid: u32) -> Vec<u32> {
    let table = Command::new("ps")
        .args(["-A", "-o", "pid=,pgid="])
        .output()
        .unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let rows: Vec<(u32, u32)> = table
        .lines()
        .filter_map(|row| {
            let mut numbers = row.split_whitespace().map(|number| number.parse().unwrap());
            Some((numbers.next()?, numbers.next()?))
        })
        .collect();
    let group = rows.iter().find(|row| row.0 == pid).unwrap().1;
    rows.iter()
        .filter(|row| row.1 == group)
        .map(|row| row.0)
        .collect()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
