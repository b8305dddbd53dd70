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
        match open.find(|slot| slot.matches(message.from, to)) {
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
        let senders = senders.filter(|&sender| from.is_some() || sender != to);
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

    /// Takes the message of a receive, which ends it.
    pub(super) fn take(&mut self, to: usize, number: u64) -> Option<Message> {
        self.slot(to, number)?.message.as_ref()?;
        self.remove(to, number)?.message
    }

    fn remove(&mut self, to: usize, number: u64) -> Option<Slot> {
        let slots = self.posted.get_mut(&to)?;
        let at = slots.iter().position(|slot| slot.number == number)?;
        let slot = slots.remove(at);
        if slots.is_empty() {
            self.posted.remove(&to);
        }
        Some(slot)
    }

    /// Withdraws a receive. Its message goes to the next receive that matches, which passes its own of the same
    /// sender on, so that messages keep their order.
    pub(super) fn withdraw(&mut self, to: usize, number: u64) {
        let Some(Slot {
            tag,
            message: Some(mut message),
            ..
        }) = self.remove(to, number)
        else {
            return;
        };
        let from = message.from;
        let slots = self.posted.get_mut(&to).into_iter().flatten();
        let later = slots.filter(|slot| slot.number > number && slot.tag == tag);
        for slot in later.filter(|slot| slot.matches(from, to)) {
            match &mut slot.message {
                None => {
                    slot.message = Some(message);
                    return;
                }
                Some(other) if other.from == from => std::mem::swap(other, &mut message),
                Some(_) => {}
            }
        }
        let unclaimed = self.unclaimed.entry(Route { from, to, tag });
        unclaimed.or_default().push_front((0, message));
    }
}

impl Slot {
    /// True if the receive of rank `to` takes messages of this sender.
    fn matches(&self, from: usize, to: usize) -> bool {
        self.from.map_or(from != to, |due| due == from)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Detail;

    const TO: usize = 0;
    const TAG: u64 = 7;

    fn put(mailbox: &mut Mailbox, from: usize, byte: u8) {
        let call = Arc::new(Call {
            operation: "send".into(),
            sequence: 0,
            dtype: "u8".into(),
            shape: vec![1],
            detail: Detail::default(),
        });
        let bytes = vec![byte];
        mailbox.put(TO, TAG, Message { from, call, bytes });
    }

    fn take(mailbox: &mut Mailbox, number: u64) -> Option<u8> {
        mailbox.take(TO, number).map(|message| message.bytes[0])
    }

    #[test]
    fn a_receive_that_is_over_takes_no_more_messages() {
        let mut mailbox = Mailbox::default();
        let posts: Vec<u64> = (0..3).map(|_| mailbox.post(TO, Some(1), TAG, 2)).collect();
        for (byte, &post) in posts.iter().enumerate() {
            put(&mut mailbox, 1, byte as u8);
            assert_eq!(take(&mut mailbox, post), Some(byte as u8));
            assert_eq!(take(&mut mailbox, post), None);
        }
    }

    #[test]
    fn messages_keep_their_order_when_a_receive_is_withdrawn() {
        let mut mailbox = Mailbox::default();
        let posts: Vec<u64> = (0..3).map(|_| mailbox.post(TO, Some(1), TAG, 2)).collect();
        put(&mut mailbox, 1, 10);
        put(&mut mailbox, 1, 11);
        mailbox.withdraw(TO, posts[0]);
        assert_eq!(take(&mut mailbox, posts[1]), Some(10));
        assert_eq!(take(&mut mailbox, posts[2]), Some(11));
        put(&mut mailbox, 1, 12);
        let last = mailbox.post(TO, None, TAG, 2);
        mailbox.withdraw(TO, last);
        let next = mailbox.post(TO, Some(1), TAG, 2);
        assert_eq!(take(&mut mailbox, next), Some(12));
    }

    #[test]
    fn any_rank_is_another_rank() {
        let mut mailbox = Mailbox::default();
        put(&mut mailbox, TO, 1);
        let any = mailbox.post(TO, None, TAG, 3);
        assert_eq!(take(&mut mailbox, any), None);
        put(&mut mailbox, TO, 2);
        put(&mut mailbox, 2, 3);
        assert_eq!(take(&mut mailbox, any), Some(3));
        let own = mailbox.post(TO, Some(TO), TAG, 3);
        assert_eq!(take(&mut mailbox, own), Some(1));
    }
}
