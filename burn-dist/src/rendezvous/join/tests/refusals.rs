//! Processes that do not come, that claim what can't be, or that can't be let in: each is named, on all
//! that can be told.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::codec;

#[test]
fn those_who_do_not_come_are_named_on_all_who_do() {
    let (listener, master) = master();
    thread::scope(|scope| {
        let first = spawn(scope, process(0, 4, &master).with_listener(listener));
        until_entered(&master, 0);
        let patience = Duration::from_secs(1);
        let third = process(2, 4, &master).with_join_timeout(patience);
        let third = failure(join(&third, 1));
        let text = third.to_string();
        assert!(
            text.starts_with("waited 1 s: processes 1 and 3 of 4 did not come"),
            "{text}"
        );
        assert_eq!(failure(first.join().unwrap()), third);
    });
}

#[test]
fn a_process_that_claims_more_ranks_than_memory_holds_is_an_error() {
    for ranks in [0, MAX_RANKS + 1, usize::MAX] {
        let (listener, master) = master();
        thread::scope(|scope| {
            let first = spawn(scope, process(0, 2, &master).with_listener(listener));
            until_entered(&master, 0);
            let address: SocketAddr = master.parse().unwrap();
            let deadline = Instant::now() + PATIENCE;
            let mut store =
                StoreClient::connect(address, &Secret::default(), None, "", deadline).unwrap();
            // As the last process that comes makes the list, and says that it is complete.
            let list = [(1, address, 1_u32), (ranks, address, 2_u32)];
            let list = codec::encode(&list.to_vec()).unwrap();
            store.set("list/0", &list).unwrap();
            store.add("read", 9).unwrap();
            // Process 0 may be gone before it answers.
            let _ = store.set("verdict", &[0]);
            let error = failure(first.join().unwrap()).to_string();
            assert!(error.contains(&format!("has {ranks} ranks")), "{error}");
        });
    }
}

#[test]
fn all_processes_have_the_heartbeat_of_process_0() {
    // With another each, those that expect it often would take the others for dead.
    let (listener, master) = master();
    let heartbeat = Duration::from_secs(7);
    thread::scope(|scope| {
        let other = process(1, 2, &master).with_heartbeat(Duration::from_secs(1));
        let other = spawn(scope, other);
        let first = process(0, 2, &master).with_listener(listener);
        let first = join(&first.with_heartbeat(heartbeat), 1).unwrap();
        assert_eq!(first.heartbeat, heartbeat);
        assert_eq!(other.join().unwrap().unwrap().heartbeat, heartbeat);
    });
}

#[test]
fn a_number_given_twice_is_told_to_all() {
    let (listener, master) = master();
    thread::scope(|scope| {
        let first = spawn(scope, process(0, 3, &master).with_listener(listener));
        let one = spawn(scope, process(1, 3, &master));
        let other = spawn(scope, process(1, 3, &master));
        let failures = [first, one, other].map(|thread| failure(thread.join().unwrap()));
        let JoinFailure::Duplicate {
            process: 1,
            first,
            second,
        } = &failures[0]
        else {
            panic!("{}", failures[0]);
        };
        assert_ne!(first, second);
        assert!(first.contains(&format!("process id {}", std::process::id())));
        assert_eq!(failures[0], failures[1]);
        assert_eq!(failures[0], failures[2]);
    });
}

#[test]
fn another_world_size_is_told_to_both() {
    let (listener, master) = master();
    thread::scope(|scope| {
        let other = spawn(scope, process(1, 3, &master));
        let first = failure(join(&process(0, 2, &master).with_listener(listener), 1));
        let expected = JoinFailure::WorldSize {
            process: 1,
            told: 3,
            processes: 2,
        };
        assert_eq!(first, expected);
        assert_eq!(failure(other.join().unwrap()), expected);
    });
}

#[test]
fn a_process_with_another_secret_stays_out_and_is_hinted_at() {
    let (listener, master) = master();
    thread::scope(|scope| {
        let other = process(1, 2, &master).with_secret(Secret::new(b"another"));
        let other = spawn(scope, other);
        let first = process(0, 2, &master)
            .with_listener(listener)
            .with_secret(Secret::new(b"the job's own"))
            .with_join_timeout(Duration::from_secs(1));
        let first = failure(join(&first, 1)).to_string();
        assert!(first.contains("process 1 of 2 did not come"), "{first}");
        assert!(first.contains("1 connection was turned away"), "{first}");
        let other = failure(other.join().unwrap());
        assert!(matches!(other, JoinFailure::Rejected(_)), "{other}");
        assert!(other.to_string().contains("BURN_DIST_SECRET"), "{other}");
    });
}

