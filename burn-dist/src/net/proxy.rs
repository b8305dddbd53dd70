//! A bad network between sockets, made from a seed, for tests of protocols over TCP.
//!
//! A proxy forwards bytes in small pieces, some of them late. At a certain byte it may cut the connection, or forward
//! nothing more without closing it. Once in each direction it pauses so long that a write with a timeout is partial,
//! because the proxy's sockets take little. All of it depends on the seed and on the bytes, not on time: a seed that
//! fails fails again.
//!
//! Threads: one accepts, two forward the bytes of a connection; all end when the proxy is dropped.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use socket2::SockRef;

/// Byte of a connection after which pieces are larger by [`GROWTH`], to come to an end.
const SLOW: usize = 3_000;
const GROWTH: usize = 100;
/// Time between two checks of a waiting thread if it should end.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Longer than a write waits for the socket.
const PAUSE: Duration = Duration::from_millis(120);

/// Faults of a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    seed: u64,
    /// Most bytes of a piece.
    piece: usize,
    /// Number of pieces of which one is late.
    late: usize,
    /// Byte at which it pauses.
    pause: usize,
    harm: Option<Harm>,
}

/// Break of a connection.
#[derive(Clone, Copy, Debug)]
struct Harm {
    /// True if the connection freezes, false if it is cut.
    freeze: bool,
    /// Number of the proxy's connection, from 0.
    connection: usize,
    /// True for the bytes to the side that connected.
    back: bool,
    /// Byte at which it breaks.
    at: usize,
}

impl Weather {
    /// Creates the faults of a seed. If `harmful`, a connection breaks within its first `bytes`.
    pub(crate) fn from_seed(seed: u64, harmful: bool, bytes: usize) -> Self {
        let mut random = SplitMix64::seed_from_u64(seed);
        let mut below = |limit: usize| (random.next_u64() % limit as u64) as usize;
        let pause = below(bytes);
        let piece = [1, 2, 7, 39, 200, 1500, 70_000][below(7)];
        let late = [10, 100, usize::MAX][below(3)];
        // As often in the handshake as in the rest.
        let reach = [200, bytes][below(2)];
        let harm = Harm {
            freeze: below(2) == 0,
            connection: below(4) / 3,
            back: below(2) == 0,
            at: below(reach),
        };
        Self {
            seed,
            piece,
            late,
            pause,
            harm: harmful.then_some(harm),
        }
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pieces up to {}", self.piece)?;
        if self.late < usize::MAX {
            write!(f, ", one in {} late", self.late)?;
        }
        if let Some(harm) = &self.harm {
            let what = if harm.freeze { "freeze" } else { "cut" };
            let to = if harm.back { "caller" } else { "called" };
            let (connection, at) = (harm.connection, harm.at);
            write!(f, ", {what} of call {connection} at byte {at} to the {to}")?;
        }
        Ok(())
    }
}

/// A proxy before an address.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    stopped: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn new(target: SocketAddr, weather: Weather) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        let accepting = thread::spawn(move || accept(&listener, target, weather, &stop));
        Self {
            address,
            stopped,
            accepting: Some(accepting),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        let ended = self.accepting.take().map(JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, weather: Weather, stopped: &AtomicBool) {
    thread::scope(|scope| {
        for connection in 0.. {
            let Ok((caller, _)) = listener.accept() else {
                return;
            };
            if stopped.load(SeqCst) {
                return;
            }
            // No server: the caller's connection is closed.
            let Ok(called) = TcpStream::connect(target) else {
                continue;
            };
            for socket in [&caller, &called] {
                SockRef::from(socket)
                    .set_recv_buffer_size(32 << 10)
                    .unwrap();
                socket.set_nodelay(true).unwrap();
                socket.set_read_timeout(Some(STOP_POLL)).unwrap();
                socket.set_write_timeout(Some(STOP_POLL)).unwrap();
            }
            let pair = Arc::new((caller, called, AtomicBool::new(false)));
            for back in [false, true] {
                let pair = pair.clone();
                scope.spawn(move || {
                    let (caller, called, frozen) = &*pair;
                    let (from, to) = if back {
                        (called, caller)
                    } else {
                        (caller, called)
                    };
                    let harm = weather
                        .harm
                        .filter(|harm| harm.connection == connection && harm.back == back);
                    let direction = connection as u64 * 2 + u64::from(back);
                    let mut pump = Pump {
                        from,
                        to,
                        harm,
                        frozen,
                        stopped,
                        passed: 0,
                        random: SplitMix64::seed_from_u64(weather.seed ^ (direction << 32)),
                    };
                    if pump.run(weather).is_none() {
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = to.shutdown(Shutdown::Both);
                    }
                });
            }
        }
    });
}

/// One direction of a connection.
struct Pump<'p> {
    from: &'p TcpStream,
    to: &'p TcpStream,
    harm: Option<Harm>,
    frozen: &'p AtomicBool,
    stopped: &'p AtomicBool,
    passed: usize,
    random: SplitMix64,
}

impl Pump<'_> {
    /// Forwards bytes until the sender ends; none if the whole connection has ended.
    fn run(&mut self, weather: Weather) -> Option<()> {
        let mut buffer = vec![0; weather.piece.saturating_mul(GROWTH)];
        loop {
            let growth = if self.passed < SLOW { 1 } else { GROWTH };
            let mut piece = 1 + self.below(weather.piece * growth);
            if let Some(harm) = self.harm {
                if self.passed >= harm.at {
                    if !harm.freeze {
                        return None;
                    }
                    self.frozen.store(true, SeqCst);
                }
                piece = piece.min(harm.at.saturating_sub(self.passed).max(1));
            }
            let count = self.read(&mut buffer[..piece])?;
            if count == 0 {
                return self.to.shutdown(Shutdown::Write).ok();
            }
            if self.below(weather.late) == 0 {
                thread::sleep(Duration::from_micros(self.below(300) as u64));
            }
            if (self.passed..self.passed + count).contains(&weather.pause) {
                thread::sleep(PAUSE);
            }
            self.write(&buffer[..count])?;
            self.passed += count;
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.random.next_u64() % limit as u64) as usize
    }

    /// Reads bytes; none if the connection broke or the proxy ends.
    fn read(&mut self, into: &mut [u8]) -> Option<usize> {
        loop {
            if self.stopped.load(SeqCst) {
                return None;
            }
            if self.frozen.load(SeqCst) {
                thread::sleep(STOP_POLL);
                continue;
            }
            match self.from.read(into) {
                Ok(count) => return Some(count),
                Err(error) if waits(error.kind()) => {}
                Err(_) => return None,
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            if self.stopped.load(SeqCst) {
                return None;
            }
            match self.to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if waits(error.kind()) => {}
                Err(_) => return None,
            }
        }
        Some(())
    }
}

fn waits(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
