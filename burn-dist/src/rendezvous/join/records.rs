//! What the processes of a job write into its store, and what a verdict means to who reads it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::codec;
use crate::error::{DifferentOption, JoinFailure};
use crate::rendezvous::options::Difference;
#[cfg(any(test, fuzzing))]
use crate::rendezvous::{crossovers::Crossovers, options::Options};

/// The most bytes of what the store holds.
const RECORD: usize = 64 << 10;

#[derive(Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub(super) number: [u8; 16],
    pub(super) processes: usize,
}

/// A process's description of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProcessRecord {
    pub(super) ranks: usize,
    pub(super) address: SocketAddr,
    /// Its number in its operating system, by which a person finds it.
    pub(super) system_id: u32,
}

/// Entry of a process in the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entered {
    pub(super) member: ProcessRecord,
    /// Its options that are not those of process 0.
    pub(super) differences: Vec<Difference>,
}

/// Outcome of joining, the same for all processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
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
    Options(Vec<DifferentOption>),
    Gone {
        process: usize,
        reason: Option<String>,
    },
}

impl std::fmt::Display for ProcessRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process id {})", self.address, self.system_id)
    }
}

/// Returns the failure of a verdict, which is not that of a complete list.
pub(super) fn failure(verdict: Verdict) -> JoinFailure {
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
        Verdict::Options(differing) => JoinFailure::Options(differing),
        Verdict::Gone { process, reason } => JoinFailure::Gone { process, reason },
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

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, JoinFailure> {
    codec::encode(record).map_err(|error| JoinFailure::Lost(error.into()))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JoinFailure> {
    codec::decode_within::<RECORD, T>(bytes)
        .map_err(|error| JoinFailure::Lost(format!("its record can't be read: {error}").into()))
}

/// Checks the properties of the decoders of values for any bytes. The first byte selects the type.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_records(bytes: &[u8]) {
    use crate::fuzzing::check_message;
    let Some((&kind, record)) = bytes.split_first() else {
        return;
    };
    match kind % 6 {
        0 => check_message::<JobRecord>(record),
        1 => check_message::<Vec<ProcessRecord>>(record),
        2 => check_message::<Verdict>(record),
        3 => check_message::<Entered>(record),
        4 => check_message::<Options>(record),
        _ => check_message::<Crossovers>(record),
    }
}

/// Records of each kind.
#[cfg(test)]
pub(crate) fn record_seeds() -> Vec<(&'static str, Vec<u8>)> {
    use crate::rendezvous::options::summary;
    let of_kind = |kind: u8, record: Vec<u8>| [vec![kind], record].concat();
    let member = |address: &str| ProcessRecord {
        ranks: 2,
        address: address.parse().unwrap(),
        system_id: 4321,
    };
    let job = JobRecord {
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
    let options = |lr| {
        let mut options = Options::default();
        options.push("--lr".to_owned(), lr);
        options
    };
    let differences = options("0.3").differences(&options("0.03"));
    let different = Verdict::Options(summary(&[vec![], differences.clone()]));
    let gone = Verdict::Gone {
        process: 2,
        reason: Some("its disk is full".to_owned()),
    };
    let entered = Entered {
        member: list[1].clone(),
        differences,
    };
    vec![
        ("different", of_kind(2, encode(&different).unwrap())),
        ("gone", of_kind(2, encode(&gone).unwrap())),
        ("entered", of_kind(3, encode(&entered).unwrap())),
        ("options", of_kind(4, encode(&options("1")).unwrap())),
        ("job", of_kind(0, encode(&job).unwrap())),
        ("list", of_kind(1, encode(&list.to_vec()).unwrap())),
        ("missing", of_kind(2, encode(&missing).unwrap())),
        ("duplicate", of_kind(2, encode(&duplicate).unwrap())),
        (
            "crossovers",
            of_kind(5, encode(&Crossovers::default()).unwrap()),
        ),
        ("complete", of_kind(2, encode(&Verdict::Complete).unwrap())),
    ]
}
