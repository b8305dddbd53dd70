//! How the processes of a job exchange bytes: what the collectives ask of a network, whatever it is
//! made of.
//!
//! Invariants that every network keeps:
//! - a message is found by its sender and its [`Tag`], whatever order messages come in;
//! - once a process is lost, every send to it and every receive from it fails at once with the same
//!   [`Lost`], and each watcher is told once (what had come before may still be received);
//! - a process whose loss one process finds is lost for all;
//! - every wait has a deadline.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names one message between two processes; equal on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tag {
    /// The group whose operation it belongs to.
    pub(crate) group: u64,
    /// The operation's number in the group's order.
    pub(crate) sequence: u64,
    /// Number that tells the messages of one operation apart.
    pub(crate) part: u32,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "message {} of operation #{} in group {:x}",
            self.part, self.sequence, self.group
        )
    }
}

/// Exchange of bytes between the processes of a job.
pub(crate) trait Network: fmt::Debug + Send + Sync {
    /// This process, from 0.
    fn process(&self) -> usize;

    /// Returns the number of processes.
    fn processes(&self) -> usize;

    /// Hands a message over. Returns once it is on its way (queued or written); it does not wait for
    /// the receiver to ask. `head` is a small control part (the encoded call), `body` the tensor bytes.
    ///
    /// # Errors
    /// The process is lost, or the message could not be handed over before the deadline. (After a
    /// deadline that passed in the middle of a message the process is lost too: the rest of the
    /// message can't be taken back.)
    fn send(
        &self,
        to: usize,
        tag: Tag,
        head: &[u8],
        body: &[u8],
        deadline: Instant,
    ) -> Result<(), Lost>;

    /// Waits for the message with this tag; gives its head and body.
    ///
    /// # Errors
    /// The process is lost and the message had not come before that, or the deadline passed. A
    /// deadline alone does not make a process lost: the message may be asked for again.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "tests receive message by message")
    )]
    fn receive(&self, from: usize, tag: Tag, deadline: Instant)
    -> Result<(Vec<u8>, Vec<u8>), Lost>;

    /// Sends and receives at once. No message waits for another, but messages to one process keep their
    /// order. A body is read into the memory given for it, without a copy where possible. Returns true
    /// when all messages are sent and received; false if `cancel` stopped the exchange or an unexpected
    /// message was received.
    ///
    /// # Errors
    /// The same as [`Self::send`] and [`Self::receive`]. A deadline names the first process that has not
    /// answered.
    fn exchange(
        &self,
        sends: &[Outgoing<'_>],
        receives: &mut [Incoming<'_>],
        deadline: Instant,
        cancel: &dyn Cancel,
    ) -> Result<bool, Lost>;

    /// Returns the number of bytes this process has sent to the others so far, with the framing of messages and
    /// without what encryption adds.
    fn sent(&self) -> u64;

    /// Returns the number of messages this process has sent to the others so far.
    fn messages(&self) -> u64;

    /// Returns the number of processes with which this one has a connection.
    fn connections(&self) -> usize;

    /// Checks, without waiting, that a process can still be reached, as far as is known.
    ///
    /// # Errors
    /// It is lost, or has left.
    fn check(&self, process: usize) -> Result<(), Lost>;

    /// Tells the processes that are chosen (and can still be reached) something that they must know at once,
    /// without waiting.
    fn notify_some(&self, notice: &[u8], chosen: &dyn Fn(usize) -> bool);

    /// Tells every process.
    fn notify(&self, notice: &[u8]) {
        self.notify_some(notice, &|_| true);
    }

    /// Drops the messages of these groups, those that still come too: nobody will ask for them.
    fn forget(&self, groups: &[u64]);

    /// Sets the watcher, which a thread of the network calls when a process is lost or has sent a notice. It is
    /// called at once for what happened before.
    fn watch(&self, watcher: Arc<dyn Watcher>);

    /// Says goodbye in good order: after this a closed connection is no failure. Joins the network's
    /// threads.
    fn close(&self);
}

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'b> {
    pub(crate) to: usize,
    pub(crate) tag: Tag,
    pub(crate) head: &'b [u8],
    pub(crate) body: &'b [u8],
}

