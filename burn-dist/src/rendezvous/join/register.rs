//! The list of a job's processes, as the store holds it.
//!
//! | key | value |
//! |---|---|
//! | `heartbeat` | process 0's heartbeat, which is the job's |
//! | `job` | the job's number and size, set by process 0 after it |
//! | `process/N` | the entry of process N, by whoever was first |
//! | `entered` | how many have entered themselves |
//! | `list/N` | a part of the finished list |
//! | `verdict` | how it ended, set once |
//! | `came`, `read`, `all-read` | how many connected, and how many of them know the verdict |

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::records::{Job, Member, Verdict, decode, encode, failure};
use super::{MOST_RANKS, REMIND};
use crate::error::JoinFailure;
use crate::rendezvous::config::JobConfig;
use crate::rendezvous::store::{StoreClient, StoreError, Swap};

/// How many entries a part of the list has, so that it stays a small value.
const PART: usize = 512;
/// The list, when all have come.
pub(super) struct List {
    pub(super) job: [u8; 16],
    pub(super) ranks: Vec<usize>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) heartbeat: Duration,
}

/// A process that enters itself.
pub(super) struct Entry {
    process: usize,
    processes: usize,
    member: Member,
    heartbeat: Duration,
}

impl Entry {
    pub(super) fn new(config: &JobConfig, ranks: usize, address: SocketAddr) -> Self {
        Self {
            process: config.process(),
            processes: config.processes(),
            member: Member {
                ranks,
                address,
                system_id: std::process::id(),
            },
            heartbeat: config.get_heartbeat(),
        }
    }

    /// Enters this process and waits for all others.
    pub(super) fn register(
        &self,
        store: &mut StoreClient,
        started: Instant,
        deadline: Instant,
    ) -> Result<List, JoinFailure> {
        store.add("came", 1)?;
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
    ) -> Result<Job, JoinFailure> {
        if self.process == 0 {
            let mut number = [0; 16];
            getrandom::fill(&mut number).map_err(|error| JoinFailure::System {
                what: "random numbers",
                detail: error.to_string(),
            })?;
            store.set("heartbeat", &encode(&self.heartbeat)?)?;
            let processes = self.processes;
            let job = Job { number, processes };
            store.set("job", &encode(&job)?)?;
            return Ok(job);
        }
        match store.wait("job", deadline) {
            Ok(bytes) => decode(&bytes),
            Err(StoreError::Late(_)) => Err(failure(self.missing(vec![0], started))),
            Err(error) => Err(error.into()),
        }
    }

    /// Enters this process; a verdict if that can't be.
    fn enter(&self, store: &mut StoreClient, job: &Job) -> Result<Option<Verdict>, JoinFailure> {
        if job.processes != self.processes {
            return Ok(Some(Verdict::WorldSize {
                process: self.process,
                told: self.processes,
                processes: job.processes,
            }));
        }
        let entry = encode(&self.member)?;
        match store.compare_and_set(&key(self.process), None, &entry)? {
            Swap::Done => Ok(None),
            Swap::Differs(first) => {
                let first: Member = decode(&first.unwrap_or_default())?;
                Ok(Some(Verdict::Duplicate {
                    process: self.process,
                    first: first.to_string(),
                    second: self.member.to_string(),
                }))
            }
        }
    }

    /// Writes the finished list; done by whoever came last.
    fn complete(&self, store: &mut StoreClient) -> Result<(), JoinFailure> {
        let mut members: Vec<Member> = Vec::with_capacity(self.processes);
        for process in 0..self.processes {
            let entry = store.get(&key(process))?;
            members.push(decode(&entry.unwrap_or_default())?);
        }
        for (part, members) in members.chunks(PART).enumerate() {
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
        let mut remind = REMIND;
        loop {
            // Process 0 reminds for all.
            let until = match self.process {
                0 => deadline.min(started + remind),
                _ => deadline,
            };
            match store.wait("verdict", until) {
                Ok(bytes) => return decode(&bytes),
                Err(StoreError::Late(_)) => {}
                Err(error) => return Err(error.into()),
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

    /// Who has not entered.
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

    fn list(&self, store: &mut StoreClient, job: &Job) -> Result<List, JoinFailure> {
        let mut members: Vec<Member> = Vec::with_capacity(self.processes);
        for part in 0..self.processes.div_ceil(PART) {
            let bytes = store.get(&part_key(part))?;
            members.extend(decode::<Vec<Member>>(&bytes.unwrap_or_default())?);
        }
        if members.len() != self.processes {
            let count = members.len();
            return Err(JoinFailure::Lost(
                format!("its list has {count} processes").into(),
            ));
        }
        let odd = |member: &&Member| !(1..=MOST_RANKS).contains(&member.ranks);
        if let Some(member) = members.iter().find(odd) {
            let what = format!("in its list, {member} has {} ranks", member.ranks);
            return Err(JoinFailure::Lost(what.into()));
        }
        let heartbeat = store.get("heartbeat")?;
        Ok(List {
            job: job.number,
            heartbeat: decode(&heartbeat.unwrap_or_default())?,
            ranks: members.iter().map(|member| member.ranks).collect(),
            addresses: members.iter().map(|member| member.address).collect(),
        })
    }
}

/// Waits until all who came know the verdict.
pub(super) fn wait_until_read(
    store: &mut StoreClient,
    deadline: Instant,
) -> Result<(), JoinFailure> {
    Ok(store.wait("all-read", deadline).map(drop)?)
}

/// Counts those who know the verdict, and notes when all do.
fn tell_read(store: &mut StoreClient) -> Result<(), JoinFailure> {
    let read = store.add("read", 1)?;
    if read >= store.add("came", 0)? {
        store.set("all-read", b"")?;
    }
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
