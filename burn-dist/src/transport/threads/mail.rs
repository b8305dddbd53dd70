//! Point-to-point messages: `send` copies the elements into the receiver's box and goes on, `recv`
//! takes the oldest message of a sender and tag, and waits for one if there is none.
//!
//! Callers: `group`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::meeting::{Meeting, State};
use super::{lock, wait_for};
use crate::error::{Call, Departure, Error, Result};

/// A way from one rank to another; messages on one keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// The sender's rank within the group.
    pub(crate) from: usize,
    /// The receiver's rank within the group.
    pub(crate) to: usize,
    /// What tells messages of the same two ranks apart.
    pub(crate) tag: u64,
}

/// What was sent and not yet received. Routes without messages take no memory.
#[derive(Default)]
pub(super) struct Mail(HashMap<Route, VecDeque<Message>>);

struct Message {
    /// The sender's call.
    call: Arc<Call>,
    bytes: Vec<u8>,
}

impl Mail {
    fn put(&mut self, route: Route, message: Message) {
        self.0.entry(route).or_default().push_back(message);
    }

    fn take(&mut self, route: Route) -> Option<Message> {
        let messages = self.0.get_mut(&route)?;
        let message = messages.pop_front();
        if messages.is_empty() {
            self.0.remove(&route);
        }
        message
    }
}

impl Meeting {
    /// Leaves a copy of `bytes` for the receiver.
    ///
    /// # Errors
    /// The group's failure, or [`Error::PeerLeft`] if the receiver has left.
    pub(crate) fn send(&self, route: Route, call: Arc<Call>, bytes: &[u8]) -> Result<()> {
        let message = Message {
            call,
            bytes: bytes.to_vec(),
        };
        let mut state = lock(&self.state);
        self.check_peer(&mut state, route.to, &message.call)?;
        state.mail.put(route, message);
        self.inboxes[route.to].notify_all();
        Ok(())
    }

    /// Waits for the next message on the route and copies it into `bytes`.
    ///
    /// # Errors
    /// The group's failure; [`Error::Mismatch`] if the message has another type or shape;
    /// [`Error::PeerLeft`] if there is no message and the sender has left; [`Error::Timeout`].
    pub(crate) fn receive(
        &self,
        route: Route,
        call: Arc<Call>,
        timeout: Duration,
        bytes: &mut [u8],
    ) -> Result<()> {
        let message = self.next_message(route, &call, timeout)?;
        let alike = message.call.dtype == call.dtype && message.call.shape == call.shape;
        if !alike || message.bytes.len() != bytes.len() {
            return Err(self.fail(Error::Mismatch {
                rank: self.ranks()[route.to],
                call,
                peer: self.ranks()[route.from],
                peer_call: message.call,
            }));
        }
        bytes.copy_from_slice(&message.bytes);
        Ok(())
    }

    fn next_message(&self, route: Route, call: &Arc<Call>, after: Duration) -> Result<Message> {
        let deadline = Instant::now() + after;
        let mut state = lock(&self.state);
        loop {
            if let Some(message) = state.mail.take(route) {
                return Ok(message);
            }
            self.check_peer(&mut state, route.from, call)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (rank, missing) = (self.ranks[route.to], vec![self.ranks[route.from]]);
                let error = Error::Timeout {
                    rank,
                    call: call.clone(),
                    missing,
                    after,
                };
                return Err(self.latch(&mut state, error));
            }
            state = wait_for(&self.inboxes[route.to], state, left);
        }
    }

    /// Fails if the group has failed or the peer is gone. (A failed group has no messages.)
    fn check_peer(&self, state: &mut State, peer: usize, call: &Arc<Call>) -> Result<()> {
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let gone: Option<Departure> = state.departed[peer].clone();
        gone.map_or(Ok(()), |reason| {
            let call = Some(call.clone());
            Err(self.latch(
                state,
                Error::PeerLeft {
                    peer: self.ranks[peer],
                    reason,
                    call,
                },
            ))
        })
    }
}
