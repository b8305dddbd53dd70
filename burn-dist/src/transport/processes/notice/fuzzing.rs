//! What must hold of any bytes that come as a notice, and the notices to begin with.

#[cfg(test)]
use std::sync::Arc;
#[cfg(test)]
use std::time::Duration;

use super::{Letter, Notice};
use crate::error::Error;
#[cfg(test)]
use crate::error::{Call, Departure};
use crate::record::{Snapshot, compare};
use crate::transport::processes::Spans;
use crate::transport::processes::failure::Failure;

/// Checks the properties that hold for any bytes received as a notice.
pub(crate) fn check_notice(bytes: &[u8]) {
    crate::fuzzing::check_message::<Letter>(bytes);
    match Letter::decode(bytes) {
        Ok(Letter::Of(_, Notice::Failed { failure, .. })) => {
            let error = Error::from(*failure);
            assert!(!error.to_string().is_empty());
            // It is told on in turn.
            let again = Notice::failed(Failure::new(&error, 0), &Spans::default(), false);
            assert!(again.encode(0).is_ok());
        }
        Ok(Letter::Records(mut snapshot)) => {
            let comparison = compare(&[snapshot.clone(), Snapshot::default()], 4);
            assert!(!comparison.to_string().is_empty());
            // In the end there is nothing to let go.
            while snapshot.halve() {}
            assert!(snapshot.ranks.iter().all(|rank| rank.operations.is_empty()));
        }
        Ok(Letter::Of(..) | Letter::Compared) | Err(_) => {}
    }
}

/// Notices of each kind, about a call.
#[cfg(test)]
pub(crate) fn notice_seeds(call: &Call) -> Vec<(&'static str, Vec<u8>)> {
    use crate::record::{Operation, RankRecord, State};
    let call = Arc::new(call.clone());
    let reason = Departure::Panicked("index 7 is out of bounds".into());
    let operation = |state, ended| Operation {
        group: "all ranks".to_owned(),
        call: (*call).clone(),
        state,
        entered: 70_000,
        exchanged: None,
        ended,
    };
    let record = |rank, operations| RankRecord {
        rank,
        taken: 90_000,
        full: true,
        operations,
    };
    let records = Snapshot {
        groups: [("all ranks".to_owned(), vec![0, 1, 2])].into(),
        ranks: vec![
            record(0, vec![operation(State::Waiting, None)]),
            record(1, vec![operation(State::Done, Some(80_000))]),
        ],
    };
    let mut seeds = vec![
        ("records", Letter::Records(records).encode().unwrap()),
        ("compared", Letter::Compared.encode().unwrap()),
        (
            "left",
            Notice::left(1, &reason, &Spans::default(), vec![(0, 3), (2, 1)])
                .with_early(true)
                .encode(9)
                .unwrap(),
        ),
    ];
    seeds.extend(failures(call).map(|(name, error)| {
        let mut done = Spans::default();
        for number in [0, 1, 3] {
            done.insert(number);
        }
        let notice = Notice::failed(Failure::new(&error, 3), &done, true);
        (name, notice.encode(9).unwrap())
    }));
    seeds
}

#[cfg(test)]
fn failures(call: Arc<Call>) -> [(&'static str, Error); 4] {
    let mismatch = Error::Mismatch {
        rank: 1,
        call: call.clone(),
        peer: 0,
        peer_call: call.clone(),
    };
    let timeout = Error::Timeout {
        rank: 1,
        call: call.clone(),
        missing: vec![2, 3],
        after: Duration::from_millis(1500),
    };
    let lost = Error::Lost {
        process: 1,
        ranks: vec![2, 3],
        address: "10.0.0.2:7000".into(),
        call: Some(call),
        cause: "broke its connection".into(),
    };
    let aborted = Error::Aborted {
        rank: 2,
        message: "enough".into(),
    };
    [
        ("mismatch", mismatch),
        ("timeout", timeout),
        ("lost", lost),
        ("aborted", aborted),
    ]
}
