//! What must hold of the store whatever a member sends it.

use std::time::Duration;

use super::Limits;
use super::table::Table;
use super::wire::{self, Reply, Request};
use crate::fuzzing::{Script, check_message};

/// Answers the requests that the bytes hold, as the server does, and reads the bytes as a reply.
pub(crate) fn check(bytes: &[u8]) {
    let limits = Limits {
        keys: 5,
        bytes: 1000,
        ..Limits::default()
    };
    let table = Table::new(&limits);
    // So that nobody waits.
    table.close();
    let script = Script::new(bytes);
    let patience = Duration::from_hours(1);
    while let Ok(request) = wire::receive_next::<Request>(&script, patience) {
        let reply = table.answer(request);
        table.assert_within(&limits);
        // Every answer can be sent, and is understood.
        let sent = Script::new(&[]);
        let deadline = std::time::Instant::now() + patience;
        assert!(wire::send(&sent, &reply, deadline).is_ok());
        assert!(sent.sent().len() <= wire::MAX_MESSAGE + 4);
        let sent = sent.sent();
        let back = Script::new(&sent);
        let read = wire::receive_next::<Reply>(&back, patience);
        assert!(read.is_ok_and(|read| read == reply));
    }
    check_message::<Reply>(bytes);
}

/// Conversations, good and bad.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |requests: &[Request]| {
        let script = Script::new(&[]);
        let deadline = std::time::Instant::now() + Duration::from_hours(1);
        for request in requests {
            wire::send(&script, request, deadline).unwrap();
        }
        script.sent()
    };
    let key = || "process/1".to_owned();
    let conversation = [
        Request::Set {
            key: key(),
            value: vec![1, 2, 3],
        },
        Request::Get { key: key() },
        Request::Add {
            key: "came".to_owned(),
            amount: 1,
        },
        Request::Wait {
            key: "verdict".to_owned(),
            milliseconds: 60_000,
        },
        Request::CompareAndSet {
            key: key(),
            expected: Some(vec![1, 2, 3]),
            value: vec![4; 40],
        },
    ];
    let all = bytes(&conversation);
    let large = Request::Set {
        key: "k".repeat(super::MAX_KEY + 1),
        value: vec![0; 300],
    };
    vec![
        ("conversation", all.clone()),
        ("cut", all[..all.len() - 7].to_vec()),
        ("large", bytes(&[large])),
        (
            "overflow",
            bytes(&[i64::MAX, 1].map(|amount| Request::Add { key: key(), amount })),
        ),
        ("too-long", vec![0xff; 4]),
        ("unknown", vec![3, 0, 0, 0, 99, 0, 0]),
        ("key-that-lies", vec![4, 0, 0, 0, 1, 252, 0xff, 0xff]),
        (
            "reply",
            crate::codec::encode(&Reply::Differs(Some(vec![5; 9]))).unwrap(),
        ),
    ]
}
