//! What goes wrong on a connection that was authenticated.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::exchange::all_to_all;
use super::*;
use crate::transport::tcp::frame::{BODY_LIMIT, NewsFrame};

const HEARTBEAT: Duration = Duration::from_millis(300);

/// Longest delay of an error, on a machine that does other things too.
const GRACE: Duration = Duration::from_secs(1);

fn silent(lost: &Lost) -> bool {
    matches!(lost.cause, Cause::Silent(_))
}

fn message(sequence: u64, body: &[u8]) -> Vec<u8> {
    let header = Header::message(tag(sequence), 0, body.len()).unwrap();
    [&header.encode()[..], body].concat()
}

#[test]
fn a_deadline_passes_and_the_message_comes_after_all() {
    let networks = job(2, CALM);
    let start = Instant::now();
    let time = Duration::from_millis(50);
    let lost = networks[0].receive(1, tag(0), start + time).unwrap_err();
    assert!(
        matches!(lost.cause, Cause::Deadline(after) if after >= time),
        "{lost}"
    );
    assert!(start.elapsed() < time + GRACE);
    networks[1].send(0, tag(0), b"late", &[], soon()).unwrap();
    assert_eq!(networks[0].receive(1, tag(0), soon()).unwrap().0, b"late");
    close_all(&networks);
}

#[test]
fn a_peer_that_dies_is_lost_at_once_and_the_others_go_on() {
    let (network, mut sockets) = among_sockets(2, CALM);
    let record = Record::of(&network);
    let dying = sockets.remove(0);
    (&dying).write_all(&message(0, b"whole")).unwrap();
    (&dying).write_all(&message(1, &[0; 1000])[..500]).unwrap();
    let start = Instant::now();
    drop(dying);
    let lost = network.receive(1, tag(1), soon()).unwrap_err();
    assert!(start.elapsed() < GRACE);
    assert!(matches!(lost.cause, Cause::Disconnected(_)), "{lost}");
    assert_eq!(lost.process, 1);
    // What came whole is there; all else fails the same way, and watchers are told once.
    assert_eq!(network.receive(1, tag(0), soon()).unwrap().1, b"whole");
    let again = network.receive(1, tag(2), soon()).unwrap_err();
    assert_eq!(again.to_string(), lost.to_string());
    let again = network.send(1, tag(2), &[], &[], soon()).unwrap_err();
    assert_eq!(again.to_string(), lost.to_string());
    let told = record.wait_for(1);
    assert!(matches!(&told[..], [Told::Lost(told)] if told.to_string() == lost.to_string()));
    (&sockets[0]).write_all(&message(0, b"still here")).unwrap();
    assert_eq!(network.receive(2, tag(0), soon()).unwrap().1, b"still here");
    drop(sockets);
    network.close();
}

#[test]
fn a_peer_that_dies_while_it_is_sent_to_is_lost_at_once() {
    let (network, mut sockets) = among_sockets(1, CALM);
    let mut dying = sockets.remove(0);
    thread::scope(|scope| {
        let sends = scope.spawn(|| network.send(1, tag(0), &[], &vec![0; 50_000_000], soon()));
        // It is in the middle of the message now.
        dying.read_exact(&mut vec![0; 1_000_000]).unwrap();
        let start = Instant::now();
        drop(dying);
        let lost = sends.join().unwrap().unwrap_err();
        assert!(start.elapsed() < GRACE, "{:?}", start.elapsed());
        assert!(matches!(lost.cause, Cause::Disconnected(_)), "{lost}");
    });
    network.close();
}

#[test]
fn a_frozen_peer_is_found_within_a_heartbeat() {
    let (network, sockets) = among_sockets(2, HEARTBEAT);
    let record = Record::of(&network);
    let start = Instant::now();
    let lost = network.receive(1, tag(0), soon()).unwrap_err();
    assert!(start.elapsed() < HEARTBEAT + GRACE, "{:?}", start.elapsed());
    assert!(silent(&lost), "{lost}");
    assert_eq!(record.wait_for(2).len(), 2);
    drop(sockets);
    network.close();
}

#[test]
fn a_peer_that_freezes_in_the_middle_of_messages_both_ways_is_found() {
    let (network, sockets) = among_sockets(1, HEARTBEAT);
    (&sockets[0])
        .write_all(&message(0, &[0; 1000])[..500])
        .unwrap();
    let start = Instant::now();
    // More than the system's buffers take, from two threads: one in the middle of its write, one
    // waiting for its turn.
    let body = vec![0; 50_000_000];
    thread::scope(|scope| {
        let sends = [1, 2].map(|at| {
            let (network, body) = (&network, &body);
            scope.spawn(move || network.send(1, tag(at), &[], body, soon()))
        });
        let lost = network.receive(1, tag(0), soon()).unwrap_err();
        assert!(silent(&lost), "{lost}");
        for send in sends {
            let lost = send.join().unwrap().unwrap_err();
            assert!(silent(&lost), "{lost}");
        }
    });
    assert!(start.elapsed() < HEARTBEAT + GRACE, "{:?}", start.elapsed());
    drop(sockets);
    network.close();
}

