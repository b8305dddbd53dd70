//! Point-to-point messages of a group: sends, and the messages that come from other processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::GroupState;
use super::mailbox::{Message, Route};
use super::peers::{Parts, PartsGuard};
use super::receive::PendingRecv;
use crate::codec;
use crate::error::{Call, Error, Result};
use crate::transport::network::{Cause, Network, Tag};

impl Parts {
    /// True if the sender has gone, and had sent more before than was taken from the network.
    pub(super) fn expects_more(&self, from: usize, to: usize) -> bool {
        let taken = self.streams.taken(from, to);
        let exit = self.exits.get(from);
        let mut sent = exit.into_iter().flat_map(|exit| &exit.sent);
        sent.any(|&(peer, count)| peer == to && count > taken)
    }
}

impl GroupState {
    /// Leaves a copy of `bytes` for the receiver.
    ///
    /// # Errors
    /// The group's failure, or [`Error::PeerLeft`] if the receiver has left; [`Error::Lost`] if its
    /// process is.
    pub(crate) fn send(
        &self,
        route: Route,
        call: Arc<Call>,
        timeout: Duration,
        bytes: &[u8],
    ) -> Result<()> {
        if let Some(peers) = &self.peers
            && !self.layout.is_here(route.to)
        {
            return self.send_to_process(&*peers.network, route, &call, timeout, bytes);
        }
        let message = Message {
            from: route.from,
            call,
            bytes: bytes.to_vec(),
        };
        let mut parts = self.await_receiver(route, &message.call)?;
        parts.mailbox.put(route.to, route.tag, message);
        self.inboxes[route.to].notify_all();
        Ok(())
    }

    fn send_to_process(
        &self,
        network: &dyn Network,
        route: Route,
        call: &Arc<Call>,
        timeout: Duration,
        bytes: &[u8],
    ) -> Result<()> {
        let head = codec::encode(&**call)
            .map_err(|message| self.fail(self.unreadable(route.from, route.from, message)))?;
        let tag = {
            let mut parts = self.await_receiver(route, call)?;
            let number = parts.streams.number(route);
            self.stream_tag((route.from, route.to), number)
        };
        let process = self.layout.process_of(route.to);
        let deadline = Instant::now() + timeout;
        let sent = network.send(process, tag, &head, bytes, deadline);
        sent.map_err(|lost| match lost.cause {
            Cause::Deadline(_) => self.fail(Error::Timeout {
                rank: self.ranks[route.from],
                call: call.clone(),
                missing: vec![self.ranks[route.to]],
                after: timeout,
            }),
            _ => self.fail_without(route.from, &lost, call),
        })
    }

    /// Posts a receive of `call` for rank `to`, from any rank if no sender is given.
    pub(crate) fn post(
        self: &Arc<Self>,
        to: usize,
        from: Option<usize>,
        call: Arc<Call>,
    ) -> PendingRecv {
        let tag = call.detail.tag.unwrap_or_default();
        let number = self.lock().mailbox.post(to, from, tag, self.ranks.len());
        PendingRecv::new(Arc::clone(self), (from, to), number, call)
    }

    /// Puts a message that has come from another process into the receiver's mailbox.
    pub(super) fn file(
        &self,
        parts: &mut Parts,
        (from, to): (usize, usize),
        (head, bytes): (Vec<u8>, Vec<u8>),
    ) -> Result<()> {
        parts.streams.incoming(from, to).taken += 1;
        let read = codec::decode::<Call>(&head);
        let read = read.and_then(|sent| {
            let tag = sent.detail.tag.ok_or("it has no tag")?;
            Ok((sent, tag))
        });
        let (sent, tag) = read.map_err(|message| {
            let error = self.unreadable(to, from, message);
            self.latch(parts, error)
        })?;
        let message = Message {
            from,
            call: Arc::new(sent),
            bytes,
        };
        parts.mailbox.put(to, tag, message);
        Ok(())
    }

    fn unreadable(&self, rank: usize, peer: usize, message: String) -> Error {
        let (rank, peer) = (self.ranks[rank], self.ranks[peer]);
        Error::Control {
            rank,
            peer,
            message,
        }
    }

    /// Fails if the group has failed or the peer is gone. (A failed group has no messages.) If it left early,
    /// gives until when a better reason may come.
    pub(super) fn check_peer(
        &self,
        parts: &mut Parts,
        peer: usize,
        call: &Arc<Call>,
    ) -> Result<Option<Instant>> {
        if let Some(failure) = parts.failure_in(call) {
            return Err(failure);
        }
        let Some(exit) = parts.exits.get(peer) else {
            return Ok(None);
        };
        if let Some(until) = exit.waits_until() {
            return Ok(Some(until));
        }
        let error = self.peer_left(peer, exit, Some(call.clone()));
        Err(self.latch(parts, error))
    }

    /// The group's parts, for a message to a receiver that is there; fails if it has left, after a wait for a
    /// better reason if it left early.
    fn await_receiver(&self, route: Route, call: &Arc<Call>) -> Result<PartsGuard<'_>> {
        let mut parts = self.lock();
        while let Some(until) = self.check_peer(&mut parts, route.to, call)? {
            let left = until.saturating_duration_since(Instant::now());
            parts.wait_for(&self.inboxes[route.from], left);
        }
        Ok(parts)
    }

    /// The tag of a message on the stream from one rank to another.
    pub(super) fn stream_tag(&self, (from, to): (usize, usize), number: u64) -> Tag {
        Tag {
            group: self.layout.stream(from, to),
            sequence: number,
            part: 0,
        }
    }
}
