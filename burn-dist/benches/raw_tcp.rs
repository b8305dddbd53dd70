//! Times what plain TCP can do on this machine: the yardstick of an all-reduce between two processes.
//!
//! Two processes send each other `bytes` at once, each over a connection of its own, from memory of that
//! size into memory of that size, and do nothing else. An all_reduce of as many bytes over two ranks
//! moves as much: half of it to be reduced, half of it reduced, each way. Prints one line of JSON for
//! each size, with the median time as the first process sees it, both beginning an exchange when both
//! are there.
//!
//! It is done in the ways that were found to be the fastest: no more threads than processes, which try
//! their sockets in turn; and with the socket buffers that the system chooses or with small ones, which
//! keep what is under way in the cores' caches, whichever is faster for a size.

mod processes;
mod report;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use processes::{Layout, Processes, Result, Stop};
use report::{Measurement, median};
use socket2::SockRef;

/// The sizes of socket buffers that are tried; none is what the system chooses.
const SOCKET_BUFFERS: [Option<usize>; 2] = [None, Some(256 << 10)];
/// The most bytes of one write: as many as go over loopback in two segments. With more, both processes fill
/// the system's buffers before either reads, and what lies there falls out of the caches.
const WRITTEN: usize = 127 << 10;
/// The most bytes of one read.
const READ: usize = 1 << 20;
/// Time that the second process may take to connect.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
struct Options {
    /// The sizes to time, in bytes.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "65536,1048576,4194304,16777216,67108864"
    )]
    sizes: Vec<usize>,
    /// Seconds that the repetitions of one size take together, about.
    #[arg(long, default_value_t = 1.5)]
    budget: f64,
    /// Sends and receives the same so many bytes of memory again and again, which then stay in the
    /// cores' caches: what the streams carry where memory plays no part.
    #[arg(long, value_name = "BYTES")]
    window: Option<usize>,
    /// Address of the first process, given to the second.
    #[arg(long, hide = true)]
    first: Option<SocketAddr>,
    /// Flag that `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(first) = options.first {
        return measure(&options, false, || TcpStream::connect(first));
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let second = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .args(["--first", &listener.local_addr()?.to_string()])
        .spawn()?;
    let second = Processes(vec![second]);
    listener.set_nonblocking(true)?;
    measure(&options, true, || accept(&listener))?;
    second.wait(&Stop::new()?)
}

/// Waits for the second process, which may have failed.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Times each size with each pair of connections, and prints the faster.
fn measure(
    options: &Options,
    first: bool,
    connect: impl Fn() -> io::Result<TcpStream>,
) -> Result<()> {
    let pairs = SOCKET_BUFFERS
        .into_iter()
        .map(|buffers| Pair::new(first, buffers, &connect));
    let mut pairs = pairs.collect::<io::Result<Vec<Pair>>>()?;
    for &bytes in &options.sizes {
        let mut seconds = f64::INFINITY;
        for pair in &mut pairs {
            seconds = seconds.min(pair.time(options, bytes)?);
        }
        if first {
            let measurement = Measurement {
                bench: "raw-tcp",
                layout: Layout::Processes.name(),
                ranks: 2,
                bytes,
                seconds,
                peer: None,
                peer_seconds: None,
            };
            measurement.print()?;
        }
    }
    Ok(())
}

/// One process's ends of two connections, each used in one direction.
struct Pair {
    first: bool,
    to: TcpStream,
    from: TcpStream,
}

impl Pair {
    fn new(
        first: bool,
        buffers: Option<usize>,
        connect: impl Fn() -> io::Result<TcpStream>,
    ) -> io::Result<Self> {
        let streams = [connect()?, connect()?];
        for stream in &streams {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            if let Some(bytes) = buffers {
                let socket = SockRef::from(stream);
                socket.set_send_buffer_size(bytes)?;
                socket.set_recv_buffer_size(bytes)?;
            }
        }
        let [one, two] = streams;
        let (to, from) = if first { (one, two) } else { (two, one) };
        Ok(Self { first, to, from })
    }

    /// The median time of an exchange.
    fn time(&mut self, options: &Options, bytes: usize) -> Result<f64> {
        let memory = options.window.unwrap_or(bytes).clamp(1, bytes.max(1));
        let (out, mut into) = (vec![1; memory], vec![0; memory]);
        let mut once = |pair: &mut Self| -> io::Result<f64> {
            pair.meet()?;
            let start = Instant::now();
            pair.exchange(&out, &mut into, bytes)?;
            Ok(start.elapsed().as_secs_f64())
        };
        once(self)?;
        let repetitions = options.budget / once(self)?.max(1e-5);
        // Both repeat as often as the first finds right.
        let mut often = (repetitions.clamp(5.0, 5000.0) as u32).to_le_bytes();
        if self.first {
            self.pass(&often, &mut [])?;
        } else {
            self.pass(&[], &mut often)?;
        }
        let times = (0..u32::from_le_bytes(often)).map(|_| once(self));
        let mut times = times.collect::<io::Result<Vec<f64>>>()?;
        Ok(median(&mut times))
    }

    /// Waits until both are here.
    fn meet(&mut self) -> io::Result<()> {
        let mut byte = [0];
        if self.first {
            self.pass(&[], &mut byte)?;
            self.pass(&[0], &mut [])
        } else {
            self.pass(&[0], &mut [])?;
            self.pass(&[], &mut byte)
        }
    }

    fn pass(&mut self, out: &[u8], into: &mut [u8]) -> io::Result<()> {
        self.run(out, out.len(), into, into.len())
    }

    fn exchange(&mut self, out: &[u8], into: &mut [u8], bytes: usize) -> io::Result<()> {
        self.run(out, bytes, into, bytes)
    }

    /// Sends and receives so many bytes at once, from and into memory that is used again from its start
    /// where it is shorter.
    fn run(
        &mut self,
        out: &[u8],
        to_send: usize,
        into: &mut [u8],
        to_receive: usize,
    ) -> io::Result<()> {
        let (mut sent, mut received) = (0, 0);
        while sent < to_send || received < to_receive {
            let mut moved = 0;
            if sent < to_send {
                let next = &out[next(sent, to_send, out.len(), WRITTEN)];
                moved += taken(self.to.write(next))?;
                sent += moved;
            }
            if received < to_receive {
                let next = next(received, to_receive, into.len(), READ);
                let came = taken(self.from.read(&mut into[next]))?;
                received += came;
                moved += came;
            }
            if moved == 0 {
                // The other process may need this core.
                thread::yield_now();
            }
        }
        Ok(())
    }
}

/// Returns the next part of `bytes`, of which `done` have gone, in memory that is used again from its start.
fn next(done: usize, bytes: usize, memory: usize, most: usize) -> Range<usize> {
    let start = done % memory;
    start..start + most.min(memory - start).min(bytes - done)
}

/// Returns the number of bytes a call has moved, 0 if the socket would have waited.
fn taken(moved: io::Result<usize>) -> io::Result<usize> {
    match moved {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