/// Returns the failure of process 1 if a port answers each connection with these bytes.
fn answered_with(answer: &[u8]) -> JoinFailure {
    let (listener, master) = master();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            // Until the other side has read and left.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        failure(join(&process(1, 2, &master), 1))
    })
}

#[test]
fn another_version_is_named_with_both() {
    let mut answer = b"burndist9.9.9/9".to_vec();
    answer.resize(8 + 24 + 32, 0);
    let failure = answered_with(&answer);
    let ours = concat!(env!("CARGO_PKG_VERSION"), "/5").to_owned();
    let theirs = "9.9.9/9".to_owned();
    assert_eq!(failure, JoinFailure::Version { ours, theirs });
}

#[test]
fn another_program_on_the_port_is_named_by_what_it_says() {
    let failure = answered_with(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(failure.to_string().contains("HTTP/1.1"), "{failure}");
}

#[test]
fn a_process_0_that_never_comes_is_an_error_at_the_deadline() {
    let master = format!("127.0.0.1:{}", quiet_port());
    let config = process(1, 2, &master).with_join_timeout(Duration::from_millis(100));
    let error = join(&config, 1).unwrap_err().to_string();
    assert!(error.contains(&master), "{error}");
    assert!(
        error.contains("tried for 0.1 s to reach process 0"),
        "{error}"
    );
    // Nor does one that never writes its address.
    let config = process(1, 2, "127.0.0.1:0")
        .with_address_file("/no/such/file")
        .with_join_timeout(Duration::from_millis(20));
    let error = join(&config, 1).unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}

#[test]
fn a_second_process_0_finds_the_port_taken() {
    let (_taken, master) = master();
    let error = join(&process(0, 2, &master), 1).unwrap_err().to_string();
    assert!(
        error.contains(&master) && error.contains("MASTER_PORT"),
        "{error}"
    );
    // With a file for its address, it finds the file.
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = process(0, 2, "127.0.0.1:0").with_address_file(file.path());
    let error = failure(join(&config, 1));
    assert!(matches!(error, JoinFailure::Configuration(_)), "{error}");
    assert!(
        file.path().exists(),
        "what it did not make, it does not remove"
    );
}

#[test]
fn an_open_address_needs_a_secret_on_either_side() {
    // Nothing is bound or sent: it is refused before.
    for number in [0, 1] {
        let error = failure(join(&process(number, 2, "192.0.2.1:29500"), 1));
        assert_eq!(error, JoinFailure::NoSecret { short: false });
    }
    let foreign = process(0, 2, "192.0.2.1:0")
        .with_address_file("/no/such/file")
        .with_secret(Secret::new(b"0123456789abcdef"));
    let error = failure(join(&foreign, 1));
    assert!(matches!(error, JoinFailure::Listen(_)), "{error}");
}

#[test]
fn what_cannot_be_right_is_said_before_anyone_is_asked() {
    let refused = |config: JobConfig, ranks, what: &str| {
        let failure = failure(join(&config, ranks));
        assert!(
            matches!(failure, JoinFailure::Configuration(_)),
            "{failure}"
        );
        assert!(failure.to_string().contains(what), "{failure}");
    };
    refused(process(2, 2, "a:1"), 1, "no process 2 in a job of 2");
    refused(process(0, 0, "a:1"), 1, "no process 0");
    refused(process(0, MAX_PROCESSES + 1, "a:1"), 1, "at most 4000");
    refused(process(0, 1, "a:1"), 0, "0 ranks");
    refused(process(0, 1, "a:1"), MAX_RANKS + 1, "from 1 to 4096");
    refused(process(1, 2, "127.0.0.1:0"), 1, "BURN_DIST_ADDRESS_FILE");
    for master in [
        "",
        "host",
        ":1",
        "host:",
        "host:70000",
        "::1:5",
        "[::1]",
        "[::1:5",
        "a b:1",
    ] {
        refused(process(0, 1, master), 1, "expected host:port");
    }
    let hasty = process(0, 1, "a:1").with_join_timeout(Duration::ZERO);
    refused(hasty, 1, "join timeout");
    let eternal = process(0, 1, "a:1").with_heartbeat(Duration::MAX);
    refused(eternal, 1, "heartbeat");
}

#[test]
fn a_name_without_an_address_is_an_error_of_its_own() {
    // Longer than a name may be, so that nobody is asked for it.
    let name = format!("{}:1", "x".repeat(300));
    for number in [0, 1] {
        let patience = Duration::from_millis(20);
        let config = process(number, 2, &name).with_join_timeout(patience);
        let start = Instant::now();
        let error = failure(join(&config, 1));
        assert!(matches!(error, JoinFailure::Unresolved(_)), "{error}");
        // It could have become known any time, process 0's own name too.
        assert!(start.elapsed() >= patience, "process {number} gave up");
    }
}
