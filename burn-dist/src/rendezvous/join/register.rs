//! The list of a job's processes, as the store holds it.
//!
//! | key | value |
//! |---|---|
//! | `heartbeat` | process 0's heartbeat, which is the job's |
//! | `options` | the options that process 0 declares |
//! | `crossovers` | process 0's sizes at which collectives change their algorithm, which are the job's |
//! | `job` | the job's number and size, set by process 0 after it |
//! | `process/N` | the entry of process N, by whoever was first |
//! | `entered` | how many have entered themselves |
//! | `list/N` | a part of the finished list |
//! | `verdict` | how it ended, set once |
//! | `gone` | the first process that ended without having left, set by the server |
//! | `came`, `read` | how many connected, and how many of them know the verdict |

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::records::{Entered, JobRecord, ProcessRecord, Verdict, decode, encode, failure};
use super::{MAX_RANKS, REMIND_AFTER};
use crate::error::JoinFailure;
use crate::rendezvous::config::JobConfig;
use crate::rendezvous::crossovers::Crossovers;
use crate::rendezvous::options::{Options, summary};
use crate::rendezvous::store::{StoreClient, StoreError, Swap};

/// Entries of a part of the list, so that it stays a small value.
const ENTRIES_PER_PART: usize = 512;
/// Longest wait of one request for the verdict. The server reads nothing of a connection meanwhile, so it also bounds
/// how late the server notices that a process is gone.
const VERDICT_POLL: Duration = Duration::from_millis(500);
/// Time that process 0 stays for the others to read why joining failed.
const LINGER: Duration = Duration::from_secs(2);
/// Time that it stays if others may still connect.
const LINGER_FOR_ALL: Duration = Duration::from_secs(5);
/// Time between two checks if they have.
const LINGER_POLL: Duration = Duration::from_millis(10);
/// Most characters of a reason that is told to the others.
const MAX_REASON: usize = 2000;

/// The list, when all have come.
pub(super) struct List {
    pub(super) job: [u8; 16],
    pub(super) ranks: Vec<usize>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) heartbeat: Duration,
    pub(super) crossovers: Crossovers,
}

/// A process that enters itself.
pub(super) struct Entry<'c> {
    config: &'c JobConfig,
    process: usize,
    processes: usize,
    member: ProcessRecord,
}

impl<'c> Entry<'c> {
    pub(super) fn new(config: &'c JobConfig, ranks: usize, address: SocketAddr) -> Self {
        Self {
            process: config.process(),
            processes: config.processes(),
            config,
            member: ProcessRecord {
                ranks,
                address,
                system_id: std::process::id(),
            },
        }
    }

    /// Enters this process and waits for all others.
    pub(super) fn register(
        &self,
        store: &mut StoreClient,
        started: Instant,
        deadline: Instant,
    ) -> Result<List, JoinFailure> {
        let job = self.job(store, started, deadline)?;
        if let Some(verdict) = self.enter(store, &job)? {
            // The others fail with this as well, unless they have failed already; and if they are gone,
            // it is no less true here.
            let _ = publish(store, &verdict).and_then(|_| tell_read(store));
            return Err(failure(verdict));
        }
        let entered = store.add("entered", 1)?;
        tracing::info!(
            process = self.process,
            address = %self.member.address,
            "entered the job, in which {entered} of {} processes are now", self.processes
        );
        if entered == self.processes as i64 {
            self.complete(store)?;
        }
        let verdict = self.verdict(store, started, deadline)?;
        if matches!(verdict, Verdict::Complete) {
            return self.list(store, &job);
        }
        // Process 0 may leave as soon as it knows, even before this is answered.
        let _ = tell_read(store);
        Err(failure(verdict))
    }

    /// The job's number and size; process 0 decides them.
    fn job(
        &self,
        store: &mut StoreClient,
        started: Instant,
        deadline: Instant,
    ) -> Result<JobRecord, JoinFailure> {
        if self.process == 0 {
            return found(store, self.config);
        }
        match store.wait("job", deadline) {
            Ok(bytes) => decode(&bytes),
            Err(StoreError::Late(_)) => Err(failure(self.missing(vec![0], started))),
            Err(error) => Err(error.into()),
        }
    }

