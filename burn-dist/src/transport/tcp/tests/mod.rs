//! Networks of processes that are threads of this one, over loopback.

mod backlog;
mod distant;
mod exchange;
mod failures;
mod faults;
pub(crate) mod proxied;
mod strangers;
#[cfg(feature = "tls")]
mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::connect::{NetworkConfig, connect};
use super::frame::Header;
use super::*;
use crate::net::Secret;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_mins(1);
/// Long enough that a busy machine doesn't look frozen.
const CALM: Duration = Duration::from_secs(30);
const JOB: [u8; 16] = *b"the job of tests";

fn soon() -> Instant {
    Instant::now() + LONG
}

fn tag(sequence: u64) -> Tag {
    Tag {
        group: 7,
        sequence,
        part: 3,
    }
}

/// Bytes that differ with the seed and the place.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(97)) as u8)
        .collect()
}

/// The place of a process.
fn place(
    process: usize,
    addresses: Vec<SocketAddr>,
    listener: TcpListener,
    heartbeat: Duration,
) -> NetworkConfig {
    NetworkConfig {
        process,
        addresses,
        listener,
        job: JOB,
        secret: Secret::new(b"what only these tests know"),
        tls: None,
        heartbeat,
    }
}

/// A place for each process of a job on this machine.
fn places(address: IpAddr, processes: usize, heartbeat: Duration) -> Vec<NetworkConfig> {
    let listeners: Vec<_> = (0..processes)
        .map(|_| TcpListener::bind((address, 0)).unwrap())
        .collect();
    let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    listeners
        .into_iter()
        .enumerate()
        .map(|(process, listener)| place(process, addresses.clone(), listener, heartbeat))
        .collect()
}

fn job_at(address: IpAddr, processes: usize, heartbeat: Duration) -> Vec<Arc<TcpNetwork>> {
    let joining: Vec<_> = places(address, processes, heartbeat)
        .into_iter()
        .map(|place| thread::spawn(move || connect(place, soon(), &mut || None).unwrap()))
        .collect();
    joining.into_iter().map(|t| t.join().unwrap()).collect()
}

pub(crate) fn job(processes: usize, heartbeat: Duration) -> Vec<Arc<TcpNetwork>> {
    job_at(Ipv4Addr::LOCALHOST.into(), processes, heartbeat)
}

/// Closes all networks at the same time, as the processes of a job do.
fn close_all(networks: &[Arc<TcpNetwork>]) {
    thread::scope(|scope| {
        for network in networks {
            scope.spawn(|| network.close());
        }
    });
}

/// Process 0 of a job whose other processes are bare sockets, which have said that they are up.
fn among_sockets(others: usize, heartbeat: Duration) -> (Arc<TcpNetwork>, Vec<TcpStream>) {
    // One listener for all: finding a free port is slow where thousands were used just before.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap();
    let pair = || {
        let theirs = TcpStream::connect(port).unwrap();
        (listener.accept().unwrap().0, theirs)
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..others).map(|_| pair()).unzip();
    let addresses = theirs.iter().map(|socket| socket.local_addr().unwrap());
    let addresses = std::iter::once(port).chain(addresses).collect();
    let mesh = Mesh::new(&place(0, addresses, listener, heartbeat)).unwrap();
    for (peer, socket) in ours.into_iter().enumerate() {
        let (_, attempt) = mesh.answer(peer + 1);
        let joined = mesh.join(peer + 1, attempt.unwrap(), socket.into(), false);
        assert!(joined.unwrap());
    }
    let network = TcpNetwork::start(mesh, None).unwrap();
    for mut stream in &theirs {
        io::Write::write_all(&mut stream, &Header::HEARTBEAT.encode()).unwrap();
    }
    for connection in network.mesh.all() {
        let mut state = connection.state.lock();
        while !state.owes_heartbeats {
            let waited = connection.changed.wait_until(&mut state, soon());
            assert!(!waited.timed_out());
        }
    }
    (Arc::new(network), theirs)
}

/// Keeps what it is told, and when.
#[derive(Default)]
struct Record {
    told: Mutex<Vec<Told>>,
    more: Condvar,
}

#[derive(Clone, Debug)]
enum Told {
    Lost(Lost),
    Notice(usize, Vec<u8>),
}

impl Record {
    fn of(network: &TcpNetwork) -> Arc<Self> {
        let record = Arc::new(Self::default());
        network.watch(record.clone());
        record
    }

    fn push(&self, told: Told) {
        self.told.lock().push(told);
        self.more.notify_all();
    }

    /// Waits until it was told so many things.
    fn wait_for(&self, count: usize) -> Vec<Told> {
        let end = soon();
        let mut told = self.told.lock();
        while told.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "told only {told:?}");
            self.more.wait_for(&mut told, left);
        }
        told.clone()
    }

    fn all(&self) -> Vec<Told> {
        self.told.lock().clone()
    }
}

impl Watcher for Record {
    fn lost(&self, lost: &Lost) {
        self.push(Told::Lost(lost.clone()));
    }

    fn notice(&self, from: usize, notice: &[u8]) {
        self.push(Told::Notice(from, notice.to_vec()));
    }
}

fn loopbacks() -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    if TcpListener::bind(SocketAddr::new(v6, 0)).is_ok() {
        addresses.push(v6);
    }
    addresses
}