#[test]
fn a_peer_that_is_slow_but_alive_is_not_lost() {
    let (network, sockets) = among_sockets(1, HEARTBEAT);
    let sent = message(0, &[9; 20]);
    thread::scope(|scope| {
        let (done, over) = mpsc::channel::<()>();
        let socket = &sockets[0];
        scope.spawn(move || {
            let mut socket = socket;
            // Longer than several heartbeats for one frame; each pause is a fraction of one.
            for byte in sent {
                socket.write_all(&[byte]).unwrap();
                let _ = over.recv_timeout(HEARTBEAT / 12);
            }
        });
        assert_eq!(network.receive(1, tag(0), soon()).unwrap().1, [9; 20]);
        drop(done);
    });
    drop(sockets);
    network.close();
}

#[test]
fn a_deadline_in_the_middle_of_a_message_ends_the_connection() {
    let (network, sockets) = among_sockets(1, CALM);
    let record = Record::of(&network);
    let time = Duration::from_millis(200);
    let start = Instant::now();
    let lost = network
        .send(1, tag(0), &[], &vec![0; 50_000_000], start + time)
        .unwrap_err();
    assert!(start.elapsed() < time + GRACE);
    assert!(matches!(lost.cause, Cause::Deadline(_)), "{lost}");
    record.wait_for(1);
    let again = network.receive(1, tag(0), soon()).unwrap_err();
    assert!(matches!(again.cause, Cause::Deadline(_)), "{again}");
    drop(sockets);
    network.close();
}

#[test]
fn a_deadline_before_the_turn_ends_nothing() {
    let (network, sockets) = among_sockets(1, CALM);
    let body = vec![0; 50_000_000];
    thread::scope(|scope| {
        let long = scope.spawn(|| network.send(1, tag(0), &[], &body, soon()));
        let mut socket = &sockets[0];
        let mut some = vec![0; 1_000_000];
        socket.read_exact(&mut some).unwrap();
        let time = Duration::from_millis(50);
        let lost = network
            .send(1, tag(1), &[], &[], Instant::now() + time)
            .unwrap_err();
        assert!(matches!(lost.cause, Cause::Deadline(_)), "{lost}");
        // The long one goes on when the socket is read again.
        let mut rest = body.len() + super::super::frame::HEADER - some.len();
        while rest > 0 {
            rest -= socket.read(&mut some[..rest.min(1_000_000)]).unwrap();
        }
        long.join().unwrap().unwrap();
    });
    drop(sockets);
    network.close();
}

#[test]
fn closing_does_not_wait_for_a_frozen_peer_beyond_a_heartbeat() {
    let (network, sockets) = among_sockets(2, HEARTBEAT);
    let start = Instant::now();
    network.close();
    assert!(start.elapsed() < HEARTBEAT + GRACE, "{:?}", start.elapsed());
    drop(sockets);
}

#[test]
fn closing_ends_those_who_wait() {
    let networks = job(2, CALM);
    thread::scope(|scope| {
        let waits = scope.spawn(|| networks[0].receive(1, tag(0), soon()));
        networks[0].close();
        let lost = waits.join().unwrap().unwrap_err();
        assert!(matches!(lost.cause, Cause::Stopped), "{lost}");
    });
    networks[1].close();
}

#[test]
fn a_watcher_may_own_the_network() {
    struct Owner(Mutex<Option<Arc<TcpNetwork>>>, mpsc::Sender<()>);
    impl Watcher for Owner {
        fn lost(&self, _: &Lost) {
            // The last handle: the network is dropped on its own reader's thread.
            drop(self.0.lock().take());
            let _ = self.1.send(());
        }
        fn notice(&self, _: usize, _: &[u8]) {}
    }
    let (network, sockets) = among_sockets(1, CALM);
    let (dropped, done) = mpsc::channel();
    let owner = Arc::new(Owner(Mutex::new(Some(network.clone())), dropped));
    network.watch(owner);
    drop(network);
    drop(sockets);
    done.recv_timeout(LONG).unwrap();
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let networks = job(2, CALM);
    for process in [0, 2, usize::MAX] {
        let lost = networks[0].receive(process, tag(0), soon()).unwrap_err();
        assert!(matches!(lost.cause, Cause::Malformed(_)), "{lost}");
    }
    let head = vec![0; 100_000];
    let lost = networks[0].send(1, tag(0), &head, &[], soon()).unwrap_err();
    assert!(lost.to_string().contains("100000"), "{lost}");
    networks[0].send(1, tag(0), &[], &[], soon()).unwrap();
    networks[1].receive(0, tag(0), soon()).unwrap();
    close_all(&networks);
}

