use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;
use crate::net::auth::{Role, authenticate};
use crate::net::secret::Secret;

const GOOD: &[u8] = b"the secret of this job";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn server(limits: Limits) -> StoreServer {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    StoreServer::start(listener, Secret::new(GOOD), None, "", limits).unwrap()
}

fn client(server: &StoreServer) -> StoreClient {
    StoreClient::connect(server.address(), &Secret::new(GOOD), None, "", soon()).unwrap()
}

/// A connection that has proved the secret, for sending what no client would.
fn member(server: &StoreServer) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    let (secret, role) = (Secret::new(GOOD), Role::Connects);
    authenticate(&stream, &secret, role, PURPOSE, b"", soon()).unwrap();
    stream
}

/// Waits, without a guess at how long it takes, until the server has closed a connection.
fn until_closed(mut stream: TcpStream) {
    let deadline = Some(Duration::from_secs(20));
    stream.set_read_timeout(deadline).unwrap();
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
}

/// Waits until something holds that another thread brings about.
fn eventually(holds: impl Fn() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come about");
        thread::yield_now();
    }
}

#[test]
fn values_are_set_compared_and_added() {
    let server = server(Limits::default());
    let (mut one, mut other) = (client(&server), client(&server));
    assert_eq!(one.get("a").unwrap(), None);
    one.set("a", b"1").unwrap();
    assert_eq!(other.get("a").unwrap().unwrap(), b"1");
    assert_eq!(other.wait("a", Instant::now()).unwrap(), b"1");

    assert_eq!(one.add("n", 5).unwrap(), 5);
    assert_eq!(other.add("n", -7).unwrap(), -2);

    let differs = Swap::Differs(Some(b"1".to_vec()));
    assert_eq!(one.compare_and_set("a", None, b"2").unwrap(), differs);
    let done = other.compare_and_set("a", Some(b"1"), b"2").unwrap();
    assert_eq!(done, Swap::Done);
    let absent = one.compare_and_set("b", Some(b"1"), b"2").unwrap();
    assert_eq!(absent, Swap::Differs(None));
    assert_eq!(one.compare_and_set("b", None, b"2").unwrap(), Swap::Done);
    assert_eq!(server.rejects().total(), 0);
}

#[test]
fn many_who_add_at_once_lose_nothing() {
    let server = server(Limits::default());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = client(&server);
                for _ in 0..50 {
                    client.add("sum", 3).unwrap();
                }
            });
        }
    });
    assert_eq!(client(&server).add("sum", 0).unwrap(), 8 * 50 * 3);
}

#[test]
fn whoever_waits_gets_the_value_when_it_is_set() {
    let server = server(Limits::default());
    thread::scope(|scope| {
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let mut client = client(&server);
            waiting.push(scope.spawn(move || client.wait("late", soon())));
        }
        client(&server).set("late", b"came").unwrap();
        for waited in waiting {
            assert_eq!(waited.join().unwrap().unwrap(), b"came");
        }
    });
    let mut client = client(&server);
    let late = client.wait("never", Instant::now() + Duration::from_millis(20));
    assert_eq!(late, Err(StoreError::Late("never".to_owned())));
    // The connection is as good as before.
    assert_eq!(client.get("late").unwrap().unwrap(), b"came");
}

#[test]
fn what_is_too_large_is_refused_and_the_connection_goes_on() {
    let server = server(Limits {
        keys: 2,
        bytes: 100_000,
        ..Limits::default()
    });
    let mut client = client(&server);
    let refused = |result: Result<(), StoreError>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(client.set(&"k".repeat(MAX_KEY + 1), b""), "got 257 and 0");
    refused(client.set("k", &vec![0; MAX_VALUE + 1]), "got 1 and 65537");
    client.set("a", &vec![0; MAX_VALUE]).unwrap();
    refused(
        client.set("b", &vec![0; MAX_VALUE]),
        "more than 100000 bytes",
    );
    client.set("a", b"small").unwrap(); // gives its bytes back
    client.set("b", &vec![0; MAX_VALUE]).unwrap();
    refused(client.set("c", b""), "holds its 2 keys");
    refused(client.add("a", 1).map(drop), "expected a number");
    client.set("a", &i64::MAX.to_le_bytes()).unwrap();
    refused(client.add("a", 1).map(drop), "too large");
    assert_eq!(server.rejects().total(), 0);
}

