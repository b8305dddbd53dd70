use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::failure::LONGEST_TEXT;
use super::*;
use crate::error::{Call, Detail, Error};

fn round_trip(error: &Error) -> Error {
    let mut done = Spans::default();
    for number in [0, 1, 4] {
        done.insert(number);
    }
    let bytes = Notice::failed(Failure::new(error, 3), &done, true);
    let bytes = bytes.encode(9).unwrap();
    match Letter::decode(&bytes).unwrap() {
        Letter::Of(
            9,
            Notice::Failed {
                failure,
                done: read,
                reports: true,
            },
        ) if read == done => (*failure).into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn failures_read_the_same_elsewhere() {
    let call = Arc::new(Call {
        operation: "all_reduce".into(),
        sequence: 5,
        dtype: "f32".into(),
        shape: vec![2, 3],
        detail: Detail {
            reduction: Some("sum".into()),
            ..Detail::default()
        },
    });
    let failures = [
        Error::Mismatch {
            rank: 1,
            call: call.clone(),
            peer: 0,
            peer_call: call.clone(),
        },
        Error::Timeout {
            rank: 1,
            call: call.clone(),
            missing: vec![2, 3],
            after: Duration::from_millis(1500),
        },
        Error::PeerLeft {
            peer: 4,
            reason: Departure::Panicked("oh".into()),
            call: Some(call.clone()),
        },
        Error::Aborted {
            rank: 2,
            message: "enough".into(),
        },
        Error::Lost {
            process: 1,
            ranks: vec![2, 3],
            address: "10.0.0.2:7000".into(),
            call: Some(call),
            cause: "broke its connection".into(),
        },
    ];
    for error in failures {
        assert_eq!(round_trip(&error).to_string(), error.to_string());
    }
    let own = Error::Data {
        message: "x".repeat(1 << 20),
    };
    let told = round_trip(&own).to_string();
    assert!(told.starts_with("rank 3 failed: data: xxx"), "{told}");
    assert!(told.len() < 2 * LONGEST_TEXT);
}

proptest! {
    #[test]
    fn any_bytes_are_a_letter_or_an_error(bytes: Vec<u8>) {
        // It must return; what it returns depends on the bytes.
        let _ = Letter::decode(&bytes);
    }
}