    /// Enters this process; a verdict if that can't be.
    fn enter(
        &self,
        store: &mut StoreClient,
        job: &JobRecord,
    ) -> Result<Option<Verdict>, JoinFailure> {
        if job.processes != self.processes {
            return Ok(Some(Verdict::WorldSize {
                process: self.process,
                told: self.processes,
                processes: job.processes,
            }));
        }
        let options = store.get("options")?;
        let options: Options = decode(&options.unwrap_or_default())?;
        let entry = encode(&Entered {
            member: self.member.clone(),
            differences: self.config.options().differences(&options),
        })?;
        match store.compare_and_set(&key(self.process), None, &entry)? {
            Swap::Done => Ok(None),
            Swap::Differs(first) => {
                let first: Entered = decode(&first.unwrap_or_default())?;
                Ok(Some(Verdict::Duplicate {
                    process: self.process,
                    first: first.member.to_string(),
                    second: self.member.to_string(),
                }))
            }
        }
    }

    /// Writes the finished list, unless options differ; done by whoever came last.
    fn complete(&self, store: &mut StoreClient) -> Result<(), JoinFailure> {
        let mut members: Vec<ProcessRecord> = Vec::with_capacity(self.processes);
        let mut differences = Vec::with_capacity(self.processes);
        for process in 0..self.processes {
            let entry = store.get(&key(process))?;
            let entered: Entered = decode(&entry.unwrap_or_default())?;
            members.push(entered.member);
            differences.push(entered.differences);
        }
        let differing = summary(&differences);
        if !differing.is_empty() {
            return publish(store, &Verdict::Options(differing)).map(drop);
        }
        for (part, members) in members.chunks(ENTRIES_PER_PART).enumerate() {
            let bytes = encode(&members)?;
            store.set(&part_key(part), &bytes)?;
        }
        publish(store, &Verdict::Complete).map(drop)
    }