/// A message to be received.
#[derive(Debug)]
pub(crate) struct Incoming<'b> {
    pub(crate) from: usize,
    pub(crate) tag: Tag,
    /// The head that is due; any, if there is none.
    pub(crate) head: Option<&'b [u8]>,
    /// The memory for a body of just that length; it is given whole, if there is none.
    pub(crate) into: Option<&'b mut [u8]>,
    pub(crate) come: Option<Come>,
}

/// Outcome of receiving a message.
#[derive(Debug)]
pub(crate) enum Come {
    /// With the head that is due, and its body in the memory that was given.
    Placed,
    /// As it is.
    Whole { head: Vec<u8>, body: Vec<u8> },
}

impl<'b> Incoming<'b> {
    pub(crate) fn new(
        from: usize,
        tag: Tag,
        head: Option<&'b [u8]>,
        into: Option<&'b mut [u8]>,
    ) -> Self {
        Self {
            from,
            tag,
            head,
            into,
            come: None,
        }
    }

    /// A message with whose arrival the exchange ends, whatever else is missing. Its head is not empty.
    pub(crate) fn ending(from: usize, tag: Tag) -> Self {
        Self::new(from, tag, Some(&[]), None)
    }

    /// The memory for a body of this length that comes with this head, if there is any.
    pub(crate) fn place(&mut self, head: &[u8], length: usize) -> Option<&mut [u8]> {
        let into = self.into.as_deref_mut()?;
        let due = self.head.is_none_or(|due| due == head) && into.len() == length;
        due.then_some(into)
    }

    /// Takes a message that has come elsewhere.
    pub(crate) fn accept(&mut self, head: Vec<u8>, body: Vec<u8>) {
        self.come = Some(match self.place(&head, body.len()) {
            Some(into) => {
                into.copy_from_slice(&body);
                Come::Placed
            }
            None => Come::Whole { head, body },
        });
    }

    /// True if a message has come that is not as expected.
    pub(crate) fn is_odd(&self) -> bool {
        match &self.come {
            Some(Come::Whole { head, .. }) => {
                self.into.is_some() || self.head.is_some_and(|due| due != head)
            }
            Some(Come::Placed) | None => false,
        }
    }
}

/// Cancels an exchange and follows its progress. Its methods are called often and must not block.
pub(crate) trait Cancel {
    /// Returns true if the exchange must stop.
    fn is_cancelled(&self) -> bool;

    /// Reports that every message of the exchange from this process was received.
    fn received_from(&self, process: usize);
}

/// Longest wait for the network between two checks for cancellation: of an exchange by its [`Cancel`], of a
/// receive by its group.
pub(crate) const CANCEL_POLL: Duration = Duration::from_millis(10);

/// Receiver of events of the other processes. It must not wait for the network: the thread that calls it is the
/// one that brings messages in.
pub(crate) trait Watcher: Send + Sync {
    /// A process is lost. (One that left in good order is not, until somebody needs it.)
    fn lost(&self, lost: &Lost);

    /// A process said why it can't go on.
    fn notice(&self, from: usize, notice: &[u8]);
}

/// A process that can't be reached, or a message that did not come.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// The other process.
    pub(crate) process: usize,
    /// Its address.
    pub(crate) address: String,
    /// Cause of the loss.
    pub(crate) cause: Cause,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} ({}) {}",
            self.process, self.address, self.cause
        )
    }
}

/// Reason why a process is lost.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The connection was closed or reset: what the system said.
    Disconnected(Arc<str>),
    /// Nothing was heard for so long.
    Silent(Duration),
    /// It closed in good order although messages were expected.
    Left,
    /// The message did not come, or could not be handed over, in the time given.
    Deadline(Duration),
    /// It sent bytes that are no frame, or too large a frame.
    Malformed(Arc<str>),
    /// This process closed its network.
    Stopped,
    /// A message for it is longer than the network allows; nothing of it was sent.
    TooLarge(Arc<str>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected(detail) => write!(f, "broke its connection: {detail}"),
            Self::Silent(time) => write!(f, "was silent for {:.1} s", time.as_secs_f64()),
            Self::Left => f.write_str("left the job while messages of it were expected"),
            Self::Deadline(time) => write!(f, "did not answer within {:.1} s", time.as_secs_f64()),
            Self::Malformed(detail) => write!(f, "sent bytes that make no sense: {detail}"),
            Self::TooLarge(detail) => write!(f, "can't be sent so much at once: {detail}"),
            Self::Stopped => f.write_str("can't be reached: this process has closed its network"),
        }
    }
}
