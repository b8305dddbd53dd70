//! The handshake of a connection: what both sides prove and tell each other, and the accepting side's answer.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::connect::NetworkConfig;
use crate::codec;
use crate::net::auth::{HELLO, Role, authenticate_with};
use crate::net::channel::Channel;
use crate::net::rejects::Reject;
use crate::net::{Secret, Tls};

/// Longest handshake, on both sides.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Purpose of the connections, which both sides prove.
const PURPOSE: &[u8] = b"transport";

/// Names a side of a connection to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    job: [u8; 16],
    pub(super) process: usize,
    processes: usize,
    pub(super) answer: Answer,
}

/// Answer of the accepting side to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The connection is used once the connecting side has confirmed it. (The connecting side sends this too.)
    Accepted,
    /// The process has a connection already.
    Connected,
    /// The accepting side dials the process itself, and its dial counts.
    Busy,
    /// The accepting side takes no connection of this process: it closes, or takes the process for lost.
    Refused,
}

/// JobIdentity of a process in its job, and its credentials.
pub(super) struct JobIdentity {
    hello: Hello,
    secret: Secret,
    tls: Option<Tls>,
}

impl JobIdentity {
    pub(super) fn new(place: &NetworkConfig) -> Self {
        Self {
            hello: Hello {
                job: place.job,
                process: place.process,
                processes: place.addresses.len(),
                answer: Answer::Accepted,
            },
            secret: place.secret.clone(),
            tls: place.tls.clone(),
        }
    }

    /// Does the handshake of the connecting side. Returns the peer's hello with its answer.
    ///
    /// # Errors
    /// The reason why there is no connection.
    pub(super) fn dial(
        &self,
        socket: Arc<TcpStream>,
        deadline: Instant,
    ) -> Result<(Channel, Hello), Reject> {
        self.shake_hands(socket, Role::Connects, deadline, &|_| Answer::Accepted)
    }

    /// Does the handshake of the accepting side, which answers a process of this job as `answer` decides.
    ///
    /// # Errors
    /// The reason to turn the connection away.
    pub(super) fn accept(
        &self,
        socket: Arc<TcpStream>,
        deadline: Instant,
        answer: &dyn Fn(usize) -> Answer,
    ) -> Result<(Channel, Hello), Reject> {
        let answer = |hello: &[u8]| match self.decode(hello) {
            Ok(hello) => answer(hello.process),
            Err(_) => Answer::Refused,
        };
        self.shake_hands(socket, Role::Accepts, deadline, &answer)
    }

    fn shake_hands(
        &self,
        socket: Arc<TcpStream>,
        role: Role,
        deadline: Instant,
        answer: &dyn Fn(&[u8]) -> Answer,
    ) -> Result<(Channel, Hello), Reject> {
        let encode = |theirs: &[u8]| {
            let answer = answer(theirs);
            let hello = Hello {
                answer,
                ..self.hello.clone()
            };
            // Small fields are within every limit. An empty hello would be rejected by the peer.
            codec::encode(&hello).unwrap_or_default()
        };
        let opened = Channel::open(socket, self.tls.as_ref(), role, deadline);
        let (channel, hello) = opened
            .and_then(|channel| {
                let secret = &self.secret;
                let hello = authenticate_with(&channel, secret, role, PURPOSE, &encode, deadline)?;
                Ok((channel, hello))
            })
            .map_err(Reject::Unproved)?;
        let hello = self.decode(&hello).map_err(Reject::Foreign)?;
        Ok((channel, hello))
    }

    /// Decodes the hello of another process of this job.
    fn decode(&self, hello: &[u8]) -> Result<Hello, String> {
        let hello: Hello = codec::decode_within::<HELLO, _>(hello)?;
        if hello.job != self.hello.job {
            return Err("it belongs to another job".to_owned());
        }
        let Hello {
            process, processes, ..
        } = self.hello;
        if hello.processes != processes || hello.process >= processes || hello.process == process {
            return Err(format!(
                "expected another of {processes} processes than {process}, got process {} of {}",
                hello.process, hello.processes
            ));
        }
        Ok(hello)
    }
}

/// Checks the properties of a decoder of hellos for any bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_hello(bytes: &[u8]) {
    crate::fuzzing::check_message::<Hello>(bytes);
}

/// Returns a hello.
#[cfg(test)]
pub(crate) fn hello_seed() -> Vec<u8> {
    let hello = Hello {
        job: [3; 16],
        process: 1,
        processes: 1000,
        answer: Answer::Connected,
    };
    codec::encode(&hello).unwrap()
}
