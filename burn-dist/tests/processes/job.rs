//! A job as its test sees it: its processes, what they tell, when they end.
//!
//! Threads: one reader for each process, which passes lines on and ends with the process's output, that
//! is, with the process. A job that is dropped has killed and awaited its processes and joined its
//! readers, so none is left behind by a test that fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
#[cfg(target_os = "linux")]
use std::path::Path;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::worker::{MARK, Place, VARIABLE};

/// Deadline of everything, also on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Settings of a job.
pub(crate) struct Plan {
    role: &'static str,
    ranks: Vec<usize>,
    tls: bool,
    absent: Option<usize>,
    heartbeat: Duration,
    join_timeout: Duration,
    master: String,
    namespaces: Vec<String>,
}

impl Plan {
    /// A job in which process `p` brings `ranks[p]` ranks. Its heartbeat is so long that a test of
    /// something else does not depend on it.
    pub(crate) fn new(role: &'static str, ranks: &[usize]) -> Self {
        Self {
            role,
            ranks: ranks.to_vec(),
            tls: false,
            absent: None,
            heartbeat: Duration::from_secs(30),
            join_timeout: PATIENCE,
            // The system chooses a port, and a file tells it.
            master: "127.0.0.1:0".to_owned(),
            namespaces: Vec::new(),
        }
    }

    /// Does not start this process.
    pub(crate) fn without(mut self, process: usize) -> Self {
        self.absent = Some(process);
        self
    }

    pub(crate) fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    pub(crate) fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    pub(crate) fn master(mut self, address: impl Into<String>) -> Self {
        self.master = address.into();
        self
    }

    /// Encrypts what the processes send one another.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Starts process `p` in the network namespace `names[p]`.
    #[cfg(target_os = "linux")]
    pub(crate) fn namespaces(mut self, names: &[String]) -> Self {
        self.namespaces = names.to_vec();
        self
    }

    pub(crate) fn start(self) -> Job {
        let (sender, events) = channel();
        let (all, absent) = (0..self.ranks.len(), self.absent);
        let mut job = Job {
            plan: self,
            folder: tempfile::tempdir().unwrap(),
            processes: BTreeMap::new(),
            sender,
            events,
        };
        all.filter(|&process| absent != Some(process))
            .for_each(|process| job.start_process(process));
        job
    }

    /// Starts the job and waits until all its processes have ended well; gives what they told.
    #[track_caller]
    pub(crate) fn run(self) -> Vec<String> {
        let mut job = self.start();
        job.wait_for_all();
        let told: Vec<_> = job.all_told().cloned().collect();
        let done = told.iter().filter(|line| *line == "done").count();
        assert_eq!(done, job.processes.len(), "{}", job.report());
        told
    }
}

/// This program, in a network namespace if one is given.
fn program(namespace: Option<&String>) -> Command {
    let this = std::env::current_exe().unwrap();
    let Some(namespace) = namespace else {
        return Command::new(this);
    };
    // `ip` becomes the program, so that the child's number is the program's.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(this);
    command
}

enum Event {
    Told(usize, Instant, String),
    Ended(usize, Instant),
}

fn read(process: usize, output: ChildStdout, events: &Sender<Event>) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        if let Some(told) = line.strip_prefix(MARK) {
            // A job that is dropped listens no more.
            let _ = events.send(Event::Told(process, Instant::now(), told.to_owned()));
        }
    }
    let _ = events.send(Event::Ended(process, Instant::now()));
}

struct Process {
    child: Child,
    reader: Option<JoinHandle<()>>,
    told: Vec<(Instant, String)>,
    /// Time at which its output ended; by then it has been awaited.
    ended: Option<Instant>,
}

