//! Strangers at the ports of a job, while it connects and while it works.
//!
//! The test stops process 2 once it has entered the job, so that processes 0 and 1 wait for its connection, and
//! attacks the store's port and the ports of both. Then process 2 goes on, the job works, the store's port is
//! closed, and the ports of processes 0 and 1 are attacked again.
//!
//! The number of strangers at a port equals the number that the job says it turned away: each stranger waits
//! until it was turned away, so none is left in the system's queue when the port closes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use burn_dist::launch::Worker;
use burn_dist::{ReduceOp, Result};
use hmac::{Hmac, Mac};
use rustix::process::{Resource, Signal, getrlimit, setrlimit};
use sha2::Sha256;

use crate::job::{Job, Plan};
use crate::support::Random;
use crate::worker::{Failure, Place, SECRET, tell};

/// Streams of bytes, over all ports.
const STREAMS: usize = 10_000;
/// Connections that say nothing, at each of two ports.
const IDLE: usize = 1_000;
/// Longer than any wait here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);
/// Most growth of a process at its peak. At most 64 connections to the store and 256 to the port for the other
/// processes are pending at once, each with a thread that touches some 50 KiB of stack and buffers: 16 MB; as much
/// again for the allocator.
const PEAK_KIB: u64 = 32 << 10;
/// Most growth from the first half of the streams to the second. A leak of 1 KiB for each connection would be more.
const DRIFT_KIB: u64 = 3 << 10;

/// Checks a sum in every step until the test says that it is enough.
pub(crate) fn work(worker: &Worker) -> Result<(), Failure> {
    let enough = Place::here().unwrap().address_file.with_file_name("enough");
    let (rank, ranks) = (worker.rank(), worker.world_size());
    for step in 0_usize.. {
        // Small whole numbers, so the sum is exact.
        let value = |rank: usize, at: usize| ((rank * 7 + step * 3 + at) % 64) as f32;
        let mut buffer: Vec<f32> = (0..10_000).map(|at| value(rank, at)).collect();
        worker.group().all_reduce(&mut buffer, ReduceOp::Sum)?;
        for (at, found) in buffer.iter().enumerate() {
            let expected: f32 = (0..ranks).map(|rank| value(rank, at)).sum();
            if (found - expected).abs() > 0.0 {
                return Err(format!("{found} is not {expected}, step {step}").into());
            }
        }
        if step == 0 {
            tell("going");
        }
        // All end in the same step.
        let mut stop = [u8::from(rank == 0 && enough.exists())];
        worker.group().broadcast(&mut stop, 0)?;
        if stop[0] == 1 {
            tell(format_args!("right in {} steps", step + 1));
            break;
        }
    }
    Ok(())
}

/// A port, with the purpose that its connections prove.
#[derive(Clone, Copy)]
struct Port {
    address: SocketAddr,
    purpose: &'static [u8],
}

/// A stranger's side of the handshake, made from its description and not from the library's code.
struct Handshake {
    purpose: &'static [u8],
    preamble: [u8; 64],
    answer: [u8; 96],
}

impl Handshake {
    fn begin(stream: &mut TcpStream, port: Port, nonce: [u8; 32]) -> io::Result<Self> {
        let mut preamble = [0; 64];
        preamble[..8].copy_from_slice(b"burndist");
        let version = concat!(env!("CARGO_PKG_VERSION"), "/5");
        preamble[8..8 + version.len()].copy_from_slice(version.as_bytes());
        preamble[32..].copy_from_slice(&nonce);
        stream.write_all(&preamble)?;
        let mut answer = [0; 96];
        stream.read_exact(&mut answer)?;
        Ok(Self {
            purpose: port.purpose,
            preamble,
            answer,
        })
    }

    fn code(&self, secret: &[u8], content: &[u8]) -> [u8; 32] {
        let mut code = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        for part in [
            &self.preamble[..8],
            &self.preamble[8..32],
            self.purpose,
            b"", // no TLS
            &self.preamble[32..],
            &self.answer[32..64],
            b"connects",
            content,
        ] {
            code.update(&(part.len() as u64).to_le_bytes());
            code.update(part);
        }
        code.finalize().into_bytes().into()
    }

    /// The second flight: verdict, proof, hello with its length, code.
    fn flight(&self, secret: &[u8], hello: &[u8], length: u16) -> Vec<u8> {
        let mut content = length.to_le_bytes().to_vec();
        content.extend_from_slice(hello);
        let (proof, code) = (self.code(secret, b""), self.code(secret, &content));
        [&[1][..], &proof, &content, &code].concat()
    }
}