#[test]
fn a_length_beyond_the_limit_and_a_broken_frame_end_only_their_connection() {
    let mut oversized = message(0, &[]);
    oversized[32..40].fill(0x7f);
    let mut wrong_kind = message(0, &[]);
    wrong_kind[4] = 99;
    let notice = |number| NewsFrame::Notice {
        origin: 1,
        number,
        to: Vec::new(),
        content: vec![0; 1 << 20],
    };
    let notices = (1..20).flat_map(|number| notice(number).encode().unwrap());
    let notices = notices.collect();
    for (bytes, expected) in [
        (oversized, "expected at most"),
        (wrong_kind, "kind: expected 1 to 6, got 99"),
        (
            b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n".repeat(4),
            "magic: expected",
        ),
        (notices, "notices"),
    ] {
        let (network, sockets) = among_sockets(2, CALM);
        // The rest may meet a closed connection.
        let _ = (&sockets[0]).write_all(&bytes);
        let lost = network.receive(1, tag(0), soon()).unwrap_err();
        assert!(matches!(lost.cause, Cause::Malformed(_)), "{lost}");
        assert!(lost.to_string().contains(expected), "{lost}");
        (&sockets[1]).write_all(&message(0, b"fine")).unwrap();
        assert_eq!(network.receive(2, tag(0), soon()).unwrap().1, b"fine");
        drop(sockets);
        network.close();
    }
}

/// A stream that begins well and was then changed in some places, or one that never made sense.
fn mutated(random: &mut SplitMix64) -> Vec<u8> {
    if random.next_u32().is_multiple_of(4) {
        let mut bytes = vec![0; random.next_u32() as usize % 300];
        random.fill_bytes(&mut bytes);
        return bytes;
    }
    let mut bytes = Vec::new();
    for at in 0..3 {
        bytes.extend(message(at, &vec![1; random.next_u32() as usize % 100]));
        bytes.extend(Header::HEARTBEAT.encode());
    }
    for _ in 0..=random.next_u32() % 4 {
        let at = random.next_u32() as usize % bytes.len();
        bytes[at] ^= 1 << (random.next_u32() % 8);
    }
    bytes.truncate(bytes.len() - random.next_u32() as usize % 50);
    bytes
}

#[test]
fn two_thousand_senseless_streams_disturb_nobody() {
    let mut random = SplitMix64::seed_from_u64(3);
    for _ in 0..20 {
        let (network, sockets) = among_sockets(101, CALM);
        let (good, bad) = sockets.split_last().unwrap();
        for mut socket in bad {
            // It may be refused in the middle.
            let _ = socket.write_all(&mutated(&mut random));
            let _ = socket.shutdown(Shutdown::Write);
        }
        for peer in 1..=bad.len() {
            // A tag that no mutation of one bit makes of those sent.
            let far = Tag {
                group: !0,
                ..tag(0)
            };
            let lost = network.receive(peer, far, soon()).unwrap_err();
            assert!(
                matches!(
                    lost.cause,
                    Cause::Malformed(_) | Cause::Disconnected(_) | Cause::Left
                ),
                "{lost}"
            );
        }
        let mut socket = good;
        socket.write_all(&message(0, b"fine")).unwrap();
        assert_eq!(network.receive(101, tag(0), soon()).unwrap().1, b"fine");
        drop(sockets);
        network.close();
    }
}

#[test]
fn short_reads_of_any_length_make_the_same_messages() {
    let mut runner = TestRunner::deterministic();
    let lengths = proptest::collection::vec(1_usize..200, 50);
    for _ in 0..20 {
        let lengths = lengths.new_tree(&mut runner).unwrap().current();
        let (network, sockets) = among_sockets(1, CALM);
        sockets[0].set_nodelay(true).unwrap();
        let all: Vec<u8> = (0..20)
            .flat_map(|at| message(at, &bytes(at as usize, 150)))
            .collect();
        let mut rest = &all[..];
        for length in lengths.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*length));
            (&sockets[0]).write_all(now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        for at in 0..20 {
            let (_, body) = network.receive(1, tag(at), soon()).unwrap();
            assert_eq!(body, bytes(at as usize, 150));
        }
        drop(sockets);
        network.close();
    }
}

#[test]
fn a_message_over_the_limit_is_refused_with_the_limit_and_harms_nothing() {
    let networks = job(2, CALM);
    // Memory that is never touched.
    let body: Vec<u8> = bytemuck::zeroed_vec(BODY_LIMIT as usize + 1);
    let lost = networks[0].send(1, tag(0), &[], &body, soon()).unwrap_err();
    let text = lost.to_string();
    assert!(matches!(lost.cause, Cause::TooLarge(_)), "{text}");
    assert!(text.contains(&format!("{BODY_LIMIT} of body")), "{text}");
    all_to_all(&networks, 10, 1);
    close_all(&networks);
}