pub(crate) struct Job {
    plan: Plan,
    folder: TempDir,
    processes: BTreeMap<usize, Process>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Job {
    /// Starts a process that was absent so far.
    pub(crate) fn start_process(&mut self, process: usize) {
        let plan = &self.plan;
        let place = Place {
            role: plan.role.to_owned(),
            process,
            processes: plan.ranks.len(),
            tls: plan.tls,
            ranks: plan.ranks[process],
            heartbeat: plan.heartbeat,
            join_timeout: plan.join_timeout,
            master: plan.master.clone(),
            address_file: self.folder.path().join("address"),
        };
        let complaints = File::create(self.complaints(process)).unwrap();
        let mut child = program(plan.namespaces.get(process))
            .args(["--exact", "worker::worker_process", "--nocapture"])
            .env(VARIABLE, place.to_line())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let sender = self.sender.clone();
        let reader = thread::spawn(move || read(process, output, &sender));
        let process_of_job = Process {
            child,
            reader: Some(reader),
            told: Vec::new(),
            ended: None,
        };
        self.processes.insert(process, process_of_job);
    }

    /// The number that the system knows a process by.
    #[cfg(target_os = "linux")]
    pub(crate) fn system_id(&self, process: usize) -> u32 {
        self.processes[&process].child.id()
    }

    /// Returns the directory of the files that the test gives to processes.
    #[cfg(target_os = "linux")]
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until a process has told a line that begins so; gives the time.
    #[track_caller]
    pub(crate) fn wait_until_told(&mut self, process: usize, start: &str) -> Instant {
        self.wait_for_line(process, start, |line| line.starts_with(start))
    }

    /// Waits until a process has told a line with these words.
    #[track_caller]
    pub(crate) fn wait_until_told_with(&mut self, process: usize, words: &str) -> Instant {
        self.wait_for_line(process, words, |line| line.contains(words))
    }

    #[track_caller]
    fn wait_for_line(
        &mut self,
        process: usize,
        what: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let process_of_job = &self.processes[&process];
            let told = process_of_job.told.iter();
            if let Some((time, _)) = told.clone().find(|(_, line)| fits(line)) {
                return *time;
            }
            assert!(
                process_of_job.ended.is_none() && self.take_event(deadline),
                "process {process} did not tell {what:?}\n{}",
                self.report()
            );
        }
    }

    /// Waits until these processes have ended by themselves; gives the time when the last one did.
    #[track_caller]
    pub(crate) fn wait_for_ends(&mut self, processes: &[usize]) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ends = processes
                .iter()
                .map(|process| self.processes[process].ended);
            if let Some(ends) = ends.collect::<Option<Vec<_>>>() {
                return ends.into_iter().max().unwrap();
            }
            assert!(
                self.take_event(deadline),
                "processes {processes:?} did not end\n{}",
                self.report()
            );
        }
    }

    #[track_caller]
    pub(crate) fn wait_for_all(&mut self) -> Instant {
        let all: Vec<_> = self.processes.keys().copied().collect();
        self.wait_for_ends(&all)
    }

    /// Sends a signal to a process that has not ended.
    pub(crate) fn signal(&self, process: usize, signal: Signal) {
        // It was not awaited yet, so its number is still its own.
        kill_process(Pid::from_child(&self.processes[&process].child), signal).unwrap();
    }

    /// Returns the lines that a process reported.
    pub(crate) fn told(&self, process: usize) -> impl Iterator<Item = &String> {
        self.processes[&process].told.iter().map(|(_, line)| line)
    }

    pub(crate) fn all_told(&self) -> impl Iterator<Item = &String> {
        self.processes
            .keys()
            .flat_map(|&process| self.told(process))
    }

    /// The folder for the records of the job's ranks.
    pub(crate) fn records(&self) -> PathBuf {
        self.folder.path().join("records")
    }

    /// Returns the standard error of a process.
    pub(crate) fn errors_of(&self, process: usize) -> String {
        fs::read_to_string(self.complaints(process)).unwrap_or_default()
    }

    /// All that is known, for a test that fails.
    pub(crate) fn report(&self) -> String {
        let mut report = String::new();
        for (process, of_job) in &self.processes {
            let complaints = self.errors_of(*process);
            let (told, ended) = (&of_job.told, of_job.ended);
            let lines = format!("process {process}: {told:#?}, ended {ended:?}\n{complaints}\n");
            report.push_str(&lines);
        }
        report
    }

    /// Takes one event; false if none comes in time.
    fn take_event(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(Event::Told(process, time, line)) => {
                let process = self.processes.get_mut(&process).unwrap();
                process.told.push((time, line));
            }
            Ok(Event::Ended(process, time)) => {
                let process = self.processes.get_mut(&process).unwrap();
                process.child.wait().unwrap();
                process.ended = Some(time);
            }
            Err(_) => return false,
        }
        true
    }

    /// The file with the standard error of a process.
    fn complaints(&self, process: usize) -> PathBuf {
        self.folder.path().join(format!("stderr{process}"))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            // It may have ended already.
            let _ = process.child.kill();
            let waited = process.child.wait();
            let read = process.reader.take().map(JoinHandle::join);
            if !thread::panicking() {
                waited.unwrap();
                read.unwrap().unwrap();
            }
        }
    }
}
