//! The process that a job consists of: joins, does its role's work as every rank, tells the outcome.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use burn::tensor::Device;
use burn_dist::launch::{Launcher, Worker};
use burn_dist::{JobConfig, Secret, Tls};

use crate::{collectives, faults, mismatches, records, restarts};

/// Tells a process of a job its [`Place`].
pub(crate) const VARIABLE: &str = "BURN_DIST_TEST_PLACE";
/// Prefix of lines that are meant for the test.
pub(crate) const MARK: &str = "@@ ";

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Settings of one process of a job.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) role: String,
    pub(crate) process: usize,
    pub(crate) processes: usize,
    /// True if the job encrypts.
    pub(crate) tls: bool,
    pub(crate) ranks: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) join_timeout: Duration,
    pub(crate) master: String,
    pub(crate) address_file: PathBuf,
}

impl Place {
    /// As a line, with the path last, for it may hold spaces.
    pub(crate) fn to_line(&self) -> String {
        let (heartbeat, join) = (self.heartbeat.as_millis(), self.join_timeout.as_millis());
        format!(
            "{} {} {} {} {} {heartbeat} {join} {} {}",
            self.role,
            self.process,
            self.processes,
            self.tls,
            self.ranks,
            self.master,
            self.address_file.display()
        )
    }

    /// That of this process.
    pub(crate) fn here() -> Option<Self> {
        let line = std::env::var(VARIABLE).ok()?;
        Some(Self::from_line(&line))
    }

    fn from_line(line: &str) -> Self {
        let mut words = line.splitn(9, ' ');
        let mut word = || words.next().unwrap();
        Self {
            role: word().to_owned(),
            process: word().parse().unwrap(),
            processes: word().parse().unwrap(),
            tls: word().parse().unwrap(),
            ranks: word().parse().unwrap(),
            heartbeat: Duration::from_millis(word().parse().unwrap()),
            join_timeout: Duration::from_millis(word().parse().unwrap()),
            master: word().to_owned(),
            address_file: word().into(),
        }
    }

    /// Returns the directory of the job's records, beside the file with its address.
    fn records(&self) -> PathBuf {
        self.address_file.with_file_name("records")
    }

    fn job(&self) -> JobConfig {
        let mut job = JobConfig::new(self.process, self.processes, &self.master)
            .with_secret(Secret::new(SECRET))
            .with_heartbeat(self.heartbeat)
            .with_join_timeout(self.join_timeout);
        if self.tls {
            let file = |name| format!("{CERTIFICATES}/{name}");
            let tls = Tls::from_files(file("member.pem"), file("member.key"), file("ca.pem"));
            job = job.with_tls(tls.unwrap());
        }
        if self.master.ends_with(":0") {
            job.with_address_file(&self.address_file)
        } else {
            job
        }
    }
}

/// Writes a line for the test, whatever stands on the line before it.
pub(crate) fn tell(text: impl Display) {
    println!("\n{MARK}{text}");
}

/// Tells what the library logs, and writes it where errors go.
fn tell_events() {
    struct Line;
    impl Write for Line {
        /// Called with one whole event.
        fn write(&mut self, event: &[u8]) -> io::Result<usize> {
            tell(String::from_utf8_lossy(event).trim_end());
            // Whole there, too, where it has several lines.
            io::stderr().write_all(event)?;
            Ok(event.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(|| Line)
        .init();
}

/// Not a test of its own: a process of a job.
#[test]
fn worker_process() {
    let Some(place) = Place::here() else {
        return;
    };
    tell_events();
    let work = match place.role.as_str() {
        "collectives" => collectives::work,
        "mismatches" => mismatches::work,
        "loop" => faults::go_on_for_ever,
        "panic" => faults::panic_once,
        "fail" => faults::fail_once,
        "abort" => faults::abort_once,
        "small" => restarts::work,
        "hang" => records::hang,
        #[cfg(target_os = "linux")]
        "attacked" => crate::strangers::work,
        #[cfg(target_os = "linux")]
        "sums" => crate::many::sum_for_ever,
        #[cfg(target_os = "linux")]
        "threads" => crate::many::count_threads,
        #[cfg(target_os = "linux")]
        "machines" => crate::namespaces::work,
        other => panic!("there is no role {other}"),
    };
    let body = |worker: Worker| -> Result<(), Failure> {
        let outcome = work(&worker);
        if let Err(error) = &outcome {
            tell(format_args!("rank {}: {error}", worker.rank()));
        }
        outcome
    };
    let device = Device::flex().autodiff();
    let outcome = Launcher::new(vec![device; place.ranks])
        .with_threads_per_replica(1)
        .with_timeout(Duration::from_mins(1))
        .with_job(place.job())
        .with_records(place.records())
        .run(body);
    match outcome {
        Ok(_) => tell("done"),
        Err(error) => tell(format_args!("failed: {error}")),
    }
}
