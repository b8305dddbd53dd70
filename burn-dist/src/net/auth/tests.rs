use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::net::timed::Broken;

const GOOD: &[u8] = b"the secret of this job";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Returns both ends of a connection: the connecting, then the accepting one.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connects = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (connects, listener.accept().unwrap().0)
}

/// Does a handshake of two sides that differ in these arguments.
fn both(
    secrets: [&[u8]; 2],
    versions: [&str; 2],
    purposes: [&[u8]; 2],
) -> [Result<Vec<u8>, HandshakeError>; 2] {
    let (mut connects, mut accepts) = pair();
    let side = |stream: &mut TcpStream, role, side: usize| {
        let wire = &mut Wire {
            stream,
            deadline: soon(),
        };
        let hello = [b"connects".as_slice(), b"accepts"][side];
        handshake(
            wire,
            Version::of(versions[side]),
            [side as u8; 32],
            &Secret::new(secrets[side]),
            role,
            purposes[side],
            &|_| hello.to_vec(),
        )
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| side(&mut connects, Role::Connects, 0));
        let second = side(&mut accepts, Role::Accepts, 1);
        [first.join().unwrap(), second]
    })
}

/// Returns the result of the accepting side for a peer that does `act`.
fn accept(act: impl FnOnce(&mut TcpStream)) -> Result<Vec<u8>, HandshakeError> {
    let (mut peer, accepts) = pair();
    let secret = Secret::new(GOOD);
    thread::scope(|scope| {
        let accepting = scope.spawn(move || {
            let role = Role::Accepts;
            authenticate(&accepts, &secret, role, b"test", b"hello", soon())
        });
        act(&mut peer);
        accepting.join().unwrap()
    })
}

/// Plays a member that proves the secret, and then says `hello`.
fn prove(peer: &mut TcpStream, hello: impl FnOnce(&Transcript) -> Vec<u8>) {
    let nonce = [7; 32];
    peer.write_all(&[&MAGIC[..], &Version::OURS.0, &nonce].concat())
        .unwrap();
    let mut answer = [0; 96];
    peer.read_exact(&mut answer).unwrap();
    let theirs: Nonce = answer[32..64].try_into().unwrap();
    let secret = Secret::new(GOOD);
    let transcript = Transcript::new(&secret, Version::OURS, [b"test", b""], &nonce, &theirs);
    let proof = transcript.proof(Role::Connects);
    peer.write_all(&[&[ACCEPTED][..], &proof, &hello(&transcript)].concat())
        .unwrap();
}

#[test]
fn both_sides_get_the_hello_of_the_other() {
    let [connects, accepts] = both([GOOD, GOOD], [VERSION; 2], [b"store"; 2]);
    assert_eq!(connects.unwrap(), b"accepts");
    assert_eq!(accepts.unwrap(), b"connects");
    // No secret at all is the same on both sides, too.
    assert!(
        both([b"", b""], [VERSION; 2], [b"store"; 2])
            .iter()
            .all(Result::is_ok)
    );
}

#[test]
fn a_wrong_secret_is_told_to_both_sides() {
    for secrets in [[GOOD, b"another"], [b"another", GOOD], [b"", GOOD]] {
        let [connects, accepts] = both(secrets, [VERSION; 2], [b"store"; 2]);
        assert_eq!(connects.unwrap_err(), HandshakeError::WrongSecret);
        assert_eq!(accepts.unwrap_err(), HandshakeError::WrongSecret);
    }
}

#[test]
fn a_connection_for_another_purpose_is_refused() {
    let [connects, accepts] = both([GOOD; 2], [VERSION; 2], [b"store", b"transport"]);
    assert_eq!(connects.unwrap_err(), HandshakeError::WrongSecret);
    assert_eq!(accepts.unwrap_err(), HandshakeError::WrongSecret);
}

#[test]
fn versions_that_differ_are_both_named_on_both_sides() {
    let [connects, accepts] = both([GOOD; 2], ["0.1.0/1", "0.2.0/1"], [b"store"; 2]);
    let expected = |ours: &str, theirs: &str| HandshakeError::Version {
        ours: ours.to_owned(),
        theirs: theirs.to_owned(),
    };
    assert_eq!(connects.unwrap_err(), expected("0.1.0/1", "0.2.0/1"));
    assert_eq!(accepts.unwrap_err(), expected("0.2.0/1", "0.1.0/1"));
}