#[test]
fn a_wrong_secret_is_turned_away_and_counted() {
    let server = server(Limits::default());
    for secret in [b"".as_slice(), b"another"] {
        let error = StoreClient::connect(server.address(), &Secret::new(secret), None, "", soon());
        let rejected = StoreError::Handshake(HandshakeError::WrongSecret);
        assert_eq!(error.unwrap_err(), rejected);
    }
    // The client knows before the server.
    eventually(|| server.rejects().wrong_secret == 2);
    assert_eq!(server.rejects().total(), 2);
}

#[test]
fn requests_that_lie_are_malformed() {
    let server = server(Limits::default());
    let mut real = client(&server);
    let lies: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xff],         // 4 GiB
        &(MESSAGE_PLUS_ONE).to_le_bytes(), // one byte too many
        &[3, 0, 0, 0, 99, 0, 0],           // no such request
        &[4, 0, 0, 0, 1, 252, 0xff, 0xff], // a key longer than the message
    ];
    for lie in lies {
        let mut stream = member(&server);
        stream.write_all(lie).unwrap();
        until_closed(stream);
    }
    let mut truncated = member(&server);
    truncated.write_all(&[100, 0, 0, 0, 1, 2]).unwrap();
    truncated.shutdown(Shutdown::Write).unwrap();
    until_closed(truncated);
    real.set("still", b"here").unwrap();
    // A slow one has its time for a request, not more.
    assert_eq!(server.rejects().malformed, 5);
}
const MESSAGE_PLUS_ONE: u32 = wire::MAX_MESSAGE as u32 + 1;

#[test]
fn a_thousand_idle_connections_leave_room_for_the_job() {
    let server = server(Limits {
        proof: Duration::from_hours(1), // only room counts here, not time
        ..Limits::default()
    });
    let mut early = client(&server);
    let mut idle = Vec::new();
    for _ in 0..1000 {
        let stream = TcpStream::connect(server.address()).unwrap();
        idle.push(stream);
        if idle.len() > 100 {
            // Those long displaced are closed, or this process would run out of handles.
            until_closed(idle.remove(0));
        }
    }
    let mut late = client(&server);
    early.set("a", b"1").unwrap();
    assert_eq!(late.get("a").unwrap().unwrap(), b"1");
    let census = server.census();
    assert!(census.most_pending <= 64, "{census:?}");
    assert_eq!(census.most_live, 2);
    assert!(server.rejects().crowded >= 900, "{:?}", server.rejects());
    server.stop();
    assert_eq!(server.census().pending, 0);
}

#[test]
fn a_peer_that_sends_no_proof_is_closed_in_time() {
    let server = server(Limits {
        proof: Duration::from_millis(30),
        ..Limits::default()
    });
    let mut slow = TcpStream::connect(server.address()).unwrap();
    let mut loris = TcpStream::connect(server.address()).unwrap();
    slow.write_all(b"burndist").unwrap();
    while loris.write_all(b"b").is_ok() {}
    until_closed(slow);
    server.stop();
    let rejected = server.rejects();
    // The one that writes all the time may be cut off for its bytes first.
    assert_eq!(rejected.too_slow + rejected.not_a_peer, 2, "{rejected:?}");
    assert!(rejected.too_slow >= 1, "{rejected:?}");
}

#[test]
fn one_member_too_many_is_told_so() {
    let server = server(Limits {
        connections: 2,
        ..Limits::default()
    });
    let _members = [client(&server), client(&server)];
    let third = StoreClient::connect(server.address(), &Secret::new(GOOD), None, "", soon());
    assert!(
        matches!(third, Err(StoreError::Refused(_) | StoreError::Lost(_))),
        "{third:?}"
    );
    eventually(|| server.rejects().full == 1);
}

/// Streams that are random, or a recorded conversation of a member with changes.
fn mutated(random: &mut Xoshiro256PlusPlus, recorded: &[u8]) -> Vec<u8> {
    let mut bytes = if random.next_u32().is_multiple_of(3) {
        let mut bytes = vec![0; (random.next_u32() % 300) as usize];
        random.fill_bytes(&mut bytes);
        bytes
    } else {
        recorded.to_vec()
    };
    for _ in 0..random.next_u32() % 4 {
        if !bytes.is_empty() {
            let place = random.next_u32() as usize % bytes.len();
            match random.next_u32() % 3 {
                0 => bytes[place] ^= 1 << (random.next_u32() % 8),
                1 => bytes.truncate(place),
                _ => bytes.insert(place, random.next_u32() as u8),
            }
        }
    }
    bytes
}

