//! Reads and writes a connection under a deadline for the whole exchange: a peer that sends one byte at a time gains
//! nothing.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Most bytes that [`drain`] discards.
const MAX_DRAINED: usize = 16 << 10;

/// A connection with timeouts.
pub(crate) trait Stream {
    /// Sets the longest wait of a read; none for no limit.
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()>;

    /// Sets the longest wait of a write; none for no limit.
    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()>;

    /// Reads the bytes that are there, after a wait of at most its timeout.
    fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes the bytes that are taken within its timeout.
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes the bytes that were taken and held back.
    fn flush(&self) -> io::Result<()>;

    /// Returns the value that only the two ends of an encrypted connection know; empty for a plain one.
    fn binding(&self) -> &[u8];
}

impl Stream for TcpStream {
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        Self::set_read_timeout(self, time)
    }

    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        Self::set_write_timeout(self, time)
    }

    fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn binding(&self) -> &[u8] {
        &[]
    }
}

/// Reason why an exchange ended early.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The deadline passed.
    Late,
    /// The peer closed or reset the connection.
    Closed,
    /// The operating system said something else.
    System(io::Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("nothing came before the deadline"),
            Self::Closed => f.write_str("the other side closed the connection"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::WouldBlock | Kind::TimedOut => Self::Late,
            Kind::UnexpectedEof
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::NotConnected
            | Kind::WriteZero => Self::Closed,
            _ => Self::System(error),
        }
    }
}

/// Reads until `buffer` is full.
pub(crate) fn read(
    stream: &impl Stream,
    mut buffer: &mut [u8],
    deadline: Instant,
) -> Result<(), Broken> {
    while !buffer.is_empty() {
        let count = read_some(stream, buffer, deadline)?;
        buffer = &mut buffer[count..];
    }
    Ok(())
}

/// Reads at least one byte into `buffer`, which is not empty.
pub(crate) fn read_some(
    stream: &impl Stream,
    buffer: &mut [u8],
    deadline: Instant,
) -> Result<usize, Broken> {
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read_some(buffer) {
            Ok(0) => return Err(Broken::Closed),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes all of `bytes`.
pub(crate) fn write(
    stream: &impl Stream,
    mut bytes: &[u8],
    deadline: Instant,
) -> Result<(), Broken> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write_some(bytes) {
            Ok(0) => return Err(Broken::Closed),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    loop {
        match stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            flushed => return Ok(flushed?),
        }
        stream.set_write_timeout(Some(left(deadline)?))?;
    }
}

/// Reads and discards bytes until the other side closes or the deadline passes. Closing a socket with unread bytes
/// resets the connection, and the system may then drop the last bytes written, such as the reason for a refusal.
pub(crate) fn drain(stream: &impl Stream, deadline: Instant) {
    let mut scratch = [0; 1024];
    for _ in 0..MAX_DRAINED / scratch.len() {
        if read_some(stream, &mut scratch, deadline).is_err() {
            return;
        }
    }
}

/// Returns the time until a deadline, never zero, which means "no limit" to a socket.
fn left(deadline: Instant) -> Result<Duration, Broken> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(Broken::Late)
    } else {
        // Sockets count in microseconds: less would be rounded to zero.
        Ok(left.max(Duration::from_micros(1)))
    }
}
