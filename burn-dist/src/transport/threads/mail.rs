//! Point-to-point messages: `send` copies the elements into the receiver's box and goes on, `recv`
//! takes the oldest message of a sender and tag, and waits for one if there is none.
//!
//! The messages from one rank to another in another process form a stream, counted on both sides. The
//! receiver takes them from the network in that order and files them by tag. One thread at a time does
//! so for a stream (`fetching`), without a lock; others who want a message of it sleep until it has filed
//! one or has gone.
//!
//! Callers: `group`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::away::{Away, Locked};
use super::meeting::{Meeting, State};
use crate::codec;
use crate::error::{Call, Error, Result};
use crate::transport::network::{CANCEL_POLL, Cause, Lost, Tag};

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

/// The streams of messages to and from ranks in other processes, by sender and receiver.
#[derive(Default)]
pub(super) struct Streams {
    sent: HashMap<(usize, usize), u64>,
    incoming: HashMap<(usize, usize), Incoming>,
}

#[derive(Clone, Copy, Default)]
struct Incoming {
    /// How many have been taken from the network.
    taken: u64,
    /// Whether a thread waits for the next.
    fetching: bool,
}

impl Streams {
    /// How many messages a rank has sent to each rank elsewhere.
    pub(super) fn sent_by(&self, rank: usize) -> Vec<(usize, u64)> {
        let own = self.sent.iter().filter(|((from, _), _)| *from == rank);
        own.map(|(&(_, to), &count)| (to, count)).collect()
    }

    /// Whether a message from elsewhere has come.
    pub(super) fn has_received(&self) -> bool {
        self.incoming.values().any(|incoming| incoming.taken > 0)
    }

    fn incoming(&mut self, route: Route) -> &mut Incoming {
        self.incoming.entry((route.from, route.to)).or_default()
    }

    /// The number of the next message on the route's stream.
    fn number(&mut self, route: Route) -> u64 {
        let next = self.sent.entry((route.from, route.to)).or_default();
        *next += 1;
        *next - 1
    }
}

impl State {
    /// Whether the sender has gone, and had sent more before than was taken from the network.
    fn expects_more(&self, route: Route) -> bool {
        let taken = self.streams.incoming.get(&(route.from, route.to));
        let taken = taken.map_or(0, |incoming| incoming.taken);
        let gone = self.departed[route.from].as_ref();
        let mut sent = gone.into_iter().flat_map(|gone| &gone.sent);
        sent.any(|&(to, count)| to == route.to && count > taken)
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
            call,
            bytes: bytes.to_vec(),
        };
        let mut state = self.await_receiver(route, &message.call)?;
        state.mail.put(route, message);
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
            stream_tag(away, route, state.streams.number(route))
        };
        let process = away.layout.process_of(route.to);
        let deadline = Instant::now() + timeout;
        let sent = away.network.send(process, tag, &head, bytes, deadline);
        sent.map_err(|lost| match lost.cause {
            Cause::Deadline(_) => self.fail(self.no_message(call, (route.from, route.to, timeout))),
            _ => self.missed(route.from, &lost, call),
        })
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
        let elsewhere = self.away.as_ref();
        let elsewhere = elsewhere.filter(|away| !away.layout.is_here(route.from));
        let mut state = self.lock();
        loop {
            if let Some(message) = state.mail.take(route) {
                return Ok(message);
            }
            // What was sent before the sender went is still on its way.
            let settles = if state.expects_more(route) {
                None
            } else {
                self.check_peer(&mut state, route.from, call)?
            };
            if let Some(failure) = state.failure_in(call) {
                return Err(failure);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let error = self.no_message(call, (route.to, route.from, after));
                return Err(self.latch(&mut state, error));
            }
            match elsewhere {
                Some(away) if !state.streams.incoming(route).fetching => {
                    state.streams.incoming(route).fetching = true;
                    drop(state);
                    let come = self.fetch(away, route, deadline);
                    state = self.lock();
                    state.streams.incoming(route).fetching = false;
                    // Another may want the next one, or the one that has just come.
                    self.inboxes[route.to].notify_all();
                    match come {
                        Ok(come) => self.file(&mut state, route, come)?,
                        // What came by another thread, or the deadline, is looked at above.
                        Err(lost) if matches!(lost.cause, Cause::Deadline(_)) => {}
                        Err(lost) => {
                            drop(state);
                            return Err(self.missed(route.to, &lost, call));
                        }
                    }
                }
                _ => {
                    let settles = settles.map(|at| at.saturating_duration_since(Instant::now()));
                    let left = settles.map_or(left, |settles| settles.min(left));
                    state = state.wait_for(&self.inboxes[route.to], left);
                }
            }
        }
    }

    /// Waits a little for the next message of the route's stream.
    fn fetch(&self, away: &Away, route: Route, deadline: Instant) -> Fetched {
        let number = self.lock().streams.incoming(route).taken;
        let tag = stream_tag(away, route, number);
        let process = away.layout.process_of(route.from);
        let next = (Instant::now() + CANCEL_POLL).min(deadline);
        away.network.receive(process, tag, next)
    }

    /// Puts what has come where its receiver looks.
    fn file(
        &self,
        state: &mut State,
        route: Route,
        (head, bytes): (Vec<u8>, Vec<u8>),
    ) -> Result<()> {
        state.streams.incoming(route).taken += 1;
        let read = codec::decode::<Call>(&head);
        let read = read.and_then(|sent| {
            let tag = sent.detail.tag.ok_or("it has no tag")?;
            Ok((sent, tag))
        });
        let (sent, tag) = read.map_err(|message| {
            let error = self.unreadable(route.to, route.from, message);
            self.latch(state, error)
        })?;
        let message = Message {
            call: Arc::new(sent),
            bytes,
        };
        state.mail.put(Route { tag, ..route }, message);
        Ok(())
    }

    /// The error of a rank that waited for another.
    fn no_message(&self, call: &Arc<Call>, (rank, peer, after): (usize, usize, Duration)) -> Error {
        Error::Timeout {
            rank: self.ranks[rank],
            call: call.clone(),
            missing: vec![self.ranks[peer]],
            after,
        }
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
    fn check_peer(
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

/// What the network gave: a message's head and body.
type Fetched = Result<(Vec<u8>, Vec<u8>), Lost>;

fn stream_tag(away: &Away, route: Route, number: u64) -> Tag {
    Tag {
        group: away.layout.stream(route.from, route.to),
        sequence: number,
        part: 0,
    }
}
