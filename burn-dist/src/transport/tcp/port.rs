//! The port of a process for the job's other processes. It is open as long as the network, and authenticates
//! every connection, before and after all processes are connected.
//!
//! A connection counts once both sides have proved the job's secret, and named the job and themselves, and the side
//! that dials has confirmed the answer. A side that gives up its dial after it was accepted closes without a
//! confirmation, and nobody takes it for lost. A process that connects again is told that it has a connection, and
//! is counted among the rejects.

use std::cell::Cell;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use super::hello::{Answer, HANDSHAKE_TIMEOUT};
use super::mesh::Mesh;
use super::write::CONFIRMATION;
use crate::net::acceptor::{PortLimits, Service};
use crate::net::channel::Channel;
use crate::net::rejects::Reject;
use crate::net::timed;

/// Bounds of the port. A connection is live only until it is handed over.
pub(super) const LIMITS: PortLimits = PortLimits {
    pending: 256,
    live: 4096,
    handshake: HANDSHAKE_TIMEOUT,
};

/// The port, which hands connections over to the mesh.
pub(super) struct Port(pub(super) Arc<Mesh>);

/// A connection that was answered.
pub(super) struct Answered {
    claim: Claim,
    channel: Channel,
}

/// The answer to a process. The attempt of one that was accepted is released when this is dropped.
struct Claim {
    mesh: Arc<Mesh>,
    peer: usize,
    answer: Answer,
    attempt: Option<u64>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt {
            self.mesh.release(self.peer, attempt);
        }
    }
}

impl Service for Port {
    type Session = Answered;

    fn handshake(&self, socket: Arc<TcpStream>, deadline: Instant) -> Result<Answered, Reject> {
        let claimed = Cell::new(None);
        let decide = |peer| {
            let (answer, attempt) = self.0.answer(peer);
            claimed.set(Some(Claim {
                mesh: self.0.clone(),
                peer,
                answer,
                attempt,
            }));
            answer
        };
        let (channel, _) = self.0.identity.accept(socket, deadline, &decide)?;
        let claim = claimed.take();
        let claim = claim.ok_or_else(|| Reject::Foreign("it said no hello".to_owned()))?;
        Ok(Answered { claim, channel })
    }

    fn serve(&self, Answered { claim, channel }: Answered) -> Result<(), Reject> {
        let Some(attempt) = claim.attempt else {
            return match claim.answer {
                Answer::Connected => Err(Reject::Connected(claim.peer)),
                // Nothing is wrong with it.
                Answer::Accepted | Answer::Busy | Answer::Refused => Ok(()),
            };
        };
        let mut confirmation = [0];
        let deadline = Instant::now() + self.0.heartbeat.max(HANDSHAKE_TIMEOUT);
        if timed::read(&channel, &mut confirmation, deadline).is_err() {
            tracing::debug!("process {} gave up its dial", claim.peer);
            return Ok(());
        }
        if confirmation != [CONFIRMATION] {
            let text = format!("expected a confirmation, got {confirmation:?}");
            return Err(Reject::Malformed(text));
        }
        let joined = self.0.join(claim.peer, attempt, channel, false);
        joined
            .map(drop)
            .map_err(|error| Reject::System(error.to_string()))
    }
}
