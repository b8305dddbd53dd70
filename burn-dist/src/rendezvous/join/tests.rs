mod differences;
mod proxied;
mod refusals;
#[cfg(feature = "tls")]
mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;
use crate::error::Error;
use crate::net::secret::Secret;
use crate::rendezvous::store::StoreServer;

const PATIENCE: Duration = Duration::from_secs(20);

/// A listener for process 0, and the others' way to it.
fn master() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn process(process: usize, processes: usize, master: &str) -> JobConfig {
    JobConfig::new(process, processes, master).with_join_timeout(PATIENCE)
}

fn failure(result: Result<Joined>) -> JoinFailure {
    match result.unwrap_err() {
        Error::Rendezvous { failure, .. } => failure,
        other => panic!("{other}"),
    }
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    config: JobConfig,
) -> ScopedJoinHandle<'scope, Result<Joined>> {
    let ranks = config.process() + 1;
    scope.spawn(move || join(&config, ranks))
}

/// A port that no other test is given: below those that the system gives to connections, and another
/// with each call.
fn quiet_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % 20_000;
    loop {
        let step = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (start + step) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Waits until a process has entered itself.
fn until_entered(master: &str, process: usize) {
    let address = master.parse().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut store = StoreClient::connect(address, &Secret::default(), None, "", deadline).unwrap();
    store.wait(&format!("process/{process}"), deadline).unwrap();
}

fn check(joined: &[Joined]) {
    let ranks: Vec<usize> = (1..=joined.len()).collect();
    for (process, one) in joined.iter().enumerate() {
        assert_eq!(one.ranks_per_process, ranks);
        assert_eq!(one.addresses, joined[0].addresses);
        assert_eq!(one.job, joined[0].job);
        assert_eq!(one.listener.local_addr().unwrap(), one.addresses[process]);
        assert!(one.addresses[process].ip().is_loopback());
        assert_eq!(one.host.is_some(), process == 0);
    }
}

#[test]
fn eight_processes_join_in_any_order() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(8);
    for round in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("address");
        let mut order: Vec<usize> = (0..8).collect();
        for last in (1..8).rev() {
            order.swap(last, random.next_u32() as usize % (last + 1));
        }
        if round == 0 {
            // Process 0 comes last of all.
            order.sort_unstable_by(|one, other| other.cmp(one));
        }
        let mut joined = thread::scope(|scope| {
            let threads: Vec<_> = order
                .iter()
                .map(|&number| {
                    let config = process(number, 8, "127.0.0.1:0").with_address_file(&file);
                    (number, spawn(scope, config))
                })
                .collect();
            let mut joined: Vec<_> = threads
                .into_iter()
                .map(|(number, thread)| (number, thread.join().unwrap().unwrap()))
                .collect();
            joined.sort_unstable_by_key(|(number, _)| *number);
            joined
                .into_iter()
                .map(|(_, joined)| joined)
                .collect::<Vec<_>>()
        });
        check(&joined);
        joined[3].store.set("later", b"works").unwrap();
        assert_eq!(joined[5].store.get("later").unwrap().unwrap(), b"works");
        drop(joined);
        assert!(!file.exists(), "the next job must not find it");
    }
}

#[test]
fn one_process_is_a_job_too() {
    let joined = join(&process(0, 1, "127.0.0.1:0"), 1).unwrap();
    check(&[joined]);
}

#[test]
fn a_job_works_over_ipv6() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let master = listener.local_addr().unwrap().to_string();
    thread::scope(|scope| {
        let other = spawn(scope, process(1, 2, &master));
        let first = join(&process(0, 2, &master).with_listener(listener), 1).unwrap();
        check(&[first, other.join().unwrap().unwrap()]);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_interface_may_be_named_by_all() {
    let master = format!("127.0.0.1:{}", quiet_port());
    thread::scope(|scope| {
        let other = spawn(scope, process(1, 2, &master).with_interface("lo"));
        let first = join(&process(0, 2, &master).with_interface("lo"), 1).unwrap();
        check(&[first, other.join().unwrap().unwrap()]);
    });
    for number in [0, 1] {
        let (listener, address) = self::master();
        // Process 1 finds a store there; process 0 would make its own.
        let store = (number == 1).then(|| {
            let limits = crate::rendezvous::store::Limits::default();
            StoreServer::start(listener, Secret::default(), None, "", limits).unwrap()
        });
        let unknown = process(number, 2, &address).with_interface("none0");
        let error = join(&unknown, 1).unwrap_err().to_string();
        assert!(error.contains("none0: this is no address"), "{error}");
        assert!(error.contains("lo (127.0.0.1"), "{error}");
        drop(store);
    }
}

#[test]
fn fifty_restarts_work_on_one_port() {
    let master = format!("127.0.0.1:{}", quiet_port());
    for _ in 0..50 {
        thread::scope(|scope| {
            let other = spawn(scope, process(1, 2, &master));
            let first = join(&process(0, 2, &master), 1).unwrap();
            check(&[first, other.join().unwrap().unwrap()]);
        });
    }
}
