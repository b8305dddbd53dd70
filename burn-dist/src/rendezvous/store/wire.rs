//! Requests and replies as bytes: a length of four bytes, little-endian, and that many bytes.
//!
//! Invariant: the length is checked before memory is taken for it, and the decoder has the same limit.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{MAX_KEY, MAX_VALUE};
use crate::codec;
use crate::net::timed::{self, Broken, Stream};

/// Most bytes of a message: a comparison with its two values, its key, and their framing.
pub(super) const MAX_MESSAGE: usize = 2 * MAX_VALUE + MAX_KEY + 64;

/// Request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    Set {
        key: String,
        value: Vec<u8>,
    },
    Get {
        key: String,
    },
    /// Answered when the key has a value, or after this time.
    Wait {
        key: String,
        milliseconds: u64,
    },
    Add {
        key: String,
        amount: i64,
    },
    CompareAndSet {
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    },
    /// The connection stands for a process of the job from now on.
    Announce {
        process: usize,
    },
    /// The connection ends in good order.
    Leave,
}

/// Answer of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Value(Option<Vec<u8>>),
    Number(i64),
    /// A comparison failed: this is the value.
    Differs(Option<Vec<u8>>),
    Refused(String),
}

/// Reason why no message could be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The connection ended between two messages.
    Ended,
    /// The connection broke, or the rest of a message was not received in time.
    Broken(Broken),
    /// The bytes are not a message.
    Malformed(String),
}

/// Writes one message.
pub(super) fn send<T: Serialize>(
    stream: &impl Stream,
    message: &T,
    deadline: Instant,
) -> Result<(), Broken> {
    let body = codec::encode(message)
        .map_err(|error| Broken::System(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    timed::write(stream, &bytes, deadline)
}

/// Reads one message before the deadline.
pub(super) fn receive<T: DeserializeOwned>(
    stream: &impl Stream,
    deadline: Instant,
) -> Result<T, Unread> {
    let mut first = [0];
    timed::read(stream, &mut first, deadline).map_err(Unread::Broken)?;
    rest(stream, first, deadline)
}

/// Waits for the beginning of a message without a deadline (until the socket is shut), then at most `timeout` for
/// its rest.
pub(super) fn receive_next<T: DeserializeOwned>(
    stream: &impl Stream,
    timeout: Duration,
) -> Result<T, Unread> {
    let broken = |error: io::Error| Unread::Broken(error.into());
    stream.set_read_timeout(None).map_err(broken)?;
    let mut first = [0];
    loop {
        match stream.read_some(&mut first) {
            Ok(0) => return Err(Unread::Ended),
            Ok(_) => return rest(stream, first, Instant::now() + timeout),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

fn rest<T: DeserializeOwned>(
    stream: &impl Stream,
    first: [u8; 1],
    deadline: Instant,
) -> Result<T, Unread> {
    let read = |buffer: &mut [u8]| {
        timed::read(stream, buffer, deadline).map_err(|broken| match broken {
            Broken::Closed => {
                Unread::Malformed("the connection ended in the middle of it".to_owned())
            }
            other => Unread::Broken(other),
        })
    };
    let mut length = [first[0], 0, 0, 0];
    read(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(Unread::Malformed(format!(
            "message: expected at most {MAX_MESSAGE} bytes, got {length}"
        )));
    }
    let mut body = vec![0; length];
    read(&mut body)?;
    codec::decode_within::<MAX_MESSAGE, T>(&body).map_err(Unread::Malformed)
}
