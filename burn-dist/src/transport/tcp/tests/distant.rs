//! Processes that have no connection with each other at first: messages between them, and what they hear of one
//! another. In a job of 8 the processes `p` and `p + 3` are such; in one of 6, `p` and `p + 3` too.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exchange::all_to_all;
use super::*;
use crate::transport::faults::Breakable;
use crate::transport::tcp::links::LinkState;

const HEARTBEAT: Duration = Duration::from_millis(500);
/// Longest delay of news, on a machine that does other things too.
const GRACE: Duration = Duration::from_secs(2);

fn records(networks: &[Arc<TcpNetwork>]) -> Vec<Arc<Record>> {
    networks.iter().map(|network| Record::of(network)).collect()
}

/// Every record but those of `ended` holds one loss of each of these processes, and nothing else.
fn assert_told_of(records: &[Arc<Record>], ended: &[usize], fits: impl Fn(&Cause) -> bool) {
    for (process, record) in records.iter().enumerate() {
        if ended.contains(&process) {
            continue;
        }
        let mut told: Vec<_> = record
            .wait_for(ended.len())
            .into_iter()
            .map(|told| match told {
                Told::Lost(lost) if fits(&lost.cause) => lost.process,
                other => panic!("process {process} was told {other:?}"),
            })
            .collect();
        told.sort_unstable();
        assert_eq!(told, ended, "process {process}");
    }
}

fn address_of(network: &TcpNetwork) -> String {
    network.port.as_ref().unwrap().address().to_string()
}

#[test]
fn a_process_has_few_connections_until_it_needs_more() {
    let networks = job(16, CALM);
    for network in &networks {
        assert_eq!(network.connections(), 7);
    }
    let before = networks[0].messages();
    networks[0].send(3, tag(0), b"first", &[], soon()).unwrap();
    networks[0].send(3, tag(0), b"second", &[], soon()).unwrap();
    for due in [&b"first"[..], b"second"] {
        assert_eq!(networks[3].receive(0, tag(0), soon()).unwrap().0, due);
    }
    assert_eq!(networks[0].messages(), before + 2);
    assert_eq!(
        (networks[0].connections(), networks[3].connections()),
        (8, 8)
    );
    assert_eq!(networks[1].connections(), 7);
    all_to_all(&networks, 1000, 1);
    for network in &networks {
        assert_eq!(network.connections(), 15);
    }
    let records = records(&networks);
    close_all(&networks);
    assert!(records.iter().all(|record| record.all().is_empty()));
}

#[test]
fn dials_from_both_sides_at_once_make_one_connection() {
    for round in 0..20 {
        let networks = job(8, CALM);
        let records = records(&networks);
        let start = Barrier::new(16);
        thread::scope(|scope| {
            for network in &networks {
                for distance in [3, 5] {
                    let start = &start;
                    scope.spawn(move || {
                        let (from, to) = (network.process(), (network.process() + distance) % 8);
                        let body = bytes(from, 10 + round * 1000);
                        let mut into = vec![0; body.len()];
                        let sends = [Outgoing {
                            to,
                            tag: tag(1),
                            head: b"head",
                            body: &body,
                        }];
                        let mut receives =
                            [Incoming::new(to, tag(1), Some(b"head"), Some(&mut into))];
                        start.wait();
                        let done = network.exchange(&sends, &mut receives, soon(), &NeverCancelled);
                        assert!(done.unwrap());
                        assert!(into == bytes(to, body.len()));
                    });
                }
            }
        });
        for network in &networks {
            assert_eq!(network.connections(), 7);
        }
        for network in &networks {
            let rejects = network.rejects();
            assert_eq!(rejects.total(), 0, "{rejects}");
        }
        close_all(&networks);
        for record in records {
            assert!(record.all().is_empty(), "{:?}", record.all());
        }
    }
}

#[test]
fn a_death_is_known_to_all_at_once() {
    let networks = job(8, CALM);
    let records = records(&networks);
    // One that has a connection beyond the overlay, and one that waits for the dead.
    networks[3].send(0, tag(0), &[], &[], soon()).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| networks[5].receive(0, tag(1), soon()));
        let start = Instant::now();
        networks[0].die();
        assert_told_of(&records, &[0], |cause| {
            matches!(cause, Cause::Disconnected(_))
        });
        let lost = waits.join().unwrap().unwrap_err();
        assert!(start.elapsed() < GRACE, "{:?}", start.elapsed());
        assert_eq!(lost.process, 0);
    });
    for process in [1, 3, 5] {
        let lost = networks[process].send(0, tag(2), &[], &[], soon());
        let lost = lost.unwrap_err();
        assert!(matches!(lost.cause, Cause::Disconnected(_)), "{lost}");
        assert_eq!(lost.address, address_of(&networks[0]));
        assert!(networks[process].check(0).is_err());
    }
    networks[3].send(6, tag(3), b"on", &[], soon()).unwrap();
    assert_eq!(networks[6].receive(3, tag(3), soon()).unwrap().0, b"on");
    close_all(&networks);
}