/// Returns the bytes of a member in a handshake and a request after it.
fn recorded() -> Vec<u8> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = server(Limits::default());
    thread::scope(|scope| {
        let member = scope
            .spawn(move || StoreClient::connect(address, &Secret::new(GOOD), None, "", soon()));
        let (mut from, _) = listener.accept().unwrap();
        let mut to = TcpStream::connect(server.address()).unwrap();
        let mut bytes = Vec::new();
        for (sent, answered) in [(64, 96), (1 + 32 + 2 + 32, 1 + 2 + 32), (4 + 2, 4 + 2)] {
            let start = bytes.len();
            bytes.resize(start + sent, 0);
            from.read_exact(&mut bytes[start..]).unwrap();
            to.write_all(&bytes[start..]).unwrap();
            let mut answer = vec![0; answered];
            to.read_exact(&mut answer).unwrap();
            from.write_all(&answer).unwrap();
        }
        member.join().unwrap().unwrap();
        bytes
    })
}

#[test]
fn two_thousand_bad_streams_do_not_disturb_a_client() {
    let recorded = recorded();
    let server = server(Limits::default());
    let (stop, stopped) = mpsc::channel::<()>();
    let mut real = client(&server);
    thread::scope(|scope| {
        let working = scope.spawn(move || {
            let mut count = 0;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                count += 1;
                assert_eq!(real.add("count", 1).unwrap(), count);
            }
            count
        });
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        for _ in 0..2000 {
            let bytes = mutated(&mut random, &recorded);
            let mut stream = TcpStream::connect(server.address()).unwrap();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            until_closed(stream);
        }
        drop(stop);
        assert!(working.join().unwrap() > 0);
    });
    server.stop();
    let (rejected, census) = (server.rejects(), server.census());
    assert_eq!(rejected.total(), 2000, "{rejected:?}");
    assert!(rejected.wrong_secret > 0 && rejected.not_a_peer > 0 && rejected.closed > 0);
    assert!(rejected.version > 0, "{rejected:?}");
    // Nobody but the client was let in.
    assert_eq!((census.most_live, census.live, census.pending), (1, 0, 0));
}

#[test]
fn members_that_send_rubbish_do_not_disturb_the_others() {
    let server = server(Limits::default());
    let mut real = client(&server);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(4);
    for round in 0..200 {
        let mut bytes = vec![0; 40];
        random.fill_bytes(&mut bytes);
        // Every other one has a true length, so that its body is decoded.
        if round % 2 == 0 {
            bytes[..4].copy_from_slice(&36_u32.to_le_bytes());
            bytes[4] %= 6;
        }
        let mut stream = member(&server);
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        until_closed(stream);
        assert_eq!(real.add("count", 1).unwrap(), round + 1);
    }
    server.stop();
    assert!(server.rejects().malformed > 100);
}

#[test]
fn it_stops_while_clients_wait() {
    let server = server(Limits::default());
    let mut waiting = client(&server);
    let idle = TcpStream::connect(server.address()).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(move || waiting.wait("never", soon()));
        server.stop();
        let error = waits.join().unwrap().unwrap_err();
        let ended = matches!(error, StoreError::Lost(_) | StoreError::Late(_));
        assert!(ended, "{error}");
    });
    until_closed(idle);
    assert_eq!(server.census().live, 0);
    let error = StoreClient::connect(server.address(), &Secret::new(GOOD), None, "", soon());
    assert!(
        matches!(error, Err(StoreError::Unreachable(_))),
        "{error:?}"
    );
}

#[test]
fn a_client_whose_server_is_gone_says_so_each_time() {
    let server = server(Limits::default());
    let mut client = client(&server);
    server.stop();
    let error = client.get("a").unwrap_err();
    assert!(matches!(error, StoreError::Lost(_)), "{error}");
    assert_eq!(client.set("a", b"").unwrap_err(), error);
}

#[test]
fn it_serves_over_ipv6_too() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let server =
        StoreServer::start(listener, Secret::new(GOOD), None, "", Limits::default()).unwrap();
    let mut client = client(&server);
    client.set("a", b"1").unwrap();
    let local: SocketAddr = client.local_address();
    assert_eq!(local.ip(), Ipv6Addr::LOCALHOST);
}
