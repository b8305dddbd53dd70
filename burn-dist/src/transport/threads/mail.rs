//! Point-to-point messages: a sender copies its elements into the receiver's mailbox and goes on; a receive is
//! posted, and gets the oldest message that it matches.
//!
//! A message goes to the first posted receive that matches its sender and tag, or waits for one. So the messages
//! of a sender and tag, and the receives that match them, keep their order, whichever threads wait for them.
//! A receive from any rank gets the message that came first.
//!
//! The messages from one rank to another in another process form a stream, counted on both sides. A receiver
//! takes the next message of each stream that concerns it from the network. One thread at a time does so for a
//! stream (`fetching`), without a lock; others sleep until it has filed a message or has gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::away::{Away, Locked};
use super::meeting::{Meeting, State};
use super::posted::Posted;
use crate::codec;
use crate::error::{Call, Error, Result};
use crate::transport::network::{Cause, Tag};

/// A way from one rank to another; messages on one keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// The sender's rank within the group.
    pub(crate) from: usize,
    /// The receiver's rank within the group.
    pub(crate) to: usize,
    /// The number that tells messages of the same two ranks apart.
    pub(crate) tag: u64,
}

/// Messages that nobody has received, and receives that have no message. Routes without messages take no
/// memory.
#[derive(Default)]
pub(super) struct Mail {
    unclaimed: HashMap<Route, VecDeque<(u64, Message)>>,
    /// By receiver, in the order of the calls.
    posted: HashMap<usize, Vec<Slot>>,
    /// The number of the next message or receive.
    next: u64,
}

pub(super) struct Message {
    pub(super) from: usize,
    /// The sender's call.
    pub(super) call: Arc<Call>,
    pub(super) bytes: Vec<u8>,
}

/// A posted receive.
pub(super) struct Slot {
    number: u64,
    /// The sender; any, if there is none.
    from: Option<usize>,
    tag: u64,
    pub(super) message: Option<Message>,
}

impl Mail {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn put(&mut self, to: usize, tag: u64, message: Message) {
        if let Some(message) = self.offer(to, tag, message) {
            let number = self.number();
            let from = message.from;
            let unclaimed = self.unclaimed.entry(Route { from, to, tag });
            unclaimed.or_default().push_back((number, message));
        }
    }

    /// Gives a message to the first receive that matches; gives it back if there is none.
    fn offer(&mut self, to: usize, tag: u64, message: Message) -> Option<Message> {
        let slots = self.posted.get_mut(&to).into_iter().flatten();
        let mut open = slots.filter(|slot| slot.message.is_none() && slot.tag == tag);
        match open.find(|slot| slot.from.is_none_or(|due| due == message.from)) {
            Some(slot) => {
                slot.message = Some(message);
                None
            }
            None => Some(message),
        }
    }

    /// Posts a receive in a group of so many ranks, and gives its number.
    fn post(&mut self, to: usize, from: Option<usize>, tag: u64, ranks: usize) -> u64 {
        let senders = from.map_or(0..ranks, |from| from..from + 1);
        let oldest = senders.filter_map(|from| {
            let route = Route { from, to, tag };
            Some((self.unclaimed.get(&route)?.front()?.0, route))
        });
        let oldest = oldest.min_by_key(|(number, _)| *number);
        let message = oldest.and_then(|(_, route)| self.claim(route));
        let number = self.number();
        let slots = self.posted.entry(to).or_default();
        slots.push(Slot {
            number,
            from,
            tag,
            message,
        });
        number
    }

    fn claim(&mut self, route: Route) -> Option<Message> {
        let messages = self.unclaimed.get_mut(&route)?;
        let message = messages.pop_front();
        if messages.is_empty() {
            self.unclaimed.remove(&route);
        }
        Some(message?.1)
    }

    pub(super) fn slot(&mut self, to: usize, number: u64) -> Option<&mut Slot> {
        let mut slots = self.posted.get_mut(&to)?.iter_mut();
        slots.find(|slot| slot.number == number)
    }

    /// Withdraws a receive. A message that it had goes to the next that matches.
    pub(super) fn withdraw(&mut self, to: usize, number: u64) {
        let Some(slots) = self.posted.get_mut(&to) else {
            return;
        };
        let place = slots.iter().position(|slot| slot.number == number);
        let slot = place.map(|place| slots.remove(place));
        if slots.is_empty() {
            self.posted.remove(&to);
        }
        let withdrawn = slot.and_then(|slot| Some((slot.tag, slot.message?)));
        let Some((tag, message)) = withdrawn else {
            return;
        };
        if let Some(message) = self.offer(to, tag, message) {
            let from = message.from;
            let unclaimed = self.unclaimed.entry(Route { from, to, tag });
            unclaimed.or_default().push_front((0, message));
        }
    }
}

/// The streams of messages to and from ranks in other processes, by sender and receiver.
#[derive(Default)]
pub(super) struct Streams {
    sent: HashMap<(usize, usize), u64>,
    pub(super) incoming: HashMap<(usize, usize), Stream>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Stream {
    /// The number of messages that have been taken from the network.
    pub(super) taken: u64,
    /// True while a thread waits for the next.
    pub(super) fetching: bool,
}

impl Streams {
    /// The number of messages that a rank has sent to each rank elsewhere.
    pub(super) fn sent_by(&self, rank: usize) -> Vec<(usize, u64)> {
        let own = self.sent.iter().filter(|((from, _), _)| *from == rank);
        own.map(|(&(_, to), &count)| (to, count)).collect()
    }

