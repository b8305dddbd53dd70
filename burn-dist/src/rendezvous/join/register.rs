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

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{MOST_RANKS, REMIND};
use crate::control;
use crate::error::JoinFailure;
use crate::rendezvous::config::JobConfig;
use crate::rendezvous::store::{StoreClient, StoreError, Swap};

/// How many entries a part of the list has, so that it stays a small value.
const PART: usize = 512;
/// The most bytes of what the store holds.
const RECORD: usize = 64 << 10;

/// The list, when all have come.
pub(super) struct List {
    pub(super) job: [u8; 16],
    pub(super) ranks: Vec<usize>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) heartbeat: Duration,
}

#[derive(Serialize, Deserialize)]
struct Job {
    number: [u8; 16],
    processes: usize,
}

/// What a process says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Member {
    ranks: usize,
    address: SocketAddr,
    /// Its number in its operating system, by which a person finds it.
    system_id: u32,
}

/// How joining ended, for all.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Verdict {
    Complete,
    WorldSize {
        process: usize,
        told: usize,
        processes: usize,
    },
    Duplicate {
        process: usize,
        first: String,
        second: String,
    },
    Missing {
        missing: Vec<usize>,
        processes: usize,
        after: Duration,
    },
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

/// What a verdict means to a process; a complete list is no failure, so it never comes here.
fn failure(verdict: Verdict) -> JoinFailure {
    match verdict {
        Verdict::Complete => JoinFailure::Lost("the others went on without this process".into()),
        Verdict::WorldSize {
            process,
            told,
            processes,
        } => JoinFailure::WorldSize {
            process,
            told,
            processes,
        },
        Verdict::Duplicate {
            process,
            first,
            second,
        } => JoinFailure::Duplicate {
            process,
            first,
            second,
        },
        Verdict::Missing { missing, .. } if missing.is_empty() => {
            JoinFailure::Lost("all came, but the last of them ended before it said so".into())
        }
        Verdict::Missing {
            missing,
            processes,
            after,
        } => JoinFailure::Missing {
            missing,
            processes,
            after,
            turned_away: 0,
        },
    }
}

fn key(process: usize) -> String {
    format!("process/{process}")
}

fn part_key(part: usize) -> String {
    format!("list/{part}")
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, JoinFailure> {
    control::encode(record).map_err(|error| JoinFailure::Lost(error.into()))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JoinFailure> {
    control::decode_within::<RECORD, T>(bytes)
        .map_err(|error| JoinFailure::Lost(format!("its record can't be read: {error}").into()))
}

impl From<StoreError> for JoinFailure {
    fn from(error: StoreError) -> Self {
        Self::Lost(error.to_string().into())
    }
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process id {})", self.address, self.system_id)
    }
}

/// What must hold of any bytes that stand in the store; the first says as what they are read.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_records(bytes: &[u8]) {
    use crate::fuzzing::check_message;
    let Some((&kind, record)) = bytes.split_first() else {
        return;
    };
    match kind % 3 {
        0 => check_message::<Job>(record),
        1 => check_message::<Vec<Member>>(record),
        _ => check_message::<Verdict>(record),
    }
}

/// Records of each kind.
#[cfg(test)]
pub(crate) fn record_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let of_kind = |kind: u8, record: Vec<u8>| [vec![kind], record].concat();
    let member = |address: &str| Member {
        ranks: 2,
        address: address.parse().unwrap(),
        system_id: 4321,
    };
    let job = Job {
        number: [5; 16],
        processes: 300,
    };
    let list = [member("10.0.0.1:7000"), member("[fe80::1]:65535")];
    let missing = Verdict::Missing {
        missing: vec![1, 3],
        processes: 4,
        after: Duration::from_millis(60_001),
    };
    let duplicate = Verdict::Duplicate {
        process: 1,
        first: list[0].to_string(),
        second: list[1].to_string(),
    };
    vec![
        ("job", of_kind(0, encode(&job).unwrap())),
        ("list", of_kind(1, encode(&list.to_vec()).unwrap())),
        ("missing", of_kind(2, encode(&missing).unwrap())),
        ("duplicate", of_kind(2, encode(&duplicate).unwrap())),
        ("complete", of_kind(2, encode(&Verdict::Complete).unwrap())),
    ]
}
