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

use crate::error::Call;

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
pub(super) struct Mailbox {
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

impl Mailbox {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn put(&mut self, to: usize, tag: u64, message: Message) {
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
    pub(super) fn post(&mut self, to: usize, from: Option<usize>, tag: u64, ranks: usize) -> u64 {
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

    /// The number of messages of a stream that have been taken from the network.
    pub(super) fn taken(&self, from: usize, to: usize) -> u64 {
        let stream = self.incoming.get(&(from, to));
        stream.map_or(0, |stream| stream.taken)
    }

    pub(super) fn incoming(&mut self, from: usize, to: usize) -> &mut Stream {
        self.incoming.entry((from, to)).or_default()
    }

    /// The number of the next message on the route's stream.
    pub(super) fn number(&mut self, route: Route) -> u64 {
        let next = self.sent.entry((route.from, route.to)).or_default();
        *next += 1;
        *next - 1
    }
}