    /// True if a message from elsewhere has come.
    pub(super) fn has_received(&self) -> bool {
        self.incoming.values().any(|incoming| incoming.taken > 0)
    }

    pub(super) fn incoming(&mut self, from: usize, to: usize) -> &mut Stream {
        self.incoming.entry((from, to)).or_default()
    }

    /// The number of the next message on the route's stream.
    fn number(&mut self, route: Route) -> u64 {
        let next = self.sent.entry((route.from, route.to)).or_default();
        *next += 1;
        *next - 1
    }
}

impl State {
    /// True if the sender has gone, and had sent more before than was taken from the network.
    pub(super) fn expects_more(&self, from: usize, to: usize) -> bool {
        let taken = self.streams.incoming.get(&(from, to));
        let taken = taken.map_or(0, |stream| stream.taken);
        let gone = self.departed[from].as_ref();
        let mut sent = gone.into_iter().flat_map(|gone| &gone.sent);
        sent.any(|&(peer, count)| peer == to && count > taken)
    }
}

impl Meeting {
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
        if let Some(away) = &self.away
            && !away.layout.is_here(route.to)
        {
            return self.send_away(away, route, &call, timeout, bytes);
        }
        let message = Message {
            from: route.from,
            call,
            bytes: bytes.to_vec(),
        };
        let mut state = self.await_receiver(route, &message.call)?;
        state.mail.put(route.to, route.tag, message);
        self.inboxes[route.to].notify_all();
        Ok(())
    }

    fn send_away(
        &self,
        away: &Away,
        route: Route,
        call: &Arc<Call>,
        timeout: Duration,
        bytes: &[u8],
    ) -> Result<()> {
        let head = codec::encode(&**call)
            .map_err(|message| self.fail(self.unreadable(route.from, route.from, message)))?;
        let tag = {
            let mut state = self.await_receiver(route, call)?;
            stream_tag(away, (route.from, route.to), state.streams.number(route))
        };
        let process = away.layout.process_of(route.to);
        let deadline = Instant::now() + timeout;
        let sent = away.network.send(process, tag, &head, bytes, deadline);
        sent.map_err(|lost| match lost.cause {
            Cause::Deadline(_) => self.fail(Error::Timeout {
                rank: self.ranks[route.from],
                call: call.clone(),
                missing: vec![self.ranks[route.to]],
                after: timeout,
            }),
            _ => self.missed(route.from, &lost, call),
        })
    }

    /// Posts a receive of `call` for rank `to`, from any rank if no sender is given.
    pub(crate) fn post(
        self: &Arc<Self>,
        to: usize,
        from: Option<usize>,
        call: Arc<Call>,
    ) -> Posted {
        let tag = call.detail.tag.unwrap_or_default();
        let number = self.lock().mail.post(to, from, tag, self.ranks.len());
        Posted::new(Arc::clone(self), (from, to), number, call)
    }

    /// Puts a message that has come from another process into the receiver's mailbox.
    pub(super) fn file(
        &self,
        state: &mut State,
        (from, to): (usize, usize),
        (head, bytes): (Vec<u8>, Vec<u8>),
    ) -> Result<()> {
        state.streams.incoming(from, to).taken += 1;
        let read = codec::decode::<Call>(&head);
        let read = read.and_then(|sent| {
            let tag = sent.detail.tag.ok_or("it has no tag")?;
            Ok((sent, tag))
        });
        let (sent, tag) = read.map_err(|message| {
            let error = self.unreadable(to, from, message);
            self.latch(state, error)
        })?;
        let message = Message {
            from,
            call: Arc::new(sent),
            bytes,
        };
        state.mail.put(to, tag, message);
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
        state: &mut State,
        peer: usize,
        call: &Arc<Call>,
    ) -> Result<Option<Instant>> {
        if let Some(failure) = state.failure_in(call) {
            return Err(failure);
        }
        let Some(gone) = state.departed[peer].as_ref() else {
            return Ok(None);
        };
        if let Some(until) = gone.waits_until() {
            return Ok(Some(until));
        }
        let error = Error::PeerLeft {
            peer: self.ranks[peer],
            reason: gone.reason.clone(),
            call: Some(call.clone()),
        };
        Err(self.latch(state, error))
    }

    /// The state, for a message to a receiver that is there; fails if it has gone, after a wait for a better
    /// reason if it left early.
    fn await_receiver(&self, route: Route, call: &Arc<Call>) -> Result<Locked<'_>> {
        let mut state = self.lock();
        while let Some(until) = self.check_peer(&mut state, route.to, call)? {
            let left = until.saturating_duration_since(Instant::now());
            state = state.wait_for(&self.inboxes[route.from], left);
        }
        Ok(state)
    }
}

/// The tag of a message on the stream from one rank to another.
pub(super) fn stream_tag(away: &Away, (from, to): (usize, usize), number: u64) -> Tag {
    Tag {
        group: away.layout.stream(from, to),
        sequence: number,
        part: 0,
    }
}
