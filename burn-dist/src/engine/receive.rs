//! A receive under way: the wait for its message, which other ranks here put into the mailbox, and which it takes
//! from the network itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::GroupState;
use super::mailbox::Message;
use super::peers::{Parts, PartsGuard};
use crate::error::{Call, Error, Result};
use crate::transport::network::{CANCEL_POLL, Cancel, Cause, Come, Incoming, Lost};

/// A receive that has its place in the order of its rank's receives, until it is dropped.
pub(crate) struct PendingRecv {
    group: Arc<GroupState>,
    /// The receiver's rank within the group.
    to: usize,
    /// The sender's rank within the group; any, if there is none.
    from: Option<usize>,
    number: u64,
    call: Arc<Call>,
}

impl Drop for PendingRecv {
    fn drop(&mut self) {
        self.group.lock().mailbox.withdraw(self.to, self.number);
        // Its message may have gone to a receive that another thread waits for.
        self.group.inboxes[self.to].notify_all();
    }
}

impl PendingRecv {
    pub(super) fn new(
        group: Arc<GroupState>,
        (from, to): (Option<usize>, usize),
        number: u64,
        call: Arc<Call>,
    ) -> Self {
        Self {
            group,
            to,
            from,
            number,
            call,
        }
    }

    /// The call, for records.
    pub(crate) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// True if the message has come, or can't come any more. Takes in from the network what is there.
    pub(crate) fn is_over(&self) -> bool {
        if !self.is_filled() {
            // An error stays for the one who waits: it is the group's failure.
            let _ = self.fetch(Instant::now());
        }
        self.is_filled() || {
            let parts = self.group.lock();
            let is_gone = |rank| {
                let exit = parts.exits.get(rank);
                exit.is_some_and(|exit| exit.waits_until().is_none())
                    && !parts.expects_more(rank, self.to)
            };
            parts.failure.is_some() || self.senders().all(is_gone)
        }
    }

    fn is_filled(&self) -> bool {
        let mut parts = self.group.lock();
        let slot = parts.mailbox.slot(self.to, self.number);
        // A group that has failed has no receives; the wait for one is over.
        slot.is_none_or(|slot| slot.message.is_some())
    }

    /// Waits for the message, of `length` bytes, and gives the sender's rank within the group with it.
    ///
    /// # Errors
    /// The group's failure; [`Error::Mismatch`] if the message has another type or shape;
    /// [`Error::PeerLeft`] if there is no message and all who could send one have left; [`Error::Timeout`].
    pub(crate) fn wait(&self, length: usize, timeout: Duration) -> Result<(usize, Vec<u8>)> {
        if self.from.is_none() {
            // Whoever is far away has its turn too, although a message from nearby is there.
            self.fetch(Instant::now())?;
        }
        let message = self.message(timeout)?;
        let (sent, due) = (&message.call, &self.call);
        let alike = sent.dtype == due.dtype && sent.shape == due.shape;
        if alike && message.bytes.len() == length {
            return Ok((message.from, message.bytes));
        }
        let ranks = self.group.ranks();
        Err(self.group.fail(Error::Mismatch {
            rank: ranks[self.to],
            call: due.clone(),
            peer: ranks[message.from],
            peer_call: message.call,
        }))
    }