#[test]
fn a_recorded_handshake_proves_nothing_later() {
    // A relay that records what a member says.
    let (member, mut towards_member) = pair();
    let secret = Secret::new(GOOD);
    let mut recorded = Vec::new();
    let first = accept(|towards_port| {
        thread::scope(|scope| {
            let joins = scope.spawn(move || {
                let role = Role::Connects;
                authenticate(&member, &secret, role, b"test", b"member", soon())
            });
            let relay = |from: &mut TcpStream, to: &mut TcpStream, count: usize| {
                let mut bytes = vec![0; count];
                from.read_exact(&mut bytes).unwrap();
                to.write_all(&bytes).unwrap();
                bytes
            };
            recorded.extend(relay(&mut towards_member, towards_port, 64));
            relay(towards_port, &mut towards_member, 96);
            let sent = 1 + 32 + 2 + b"member".len() + 32;
            recorded.extend(relay(&mut towards_member, towards_port, sent));
            relay(
                towards_port,
                &mut towards_member,
                1 + 2 + b"hello".len() + 32,
            );
            assert_eq!(joins.join().unwrap().unwrap(), b"hello");
        });
    });
    assert_eq!(first.unwrap(), b"member");

    // The same bytes again: the nonce of the accepting side is another one now.
    let mut answer = Vec::new();
    let replayed = accept(|peer| {
        peer.write_all(&recorded).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        // The refusal may come as a reset, because the replayed hello stays unread.
        let _ = peer.read_to_end(&mut answer);
    });
    assert_eq!(replayed.unwrap_err(), HandshakeError::WrongSecret);
    assert!(answer.len() <= 96 + 1, "nothing but the refusal is told");
}

#[test]
fn a_proof_sent_back_proves_nothing() {
    // A peer without the secret returns the accepting side's own proof as its own.
    let reflected = accept(|peer| {
        let preamble = [&MAGIC[..], &Version::OURS.0, &[7; 32]].concat();
        peer.write_all(&preamble).unwrap();
        let mut answer = [0; 96];
        peer.read_exact(&mut answer).unwrap();
        peer.write_all(&[&[ACCEPTED][..], &answer[64..]].concat())
            .unwrap();
    });
    assert_eq!(reflected.unwrap_err(), HandshakeError::WrongSecret);
    // A port that echoes everything.
    let (connects, mut echo) = pair();
    let echoing = thread::spawn(move || {
        let mut bytes = [0; 64];
        echo.read_exact(&mut bytes).unwrap();
        echo.write_all(&bytes).unwrap();
    });
    let secret = Secret::new(GOOD);
    let error = authenticate(&connects, &secret, Role::Connects, b"test", b"", soon());
    echoing.join().unwrap();
    assert!(
        matches!(error, Err(HandshakeError::NotAPeer(_))),
        "{error:?}"
    );
}

#[test]
fn other_programs_are_named_by_what_they_say() {
    let error = accept(|peer| peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap()).unwrap_err();
    assert_eq!(error, HandshakeError::NotAPeer("GET / HT".to_owned()));
    assert_eq!(
        accept(|peer| peer.shutdown(Shutdown::Both).unwrap()),
        Err(HandshakeError::Closed)
    );
}

#[test]
fn one_byte_at_a_time_does_not_stretch_the_deadline() {
    let (mut peer, accepts) = pair();
    let deadline = Instant::now() + Duration::from_millis(50);
    thread::scope(|scope| {
        // It sends a byte whenever it can, until it is cut off.
        scope.spawn(move || while peer.write_all(b"b").is_ok() {});
        scope.spawn(move || {
            let secret = Secret::new(GOOD);
            let mut slow = [0_u8; 1];
            let late = loop {
                if let Err(broken) = timed::read(&accepts, &mut slow, deadline) {
                    break broken;
                }
            };
            assert!(matches!(late, Broken::Late), "{late:?}");
            let error = authenticate(&accepts, &secret, Role::Accepts, b"", b"", deadline);
            assert_eq!(error, Err(HandshakeError::TooSlow));
        });
    });
}

#[test]
fn hellos_are_bounded() {
    let (connects, _accepts) = pair();
    let hello = vec![0; HELLO + 1];
    let error = authenticate(
        &connects,
        &Secret::new(GOOD),
        Role::Connects,
        b"test",
        &hello,
        soon(),
    );
    assert_eq!(error, Err(HandshakeError::HelloTooLarge(HELLO + 1)));

    // A member that announces more than is allowed.
    let announced = accept(|peer| prove(peer, |_| vec![0xff, 0xff]));
    assert_eq!(announced, Err(HandshakeError::HelloTooLarge(0xffff)));
}

#[test]
fn a_hello_that_was_changed_on_its_way_is_refused() {
    let changed = accept(|peer| {
        prove(peer, |transcript| {
            let mut hello = transcript.hello(Role::Connects, b"process 1");
            hello[10] ^= 3;
            hello
        });
    });
    assert_eq!(changed, Err(HandshakeError::WrongSecret));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_without_the_secret_get_in(mut bytes: Vec<u8>, magic: bool, version: bool) {
        // Half of them begin well, so that the later states are reached.
        if magic {
            let version = if version { Version::OURS } else { Version([0xff; 24]) };
            bytes = [&MAGIC[..], &version.0, &[9; 32], &[ACCEPTED], &bytes].concat();
        }
        let outcome = accept(|peer| {
            let _ = peer.write_all(&bytes).and_then(|()| peer.shutdown(Shutdown::Write));
            let _ = peer.read_to_end(&mut Vec::new());
        });
        prop_assert!(outcome.is_err());
    }
}