    /// Waits for the verdict; whoever waits longest in vain gives it.
    fn verdict(
        &self,
        store: &mut StoreClient,
        started: Instant,
        deadline: Instant,
    ) -> Result<Verdict, JoinFailure> {
        let mut remind = REMIND_AFTER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match store.wait_for("verdict", VERDICT_POLL.min(left), deadline) {
                Ok(bytes) => return decode(&bytes),
                Err(StoreError::Late(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let late = Instant::now() >= deadline;
            // Process 0 looks after the others, and reminds for all.
            if self.process == 0
                && let Some(process) = store.gone(deadline)?
            {
                let reason = None;
                return publish(store, &Verdict::Gone { process, reason });
            }
            if !late && (self.process > 0 || started.elapsed() < remind) {
                continue;
            }
            let absent = self.absent(store)?;
            let all_came = absent.is_empty();
            let missing = self.missing(absent, started);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return publish(store, &missing);
            }
            if !all_came {
                let text = failure(missing);
                tracing::warn!("{text} (going on for {:.0} s)", left.as_secs_f64());
            }
            remind *= 2;
        }
    }

    /// Returns the processes that have not entered.
    fn absent(&self, store: &mut StoreClient) -> Result<Vec<usize>, JoinFailure> {
        let mut absent = Vec::new();
        for process in 0..self.processes {
            if store.get(&key(process))?.is_none() {
                absent.push(process);
            }
        }
        Ok(absent)
    }

    fn missing(&self, missing: Vec<usize>, started: Instant) -> Verdict {
        Verdict::Missing {
            missing,
            processes: self.processes,
            after: started.elapsed(),
        }
    }

    fn list(&self, store: &mut StoreClient, job: &JobRecord) -> Result<List, JoinFailure> {
        let mut members: Vec<ProcessRecord> = Vec::with_capacity(self.processes);
        for part in 0..self.processes.div_ceil(ENTRIES_PER_PART) {
            let bytes = store.get(&part_key(part))?;
            members.extend(decode::<Vec<ProcessRecord>>(&bytes.unwrap_or_default())?);
        }
        if members.len() != self.processes {
            let count = members.len();
            return Err(JoinFailure::Lost(
                format!("its list has {count} processes").into(),
            ));
        }
        let odd = |member: &&ProcessRecord| !(1..=MAX_RANKS).contains(&member.ranks);
        if let Some(member) = members.iter().find(odd) {
            let what = format!("in its list, {member} has {} ranks", member.ranks);
            return Err(JoinFailure::Lost(what.into()));
        }
        let heartbeat = store.get("heartbeat")?;
        let crossovers = store.get("crossovers")?;
        Ok(List {
            job: job.number,
            heartbeat: decode(&heartbeat.unwrap_or_default())?,
            crossovers: decode(&crossovers.unwrap_or_default())?,
            ranks: members.iter().map(|member| member.ranks).collect(),
            addresses: members.iter().map(|member| member.address).collect(),
        })
    }
}

/// Draws the job's number, and writes what process 0 decides.
pub(super) fn found(store: &mut StoreClient, config: &JobConfig) -> Result<JobRecord, JoinFailure> {
    let mut number = [0; 16];
    getrandom::fill(&mut number).map_err(|error| JoinFailure::System {
        what: "random numbers",
        detail: error.to_string(),
    })?;
    store.set("heartbeat", &encode(&config.heartbeat())?)?;
    store.set("options", &encode(config.options())?)?;
    let crossovers = config.crossovers().cloned().unwrap_or_default();
    store.set("crossovers", &encode(&crossovers)?)?;
    let processes = config.processes();
    let job = JobRecord { number, processes };
    store.set("job", &encode(&job)?)?;
    Ok(job)
}

/// Tells the others that this process can't join, and why.
pub(super) fn give_up(store: &mut StoreClient, process: usize, reason: &str) -> JoinFailure {
    let verdict = Verdict::Gone {
        process,
        reason: Some(reason.chars().take(MAX_REASON).collect()),
    };
    // They may be gone themselves; it is no less true here.
    let _ = publish(store, &verdict);
    failure(verdict)
}

/// Announces a process that has reached the store.
pub(super) fn arrive(store: &mut StoreClient, process: usize) -> Result<(), JoinFailure> {
    store.announce(process)?;
    store.add("came", 1)?;
    Ok(())
}

/// Waits until those who have to know why joining failed know it, but not long.
pub(super) fn linger(
    store: &mut StoreClient,
    failure: &JoinFailure,
    processes: usize,
) -> Result<(), JoinFailure> {
    let (expected, time) = match failure {
        // It came before the deadline, so some may still be on their way; one of them never comes.
        JoinFailure::Gone { .. } => (processes.saturating_sub(1), LINGER_FOR_ALL),
        JoinFailure::Duplicate { .. } | JoinFailure::WorldSize { .. } => {
            (processes, LINGER_FOR_ALL)
        }
        _ => (0, LINGER),
    };
    let gone = i64::from(matches!(failure, JoinFailure::Gone { .. }));
    let expected = i64::try_from(expected).unwrap_or(i64::MAX);
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        let came = store.add("came", 0)? - gone;
        if store.add("read", 0)? >= expected.max(came) {
            break;
        }
        thread::sleep(LINGER_POLL);
    }
    Ok(())
}

/// Counts one more process that knows the verdict.
fn tell_read(store: &mut StoreClient) -> Result<(), JoinFailure> {
    store.add("read", 1)?;
    Ok(())
}

/// Gives the verdict, unless there is one; returns the one that holds.
fn publish(store: &mut StoreClient, verdict: &Verdict) -> Result<Verdict, JoinFailure> {
    match store.compare_and_set("verdict", None, &encode(verdict)?)? {
        Swap::Done => Ok(verdict.clone()),
        Swap::Differs(first) => decode(&first.unwrap_or_default()),
    }
}

fn key(process: usize) -> String {
    format!("process/{process}")
}

fn part_key(part: usize) -> String {
    format!("list/{part}")
}

impl From<StoreError> for JoinFailure {
    fn from(error: StoreError) -> Self {
        Self::Lost(error.to_string().into())
    }
}