fn connect(port: Port) -> TcpStream {
    let stream = TcpStream::connect_timeout(&port.address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits until the other side has closed the connection, whichever way. `seed` made what was sent.
fn await_close(mut stream: &TcpStream, seed: u64) {
    if let Err(error) = io::copy(&mut stream, &mut io::sink()) {
        let waited = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        );
        assert!(!waited, "the connection of seed {seed} was never closed");
    }
}

fn bytes(random: &mut Random, length: usize) -> Vec<u8> {
    (0..length).map(|_| random.below(256) as u8).collect()
}

fn nonce(random: &mut Random) -> [u8; 32] {
    std::array::from_fn(|_| random.below(256) as u8)
}

/// Disturbs a port like a stranger; the caller waits for the end of the connection.
fn disturb(stream: &mut TcpStream, port: Port, recorded: &[u8], random: &mut Random) {
    let kind = random.below(8);
    let sent = match kind {
        0 => {
            let length = random.below(400);
            bytes(random, length)
        }
        // A genuine member's bytes, as they were or changed.
        1 => recorded.to_vec(),
        2..=4 => mutated(random, recorded),
        _ => {
            let nonce = nonce(random);
            let Ok(handshake) = Handshake::begin(stream, port, nonce) else {
                // Others came meanwhile, and it lost its place.
                return;
            };
            match kind {
                5 => handshake.flight(b"what anybody could think of", b"", 0),
                6 => handshake.flight(SECRET, &bytes(random, 60), 0xffff),
                _ => {
                    // One who knows the secret, and then makes no sense: a hello that is none, and to
                    // the store a request that is too long or stops in the middle.
                    let hello = [0xff; 7];
                    let request = [[0xff; 4], [100, 0, 0, 0]][random.below(2)];
                    [&handshake.flight(SECRET, &hello, 7)[..], &request].concat()
                }
            }
        }
    };
    // It may be turned away in the middle.
    let _ = stream.write_all(&sent);
}

fn mutated(random: &mut Random, recorded: &[u8]) -> Vec<u8> {
    let mut bytes = recorded.to_vec();
    for _ in 0..=random.below(3) {
        let place = random.below(bytes.len().max(1));
        match random.below(4) {
            _ if bytes.is_empty() => {}
            0 => bytes[place] ^= 1 << random.below(8),
            1 => bytes.truncate(place),
            2 => bytes.insert(place, random.below(256) as u8),
            _ => drop(bytes.drain(place..bytes.len().min(place + 4))),
        }
    }
    bytes
}

/// The bytes of a whole handshake of a member that was let in. It leaves at once.
fn record(store: Port) -> Vec<u8> {
    let mut stream = connect(store);
    let handshake = Handshake::begin(&mut stream, store, [7; 32]).unwrap();
    let flight = handshake.flight(SECRET, b"", 0);
    stream.write_all(&flight).unwrap();
    let mut verdict = [0];
    stream.read_exact(&mut verdict).unwrap();
    assert_eq!(verdict, [1], "the description of the handshake is right");
    // The end of its hello, so that it leaves in good order.
    stream.read_exact(&mut [0; 2 + 32]).unwrap();
    [&handshake.preamble[..], &flight].concat()
}

/// Throws so many streams at each port in turn, several at a time; each has been turned away at the end.
fn throw(ports: &[Port], streams: usize, seed: u64, recorded: &[u8]) {
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for number in (thread..streams).step_by(4) {
                    let seed = seed + number as u64;
                    let port = ports[number % ports.len()];
                    let mut stream = connect(port);
                    disturb(&mut stream, port, recorded, &mut Random(seed));
                    let _ = stream.shutdown(Shutdown::Write);
                    await_close(&stream, seed);
                }
            });
        }
    });
}

/// Sends one byte now and then until it is cut off.
fn drip(port: Port) {
    let mut stream = connect(port);
    let start = Instant::now();
    // What it sends is the beginning of a genuine handshake, so that it is not refused for that.
    for byte in b"burndist0.1.0/5".iter().chain(&[0; 1000]) {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "it was never cut off");
        thread::sleep(Duration::from_millis(200));
    }
    await_close(&stream, 0);
}

/// A figure of /proc/PID/status, in KiB.
fn status(job: &Job, process: usize, name: &str) -> u64 {
    let path = format!("/proc/{}/status", job.system_id(process));
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let figure = lines.next().unwrap().trim_start_matches(':').trim();
    figure.strip_suffix(" kB").unwrap().parse().unwrap()
}

