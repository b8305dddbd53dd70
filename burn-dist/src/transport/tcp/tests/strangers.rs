//! Strangers at the port of a process, while its job connects and while it works.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::exchange::all_to_all;
use super::*;
use crate::error::{Error, JoinFailure};
use crate::net::auth::{Role, authenticate};
use crate::transport::tcp::dial::NoConnection;

fn two_places() -> (NetworkConfig, NetworkConfig) {
    let mut places = places(Ipv4Addr::LOCALHOST.into(), 2, CALM);
    let second = places.pop().unwrap();
    (places.pop().unwrap(), second)
}

/// Process 0 waits for process 1 while `disturb` disturbs its port. Process 1 connects. The two exchange messages
/// while the port is disturbed again, until it is closed. Returns the rejects of process 0.
fn works_in_spite_of(mut disturb: impl FnMut(SocketAddr)) -> RejectCounts {
    let (first, second) = two_places();
    let port = first.addresses[0];
    let waiting = thread::spawn(move || connect(first, soon(), &mut || None).unwrap());
    disturb(port);
    let second = connect(second, soon(), &mut || None).unwrap();
    let networks = [waiting.join().unwrap(), second];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let exchange = scope.spawn(|| {
            for sequence in 0.. {
                all_to_all(&networks, 10_000, sequence);
                if is_over.load(SeqCst) {
                    break;
                }
            }
        });
        disturb(port);
        is_over.store(true, SeqCst);
        exchange.join().unwrap();
    });
    close_all(&networks);
    let refused = TcpStream::connect(port).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    networks[0].rejects()
}

/// Waits until the other side has closed the connection.
pub(super) fn wait_for_close(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    // It ends with the end of the stream or with a reset; what comes before it is a preamble.
    if let Err(error) = io::copy(&mut stream, &mut io::sink()) {
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "never closed");
    }
}

#[test]
fn random_bytes_are_turned_away_and_counted() {
    let mut random = SplitMix64::seed_from_u64(1);
    let rejected = works_in_spite_of(|port| {
        for _ in 0..500 {
            let mut stream = TcpStream::connect(port).unwrap();
            let mut bytes = vec![0; 1 + random.next_u32() as usize % 200];
            random.fill_bytes(&mut bytes);
            if random.next_u32().is_multiple_of(2) {
                // The beginning of a genuine handshake.
                let length = bytes.len().min(8);
                bytes[..length].copy_from_slice(&b"burndist"[..length]);
            }
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            wait_for_close(&stream);
        }
    });
    assert_eq!(rejected.total(), 1000, "{rejected}");
}

#[test]
fn hundreds_of_idle_connections_keep_nobody_out() {
    let mut idle = Vec::new();
    let rejected = works_in_spite_of(|port| {
        for _ in 0..600 {
            idle.push(TcpStream::connect(port).unwrap());
        }
    });
    // Every one was evicted, or was still there when the port closed: no deadline was waited for.
    assert!(rejected.crowded > 0, "{rejected}");
    let evicted = rejected.crowded + rejected.unfinished;
    assert_eq!(evicted, rejected.total(), "{rejected}");
}

#[test]
fn a_wrong_secret_another_job_and_a_false_name_are_turned_away() {
    let rejected = works_in_spite_of(|port| {
        let secret = Secret::new(b"what only these tests know");
        let wrong = Secret::new(b"what anybody could have thought of");
        let hello = |job: [u8; 16], process: usize, processes: usize| {
            crate::codec::encode(&(job, process, processes, 0_u32)).unwrap()
        };
        for (secret, purpose, hello) in [
            (&wrong, &b"transport"[..], hello(JOB, 1, 2)),
            (&secret, b"store", hello(JOB, 1, 2)),
            (&secret, b"transport", hello([0; 16], 1, 2)),
            (&secret, b"transport", hello(JOB, 1, 3)),
            (&secret, b"transport", hello(JOB, 0, 2)),
            (&secret, b"transport", hello(JOB, usize::MAX, 2)),
            (&secret, b"transport", b"no hello".to_vec()),
        ] {
            let stream = TcpStream::connect(port).unwrap();
            // Some are refused in the handshake, some for what they say in it.
            let _ = authenticate(&stream, secret, Role::Connects, purpose, &hello, soon());
            wait_for_close(&stream);
        }
    });
    assert_eq!((rejected.wrong_secret, rejected.foreign), (4, 10));
    assert_eq!(rejected.total(), 14, "{rejected}");
}

#[test]
fn missing_processes_are_named() {
    let mut places = places(Ipv4Addr::LOCALHOST.into(), 4, CALM);
    // Process 0 is away with its port; process 3 never calls; 1 and 2 are there.
    drop(places.remove(0));
    places.truncate(2);
    let deadline = Instant::now() + Duration::from_millis(500);
    let joining: Vec<_> = places
        .into_iter()
        .map(|place| thread::spawn(move || connect(place, deadline, &mut || None).unwrap_err()))
        .collect();
    for thread in joining {
        let error = thread.join().unwrap();
        assert!(
            error.to_string().contains("process 0 at 127.0.0.1"),
            "{error}"
        );
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(error.to_string().contains("did not connect"), "{error}");
        let Error::Rendezvous {
            failure: JoinFailure::Unconnected { missing, .. },
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(missing, &[0, 3]);
    }
    assert!(Instant::now() < deadline + Duration::from_secs(2));
}

#[test]
fn a_process_that_waits_for_others_holds_up_all() {
    // 0 and 1 have each other and 2; but 2 lacks 3, and so do they. Nobody comes up half.
    let mut places = places(Ipv4Addr::LOCALHOST.into(), 3, CALM);
    let unreachable = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let nobody = unreachable.local_addr().unwrap();
    drop(unreachable);
    // Only process 2 has a wrong address of process 1: it can connect with 0 alone.
    places[2].addresses[1] = nobody;
    let deadline = Instant::now() + Duration::from_millis(500);
    let joining: Vec<_> = places
        .into_iter()
        .map(|place| {
            thread::spawn(move || {
                connect(place, deadline, &mut || None)
                    .unwrap_err()
                    .to_string()
            })
        })
        .collect();
    let errors: Vec<_> = joining.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(errors[1].contains("process 2"), "{errors:?}");
    assert!(errors[2].contains("process 1"), "{errors:?}");
}

#[test]
fn a_process_that_connects_again_is_told_that_it_has_a_connection() {
    let networks = job(2, CALM);
    let address = networks[0].port.as_ref().unwrap().address();
    let (_, mut second) = two_places();
    second.addresses[0] = address;
    let again = Mesh::new(&second).unwrap();
    for _ in 0..3 {
        let Err(NoConnection::Failed(told)) = again.attempt(0, soon()) else {
            panic!("it was accepted")
        };
        assert!(told.contains("has a connection"), "{told}");
    }
    all_to_all(&networks, 1000, 0);
    close_all(&networks);
    let rejected = networks[0].rejects();
    assert_eq!((rejected.connected, rejected.total()), (3, 3), "{rejected}");
}

#[test]
fn a_process_that_is_known_to_be_gone_is_not_waited_for() {
    let (first, _second) = two_places();
    let gone = JoinFailure::Gone {
        process: 1,
        reason: None,
    };
    let start = Instant::now();
    let error = connect(first, soon(), &mut || Some(gone.clone())).unwrap_err();
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    let Error::Rendezvous { failure, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(failure, gone);
}