#[test]
fn a_freeze_is_known_to_all_after_a_heartbeat() {
    let networks = job(8, HEARTBEAT);
    let records = records(&networks);
    let start = Instant::now();
    networks[0].freeze();
    assert_told_of(&records, &[0], |cause| matches!(cause, Cause::Silent(_)));
    assert!(start.elapsed() < HEARTBEAT + GRACE, "{:?}", start.elapsed());
    close_all(&networks);
}

#[test]
fn several_deaths_at_once_are_known_to_all() {
    let networks = job(12, CALM);
    let records = records(&networks);
    for dying in [1, 4, 5] {
        networks[dying].die();
    }
    assert_told_of(&records, &[1, 4, 5], |cause| {
        matches!(cause, Cause::Disconnected(_))
    });
    close_all(&networks);
}

#[test]
fn a_notice_reaches_those_it_is_for_once_and_in_order() {
    let networks = job(8, CALM);
    let records = records(&networks);
    for number in 0..50_u8 {
        networks[0].notify_some(&[number], &|process| [3, 4].contains(&process));
    }
    networks[0].notify(b"all");
    for (process, record) in records.iter().enumerate().skip(1) {
        let told = record.wait_for(if [3, 4].contains(&process) { 51 } else { 1 });
        let mut due: Vec<_> = (0..50).map(|number| vec![number]).collect();
        due.retain(|_| [3, 4].contains(&process));
        due.push(b"all".to_vec());
        let told: Vec<_> = told
            .into_iter()
            .map(|told| match told {
                Told::Notice(0, notice) => notice,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, due, "process {process}");
    }
    close_all(&networks);
    assert!(records[0].all().is_empty());
}

#[test]
fn a_process_that_has_left_is_known_for_that() {
    for round in 0..10 {
        let networks = job(8, CALM);
        let records = records(&networks);
        thread::scope(|scope| {
            let waits = scope.spawn(|| networks[5].receive(0, tag(1), soon()));
            if round % 2 == 0 {
                // It is dialled while it leaves, too.
                scope.spawn(|| {
                    let sent = networks[3].send(0, tag(1), &[], &[], soon());
                    let left = |lost: Lost| assert!(matches!(lost.cause, Cause::Left), "{lost}");
                    sent.map_or_else(left, drop);
                });
            }
            networks[0].close();
            let lost = waits.join().unwrap().unwrap_err();
            assert!(matches!(lost.cause, Cause::Left), "{lost}");
        });
        let start = Instant::now();
        let lost = networks[3].send(0, tag(2), &[], &[], soon()).unwrap_err();
        assert!(matches!(lost.cause, Cause::Left), "{lost}");
        assert!(start.elapsed() < GRACE);
        close_all(&networks);
        for record in records {
            assert!(record.all().is_empty(), "{:?}", record.all());
        }
    }
}

#[test]
fn what_was_sent_before_a_departure_is_received_after_it() {
    for round in 0..20 {
        let networks = job(8, CALM);
        let body = bytes(round, 100_000);
        networks[0].send(3, tag(0), b"last", &body, soon()).unwrap();
        networks[0].close();
        assert!(networks[3].receive(0, tag(0), soon()).unwrap().1 == body);
        let lost = networks[3].receive(0, tag(1), soon()).unwrap_err();
        assert!(matches!(lost.cause, Cause::Left), "{lost}");
        close_all(&networks);
    }
}

#[test]
fn those_who_go_on_after_the_others_have_left_hear_of_each_other() {
    let networks = job(6, HEARTBEAT);
    let records = records(&networks);
    for process in [1, 2, 4, 5] {
        networks[process].close();
    }
    // Process 3 has no other way to know of process 0 any more.
    thread::scope(|scope| {
        let waits = scope.spawn(|| networks[3].receive(0, tag(0), soon()));
        let waited = networks[0].receive(3, tag(7), Instant::now() + 4 * HEARTBEAT);
        let waited = waited.unwrap_err();
        assert!(matches!(waited.cause, Cause::Deadline(_)), "{waited}");
        networks[0].notify(b"why");
        let told = records[3].wait_for(1);
        assert!(
            matches!(&told[..], [Told::Notice(0, text)] if text == b"why"),
            "{told:?}"
        );
        networks[0].freeze();
        let lost = waits.join().unwrap().unwrap_err();
        assert!(matches!(lost.cause, Cause::Silent(_)), "{lost}");
    });
    close_all(&networks);
}

/// A job of 6 in which process 0 finds nobody behind the address of process 3 who answers.
fn with_a_silent_port() -> (Vec<Arc<TcpNetwork>>, TcpListener) {
    let mut places = places(Ipv4Addr::LOCALHOST.into(), 6, CALM);
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    places[0].addresses[3] = silent.local_addr().unwrap();
    let joining: Vec<_> = places
        .into_iter()
        .map(|place| thread::spawn(move || connect(place, soon(), &mut || None).unwrap()))
        .collect();
    let networks = joining.into_iter().map(|t| t.join().unwrap()).collect();
    (networks, silent)
}

#[test]
fn a_dial_that_hangs_holds_up_nobody() {
    let (networks, _silent) = with_a_silent_port();
    let start = Instant::now();
    let time = Duration::from_millis(200);
    let late = networks[0].send(3, tag(0), &[], &[], start + time);
    let late = late.unwrap_err();
    assert!(matches!(late.cause, Cause::Deadline(_)), "{late}");
    assert!(start.elapsed() < time + GRACE, "{:?}", start.elapsed());
    // A deadline is no loss: the other side may dial.
    networks[3].send(0, tag(1), b"here", &[], soon()).unwrap();
    assert_eq!(networks[0].receive(3, tag(1), soon()).unwrap().0, b"here");
    networks[0].send(3, tag(2), b"there", &[], soon()).unwrap();
    assert_eq!(networks[3].receive(0, tag(2), soon()).unwrap().0, b"there");
    close_all(&networks);
}

#[test]
fn a_dial_that_is_given_up_is_no_failure() {
    let (networks, _silent) = with_a_silent_port();
    let links = &networks[0].mesh.links;
    thread::scope(|scope| {
        let sends = scope.spawn(|| networks[0].send(3, tag(0), b"there", &[], soon()));
        let end = soon();
        while !matches!(
            links.lock().get(3).state,
            LinkState::Dialling {
                socket: Some(_),
                ..
            }
        ) {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
        // The dial of the higher process counts.
        networks[3].send(0, tag(1), b"here", &[], soon()).unwrap();
        sends.join().unwrap().unwrap();
    });
    close_all(&networks);
    assert_eq!(links.lock().get(3).failure, None);
}

#[test]
fn a_message_that_is_late_is_not_explained_by_a_dial_that_failed() {
    let networks = job(6, CALM);
    networks[0].mesh.links.lock().get_mut(3).failure = Some("it was busy".to_owned());
    let until = Instant::now() + Duration::from_millis(10);
    let late = networks[0].receive(3, tag(0), until).unwrap_err();
    assert!(matches!(late.cause, Cause::Deadline(_)), "{late}");
    close_all(&networks);
}

#[test]
fn closing_and_cancelling_end_a_dial_that_hangs() {
    struct Flag(AtomicBool);
    impl Cancel for Flag {
        fn is_cancelled(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
        fn received_from(&self, _: usize) {}
    }
    let (networks, _silent) = with_a_silent_port();
    let flag = Flag(AtomicBool::new(false));
    let send = |number| Outgoing {
        to: 3,
        tag: tag(number),
        head: &[],
        body: &[],
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let sends = scope.spawn(|| networks[0].exchange(&[send(0)], &mut [], soon(), &flag));
        flag.0.store(true, Ordering::SeqCst);
        assert!(!sends.join().unwrap().unwrap());
        let sends = scope.spawn(|| networks[0].send(3, tag(1), &[], &[], soon()));
        networks[0].close();
        let lost = sends.join().unwrap().unwrap_err();
        assert!(matches!(lost.cause, Cause::Stopped), "{lost}");
    });
    assert!(start.elapsed() < GRACE, "{:?}", start.elapsed());
    close_all(&networks);
}

#[test]
fn a_process_that_refuses_without_a_word_is_lost_for_all() {
    let (networks, silent) = with_a_silent_port();
    let records = records(&networks);
    drop(silent);
    let lost = networks[0].send(3, tag(0), &[], &[], soon()).unwrap_err();
    assert!(matches!(lost.cause, Cause::Disconnected(_)), "{lost}");
    assert!(lost.to_string().contains("refused"), "{lost}");
    for (process, record) in records
        .iter()
        .enumerate()
        .filter(|(process, _)| *process != 3)
    {
        let told = record.wait_for(1);
        let told = told.first();
        assert!(
            matches!(told, Some(Told::Lost(lost)) if lost.process == 3),
            "process {process}: {told:?}"
        );
    }
    close_all(&networks);
}