/// The address in the first line that a process told with these words.
fn address(job: &mut Job, process: usize, words: &str) -> SocketAddr {
    job.wait_until_told_with(process, words);
    let line = job.told(process).find(|line| line.contains(words));
    let (_, rest) = line.unwrap().split_once("address=").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// The count that a process told of a port: `store=12 (…)`.
fn count(job: &Job, process: usize, port: &str) -> u64 {
    let words = "connections were turned away while the port was open";
    let (port, mut lines) = (format!("{port}="), job.told(process));
    let line = lines.find(|line| line.contains(words) && line.contains(&port));
    let Some(line) = line else { return 0 };
    let (_, rest) = line.split_once(&port).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// Lets this process hold as many connections as the system grants it.
fn allow_many_files(needed: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let granted = limit.current.unwrap_or(u64::MAX);
    assert!(granted >= needed, "{granted} open files are allowed");
}

/// Attacks ports at once in every way: streams of bytes, thousands of idle connections at the first two, and slow
/// ones. The processes must not grow by more than what is bounded.
fn attack(job: &Job, ports: &[Port], seed: u64, recorded: &[u8]) {
    let before = [0, 1].map(|process| {
        let reset = format!("/proc/{}/clear_refs", job.system_id(process));
        // Where the system can't do it, the peak since the start is looked at, which is no less.
        let _ = fs::write(reset, "5");
        status(job, process, "VmRSS")
    });
    let mut idle = Vec::new();
    let mut halves = Vec::new();
    thread::scope(|scope| {
        for port in ports {
            scope.spawn(move || drip(*port));
        }
        for port in &ports[..2] {
            idle.extend((0..IDLE).map(|_| connect(*port)));
        }
        for half in [1, 2] {
            throw(ports, STREAMS / 2, seed + half * 1_000_000, recorded);
            halves.push([0, 1].map(|process| status(job, process, "VmRSS")));
        }
        for stream in &idle {
            await_close(stream, 0);
        }
    });
    for process in [0, 1] {
        let peak = status(job, process, "VmHWM");
        let figures = (
            before[process],
            peak,
            halves[0][process],
            halves[1][process],
        );
        eprintln!("process {process}: before, peak, halves in KiB: {figures:?}");
        let growth = peak.saturating_sub(before[process]);
        assert!(growth < PEAK_KIB, "{figures:?}");
        let drift = halves[1][process].saturating_sub(halves[0][process]);
        assert!(drift < DRIFT_KIB, "{figures:?}");
    }
}

/// Returns the number of streams that [`throw`] throws at one of several ports.
fn share(streams: usize, ports: usize, port: usize) -> usize {
    (0..streams).filter(|number| number % ports == port).count()
}

/// Checks that every sum of every process was right.
fn assert_ended_well(job: &Job) {
    for process in 0..3 {
        let told: Vec<_> = job.told(process).collect();
        let right = told.iter().any(|line| line.starts_with("right in "));
        assert!(
            right && told.last().unwrap().as_str() == "done",
            "{}",
            job.report()
        );
    }
}

#[test]
fn a_job_goes_on_whatever_strangers_do() {
    allow_many_files(2 * IDLE as u64 + 200);
    let mut job = Plan::new("attacked", &[1, 1, 1]).without(1).start();
    let port = |address, purpose| Port { address, purpose };
    let store = address(&mut job, 0, "the job's store listens");
    let store = port(store, b"store");
    job.wait_until_told_with(2, "entered the job");
    // Whatever process 2 does next, it will not do it before it is told to.
    job.signal(2, Signal::STOP);
    job.start_process(1);
    let transport = [0, 1].map(|process| {
        let address = address(&mut job, process, "entered the job");
        port(address, b"transport")
    });
    let ports = [store, transport[0], transport[1]];
    let recorded = record(store);
    // The threads and buffers of the ports exist after the first few strangers.
    throw(&ports, 300, 1, &recorded);
    attack(&job, &ports, 0, &recorded);

    job.signal(2, Signal::CONT);
    for process in 0..3 {
        job.wait_until_told(process, "going");
    }
    // The store is closed. The other ports stay open while the job works.
    let error = TcpStream::connect_timeout(&store.address, PATIENCE).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    attack(&job, &transport, 7_000_000, &recorded);

    fs::write(job.folder().join("enough"), "").unwrap();
    job.wait_for_all();
    assert_ended_well(&job);
    for port in ports {
        let error = TcpStream::connect_timeout(&port.address, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    }

    // Every one is counted: streams, idle ones, and the slow one.
    let joining = |port| share(300, 3, port) + 2 * share(STREAMS / 2, 3, port) + 1;
    let working = |port| 2 * share(STREAMS / 2, 2, port) + 1 + IDLE;
    let expected = [
        joining(0) + IDLE,
        joining(1) + IDLE + working(0),
        joining(2) + working(1),
    ];
    let counted = [
        count(&job, 0, "store"),
        count(&job, 0, "transport"),
        count(&job, 1, "transport"),
    ];
    assert_eq!(
        counted.map(|count| count as usize),
        expected,
        "{}",
        job.report()
    );
}
