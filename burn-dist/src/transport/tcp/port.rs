//! The port of a process for the job's other processes. It is open as long as the network, and authenticates
//! every connection, before and after all processes are connected.
//!
//! A connection counts once both sides have proved the job's secret, and named the job and themselves. After
//! all processes are connected, a process that connects again is told that it has a connection, and is counted
//! among the rejects.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::connect::NetworkConfig;
use crate::codec;
use crate::net::acceptor::{PortLimits, Service};
use crate::net::auth::{HELLO, Role, authenticate_with};
use crate::net::channel::Channel;
use crate::net::rejects::Reject;
use crate::net::{Secret, Tls};

/// Longest handshake, on both sides.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds of the port. A connection is live only until it is handed over.
pub(super) const LIMITS: PortLimits = PortLimits {
    pending: 256,
    live: 4096,
    handshake: HANDSHAKE_TIMEOUT,
};
/// Purpose of the connections, which both sides prove.
const PURPOSE: &[u8] = b"transport";

/// Names a side of a connection to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    job: [u8; 16],
    process: usize,
    processes: usize,
    answer: Answer,
}

/// Answer of the accepting side to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    /// The connection is used. (The connecting side sends this too.)
    Accepted,
    /// The process has a connection already.
    Connected,
}

/// The port's identity and the connections made so far.
pub(super) struct Port {
    hello: Hello,
    secret: Secret,
    tls: Option<Tls>,
    state: Mutex<PeerChannels>,
    /// Notified when the last connection was made.
    complete: Condvar,
}

struct PeerChannels {
    /// By process.
    channels: Vec<Option<Channel>>,
    /// True once the network has taken the channels.
    is_up: bool,
}

impl Port {
    pub(super) fn new(place: &NetworkConfig) -> Self {
        let processes = place.addresses.len();
        Self {
            hello: Hello {
                job: place.job,
                process: place.process,
                processes,
                answer: Answer::Accepted,
            },
            secret: place.secret.clone(),
            tls: place.tls.clone(),
            state: Mutex::new(PeerChannels {
                channels: (0..processes).map(|_| None).collect(),
                is_up: false,
            }),
            complete: Condvar::new(),
        }
    }

    /// Makes a connection with a process over a connected socket.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(super) fn connect(
        &self,
        peer: usize,
        socket: TcpStream,
        deadline: Instant,
    ) -> Result<(), String> {
        let (channel, hello) = self
            .shake_hands(socket.into(), Role::Connects, deadline)
            .map_err(|reject| reject.to_string())?;
        if hello.process != peer {
            return Err(format!("process {} is at that address", hello.process));
        }
        if hello.answer == Answer::Connected {
            return Err("it has a connection with this process already".to_owned());
        }
        self.put(peer, channel).map_err(|reject| reject.to_string())
    }

    /// Waits until all connections are made. Returns false at the deadline.
    pub(super) fn wait_until_complete(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while !self.missing(&state).is_empty() {
            if self.complete.wait_until(&mut state, deadline).timed_out() {
                return self.missing(&state).is_empty();
            }
        }
        true
    }

    /// Takes the connections, by process; from then on the port accepts no more of them.
    ///
    /// # Errors
    /// The processes without a connection.
    pub(super) fn take(&self) -> Result<Vec<Option<Channel>>, Vec<usize>> {
        let mut state = self.state.lock();
        let missing = self.missing(&state);
        if !missing.is_empty() {
            return Err(missing);
        }
        state.is_up = true;
        Ok(std::mem::take(&mut state.channels))
    }

    fn missing(&self, state: &PeerChannels) -> Vec<usize> {
        let all = state.channels.iter().enumerate();
        let missing =
            all.filter(|(other, channel)| *other != self.hello.process && channel.is_none());
        missing.map(|(other, _)| other).collect()
    }

    /// Keeps a connection. A process connects again if it could not tell that its connection was accepted: the
    /// last one counts.
    fn put(&self, peer: usize, channel: Channel) -> Result<(), Reject> {
        let mut state = self.state.lock();
        if state.is_up {
            return Err(Reject::Connected(peer));
        }
        state.channels[peer] = Some(channel);
        if self.missing(&state).is_empty() {
            self.complete.notify_all();
        }
        Ok(())
    }

    fn shake_hands(
        &self,
        socket: Arc<TcpStream>,
        role: Role,
        deadline: Instant,
    ) -> Result<(Channel, Hello), Reject> {
        let answer = |_: &[u8]| self.encode_hello();
        let opened = Channel::open(socket, self.tls.as_ref(), role, deadline);
        let (channel, hello) = opened
            .and_then(|channel| {
                let (secret, answer) = (&self.secret, &answer);
                let hello = authenticate_with(&channel, secret, role, PURPOSE, answer, deadline)?;
                Ok((channel, hello))
            })
            .map_err(Reject::Unproved)?;
        let hello: Hello = codec::decode_within::<HELLO, _>(&hello).map_err(Reject::Foreign)?;
        if hello.job != self.hello.job {
            return Err(Reject::Foreign("it belongs to another job".to_owned()));
        }
        let processes = self.hello.processes;
        if hello.processes != processes || hello.process >= processes {
            return Err(Reject::Foreign(format!(
                "expected one of {processes} processes, got process {} of {}",
                hello.process, hello.processes
            )));
        }
        Ok((channel, hello))
    }

    /// Encodes this side's hello as it stands now.
    fn encode_hello(&self) -> Vec<u8> {
        let answer = if self.state.lock().is_up {
            Answer::Connected
        } else {
            Answer::Accepted
        };
        let hello = Hello {
            answer,
            ..self.hello.clone()
        };
        // Small fields are within every limit. An empty hello would be rejected by the peer.
        codec::encode(&hello).unwrap_or_default()
    }
}

impl Service for Port {
    type Session = (usize, Channel);

    fn handshake(
        &self,
        socket: Arc<TcpStream>,
        deadline: Instant,
    ) -> Result<(usize, Channel), Reject> {
        let (channel, hello) = self.shake_hands(socket, Role::Accepts, deadline)?;
        let (process, peer) = (self.hello.process, hello.process);
        if peer <= process {
            return Err(Reject::Foreign(format!(
                "expected a process after {process}, got process {peer}"
            )));
        }
        Ok((peer, channel))
    }

    fn serve(&self, (peer, channel): (usize, Channel)) -> Result<(), Reject> {
        self.put(peer, channel)
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
