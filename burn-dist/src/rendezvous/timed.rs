//! Reading and writing a socket under a deadline that holds for the whole exchange: a peer that sends
//! one byte at a time gains nothing.
//!
//! Callers: `auth`, `store`.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What can be read and written with a timeout: a socket, or what stands for one in tests.
pub(crate) trait Timed: Read + Write {
    /// How long a read may take; for ever if none.
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()>;

    /// How long a write may take; for ever if none.
    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()>;
}

impl Timed for TcpStream {
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        Self::set_read_timeout(self, time)
    }

    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        Self::set_write_timeout(self, time)
    }
}

impl Timed for &TcpStream {
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        TcpStream::set_read_timeout(self, time)
    }

    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        TcpStream::set_write_timeout(self, time)
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
    stream: &mut impl Timed,
    mut buffer: &mut [u8],
    deadline: Instant,
) -> Result<(), Broken> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(Broken::Closed),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes all of `bytes`, or says why not.
pub(crate) fn write(
    stream: &mut impl Timed,
    mut bytes: &[u8],
    deadline: Instant,
) -> Result<(), Broken> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(Broken::Closed),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
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