    fn message(&self, after: Duration) -> Result<Message> {
        let deadline = Instant::now() + after;
        let mut parts = self.group.lock();
        loop {
            if let Some(message) = parts.mailbox.take(self.to, self.number) {
                return Ok(message);
            }
            let settles = self.check_senders(&mut parts)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let ranks = self.senders().map(|rank| self.group.ranks[rank]);
                let error = Error::Timeout {
                    rank: self.group.ranks[self.to],
                    call: self.call.clone(),
                    missing: ranks.collect(),
                    after,
                };
                return Err(self.group.latch(&mut parts, error));
            }
            if self.streams(&parts).next().is_some() {
                drop(parts);
                self.fetch((Instant::now() + CANCEL_POLL).min(deadline))?;
                parts = self.group.lock();
            } else {
                let settles = settles.map(|at| at.saturating_duration_since(Instant::now()));
                let left = settles.map_or(left, |settles| settles.min(left));
                parts.wait_for(&self.group.inboxes[self.to], left);
            }
        }
    }

    /// The ranks that may send the message.
    fn senders(&self) -> impl Iterator<Item = usize> + use<'_> {
        let all = 0..self.group.ranks.len();
        all.filter(|&rank| self.from.map_or(rank != self.to, |from| rank == from))
    }

    /// Fails if the group has failed or nobody is left who could send. Gives until when a better reason may come
    /// for those who left early.
    fn check_senders(&self, parts: &mut Parts) -> Result<Option<Instant>> {
        if let Some(failure) = parts.failure_in(&self.call) {
            return Err(failure);
        }
        let (mut first, mut settles) = (None, None);
        for peer in self.senders() {
            let Some(exit) = parts.exits.get(peer) else {
                return Ok(None);
            };
            // What was sent before the sender left is still on its way.
            if parts.expects_more(peer, self.to) {
                return Ok(None);
            }
            settles = exit.waits_until().into_iter().chain(settles).min();
            first.get_or_insert(peer);
        }
        match (first, settles) {
            (Some(peer), None) => match self.group.check_peer(parts, peer, &self.call) {
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            },
            _ => Ok(settles),
        }
    }

    /// The streams that may bring the message and that no other thread waits for, by sender.
    fn streams<'s>(&'s self, parts: &'s Parts) -> impl Iterator<Item = usize> + use<'s> {
        self.senders().filter(move |&from| {
            let stream = parts.streams.incoming.get(&(from, self.to));
            let ends = parts.exits.get(from).is_some() && !parts.expects_more(from, self.to);
            !self.group.layout.is_here(from)
                && !ends
                && !stream.is_some_and(|stream| stream.fetching)
        })
    }

    /// Waits until the next message of a stream has come, or this receive has one; files what has come.
    fn fetch(&self, until: Instant) -> Result<()> {
        let (group, to) = (&*self.group, self.to);
        let Some(peers) = &group.peers else {
            return Ok(());
        };
        let mut parts = group.lock();
        let streams: Vec<usize> = self.streams(&parts).collect();
        if streams.is_empty() {
            return Ok(());
        }
        let receives = streams.iter().map(|&from| {
            let stream = parts.streams.incoming(from, to);
            stream.fetching = true;
            let tag = group.stream_tag((from, to), stream.taken);
            Incoming::ending(group.layout.process_of(from), tag)
        });
        let mut receives: Vec<_> = receives.collect();
        drop(parts);
        let ended = peers.network.exchange(&[], &mut receives, until, self);
        let mut parts = group.lock();
        for &from in &streams {
            parts.streams.incoming(from, to).fetching = false;
        }
        // Others may want the next ones, or those that have just come.
        group.inboxes[to].notify_all();
        for (&from, receive) in streams.iter().zip(receives) {
            if let Some(Come::Whole { head, body }) = receive.come {
                group.file(&mut parts, (from, to), (head, body))?;
            }
        }
        match ended {
            Err(lost) if !matches!(lost.cause, Cause::Deadline(_)) => self.without(parts, &lost),
            _ => Ok(()),
        }
    }

    /// Goes on without a process, if others may send and all its ranks have left in good order.
    fn without(&self, mut parts: PartsGuard<'_>, lost: &Lost) -> Result<()> {
        let (group, to) = (&*self.group, self.to);
        let place = group.place(lost.process);
        if let (None, Cause::Left, Some(place)) = (self.from, &lost.cause, place) {
            group.await_exits(&mut parts, &place.ranks, to);
            let is_over =
                |&rank: &usize| parts.exits.get(rank).is_some() && !parts.expects_more(rank, to);
            if place.ranks.iter().all(is_over) {
                return Ok(());
            }
        }
        drop(parts);
        if self.is_filled() {
            // The next call tells the loss.
            return Ok(());
        }
        Err(group.fail_without(to, lost, &self.call))
    }
}

impl Cancel for PendingRecv {
    fn is_cancelled(&self) -> bool {
        self.is_filled()
    }

    fn received_from(&self, _: usize) {}
}
