//! Reading and writing a connection under a deadline that holds for the whole exchange: a peer that
//! sends one byte at a time gains nothing.
//!
//! Callers: `channel` while it opens, `auth`, `store`.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The most bytes that [`drain`] forgets.
const DRAINED: usize = 16 << 10;

/// A connection, as deadlines see it.
pub(crate) trait Stream {
    /// How long a read waits; for ever if none.
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()>;

    /// How long a write waits; for ever if none.
    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()>;

    /// Reads what is there, after waiting for it as long as its timeout.
    fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes as much as is taken within its timeout.
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes what was taken but is held back.
    fn flush(&self) -> io::Result<()>;

    /// What only the two ends of an encrypted connection know; nothing where it is plain.
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

/// Why an exchange ended early.
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

/// Fills `buffer`, or says why not.
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

/// Reads at least one byte into `buffer`, which is not empty, or says why not.
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

/// Writes all of `bytes`, or says why not.
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

/// Reads and forgets what still comes, until the other side closes or the time is over. A socket that
/// is closed with bytes unread resets the connection, and a system may then drop what was written last:
/// the reason why.
pub(crate) fn drain(stream: &impl Stream, deadline: Instant) {
    let mut scratch = [0; 1024];
    for _ in 0..DRAINED / scratch.len() {
        if read_some(stream, &mut scratch, deadline).is_err() {
            return;
        }
    }
}

/// The time until a deadline; a timeout of zero would mean "for ever" to a socket.
fn left(deadline: Instant) -> Result<Duration, Broken> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(Broken::Late)
    } else {
        // Sockets count in microseconds: less would be rounded to zero.
        Ok(left.max(Duration::from_micros(1)))
    }
}
