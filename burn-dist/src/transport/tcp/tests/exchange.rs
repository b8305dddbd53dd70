//! What goes right.

use super::*;

/// Every process sends to every other one, and all do at once.
pub(super) fn all_to_all(networks: &[Arc<TcpNetwork>], length: usize, sequence: u64) {
    thread::scope(|scope| {
        for network in networks {
            for peer in (0..networks.len()).filter(|&peer| peer != network.process()) {
                scope.spawn(move || {
                    let (from, seed) = (network.process(), network.process() * 16 + peer);
                    let head = format!("from {from}");
                    let body = bytes(seed, length);
                    network
                        .send(peer, tag(sequence), head.as_bytes(), &body, soon())
                        .unwrap();
                });
                scope.spawn(move || {
                    let (head, body) = network.receive(peer, tag(sequence), soon()).unwrap();
                    assert_eq!(head, format!("from {peer}").as_bytes());
                    assert!(body == bytes(peer * 16 + network.process(), length));
                });
            }
        }
    });
}

#[test]
fn processes_exchange_messages_of_every_size_at_once() {
    for address in loopbacks() {
        for processes in [1, 2, 3, 5] {
            let networks = job_at(address, processes, CALM);
            for (sequence, length) in [0, 1, 4097, 1_000_003].into_iter().enumerate() {
                all_to_all(&networks, length, sequence as u64);
            }
            close_all(&networks);
        }
    }
}

#[test]
fn large_messages_cross() {
    // Far more than all socket buffers hold, both ways at once: neither side waits for the other.
    for processes in [2, 3] {
        let networks = job(processes, CALM);
        all_to_all(&networks, 20_000_001, 0);
        close_all(&networks);
    }
}

#[test]
fn messages_are_found_by_their_tag_in_any_order() {
    let networks = job(2, CALM);
    let tags: Vec<Tag> = (0..100)
        .map(|at: u64| Tag {
            group: at % 3,
            sequence: at / 6,
            part: (at % 2) as u32,
        })
        .collect();
    for (at, tag) in tags.iter().enumerate() {
        networks[1]
            .send(0, *tag, &[at as u8], &bytes(at, at * 100), soon())
            .unwrap();
    }
    for (at, tag) in tags.iter().enumerate().rev() {
        let (head, body) = networks[0].receive(1, *tag, soon()).unwrap();
        assert_eq!((head, body), (vec![at as u8], bytes(at, at * 100)));
    }
    close_all(&networks);
}

#[test]
fn messages_with_one_tag_keep_their_order() {
    let networks = job(2, CALM);
    for at in 0..10 {
        networks[0].send(1, tag(0), &[at], &[], soon()).unwrap();
    }
    for at in 0..10 {
        assert_eq!(networks[1].receive(0, tag(0), soon()).unwrap().0, [at]);
    }
    close_all(&networks);
}

#[test]
fn many_threads_share_a_connection() {
    let networks = job(2, CALM);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (sender, receiver) = (&networks[thread % 2], &networks[1 - thread % 2]);
            scope.spawn(move || {
                for at in 0..50 {
                    let tag = tag((thread * 1000 + at) as u64);
                    let body = bytes(at, 10_000);
                    sender
                        .send(receiver.process(), tag, &[], &body, soon())
                        .unwrap();
                }
            });
            scope.spawn(move || {
                for at in 0..50 {
                    let tag = tag((thread * 1000 + at) as u64);
                    let (_, body) = receiver.receive(sender.process(), tag, soon()).unwrap();
                    assert!(body == bytes(at, 10_000));
                }
            });
        }
    });
    close_all(&networks);
}

#[test]
fn a_notice_reaches_all_who_watch_then_or_later() {
    let networks = job(3, CALM);
    let early = Record::of(&networks[0]);
    networks[2].notify(b"no more");
    let late = Record::of(&networks[1]);
    for record in [early, late] {
        let told = record.wait_for(1);
        assert!(
            matches!(&told[..], [Told::Notice(2, text)] if text == b"no more"),
            "{told:?}"
        );
    }
    // Connections go on; what comes of a notice is decided above.
    all_to_all(&networks, 100, 0);
    close_all(&networks);
}

#[test]
fn a_notice_before_the_end_arrives() {
    let networks = job(2, CALM);
    let record = Record::of(&networks[0]);
    networks[1].notify(b"because");
    networks[1].close();
    let told = record.wait_for(1);
    assert!(
        matches!(&told[..], [Told::Notice(1, text)] if text == b"because"),
        "{told:?}"
    );
    networks[0].close();
}

#[test]
fn leaving_in_good_order_fails_only_those_who_wait() {
    let networks = job(3, CALM);
    let records: Vec<_> = networks.iter().map(|network| Record::of(network)).collect();
    let last = bytes(1, 5_000_000);
    networks[2].send(0, tag(0), b"last", &last, soon()).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| networks[1].receive(2, tag(9), soon()));
        networks[2].close();
        let lost = waits.join().unwrap().unwrap_err();
        assert!(matches!(lost.cause, Cause::Left), "{lost}");
        assert_eq!(lost.process, 2);
    });
    // What it sent before it left is there, whole.
    assert!(networks[0].receive(2, tag(0), soon()).unwrap().1 == last);
    let lost = networks[0].receive(2, tag(1), soon()).unwrap_err();
    assert!(matches!(lost.cause, Cause::Left), "{lost}");
    let lost = networks[0].send(2, tag(1), &[], &[], soon()).unwrap_err();
    assert!(matches!(lost.cause, Cause::Left), "{lost}");
    let lost = networks[2].send(0, tag(1), &[], &[], soon()).unwrap_err();
    assert!(matches!(lost.cause, Cause::Stopped), "{lost}");
    all_to_all(&networks[..2], 1000, 5);
    close_all(&networks);
    for record in records {
        assert!(record.all().is_empty(), "{:?}", record.all());
    }
}

#[test]
fn idle_connections_stay() {
    // Heartbeats keep them: without, they would be silent several times over.
    let heartbeat = Duration::from_millis(300);
    let networks = job(2, heartbeat);
    let start = Instant::now();
    let waited = networks[0]
        .receive(1, tag(0), start + 4 * heartbeat)
        .unwrap_err();
    assert!(matches!(waited.cause, Cause::Deadline(_)), "{waited}");
    all_to_all(&networks, 10, 1);
    close_all(&networks);
}
