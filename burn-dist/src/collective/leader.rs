//! The leader of a process, its lowest rank, in the exchange of an operation: it alone uses the network, and no
//! lock is held meanwhile.

use std::sync::Arc;
use std::time::Duration;

use crate::codec;
use crate::engine::{Arrived, RunningOp};
use crate::error::{Call, Error, Result};
use crate::transport::network::{Cancel, Cause, Come, Incoming, Lost, Outgoing, Tag};

/// Bytes to send to a node.
pub(super) struct Outward<'b> {
    pub(super) node: usize,
    pub(super) part: u32,
    pub(super) bytes: &'b [u8],
}

/// Memory for bytes from a node; none if the sender chooses the length.
pub(super) struct Inward<'b> {
    pub(super) node: usize,
    pub(super) part: u32,
    pub(super) into: Option<&'b mut [u8]>,
}

/// The delivery that the other ranks of the process wait for. Dropped before it is made, it ends the operation for
/// them, so that they never wait for a leader that is gone.
pub(super) struct Delivery<'o, 'm> {
    op: &'o RunningOp<'m>,
    delivered: bool,
}

impl<'o, 'm> Delivery<'o, 'm> {
    pub(super) fn new(op: &'o RunningOp<'m>) -> Self {
        Self {
            op,
            delivered: false,
        }
    }

    /// Gives all ranks of the process what has arrived.
    pub(super) fn deliver(mut self, arrived: Arrived) -> Arc<Arrived> {
        self.delivered = true;
        self.op.deliver(arrived)
    }
}

impl Drop for Delivery<'_, '_> {
    fn drop(&mut self) {
        if !self.delivered {
            self.op.close("panicked while it reduced");
        }
    }
}

/// The leader's part in an operation.
pub(super) struct Leader<'o, 'm> {
    op: &'o RunningOp<'m>,
    /// The encoded call, which goes with the first message to each node.
    call: Vec<u8>,
    delivery: Delivery<'o, 'm>,
}

impl<'o, 'm> Leader<'o, 'm> {
    pub(super) fn new(op: &'o RunningOp<'m>) -> Result<Self> {
        let delivery = Delivery::new(op);
        let call = codec::encode(&**op.call());
        let call = call.map_err(|message| op.malformed(op.layout().here(), message))?;
        Ok(Self { op, call, delivery })
    }

    /// Gives all ranks of the process what has arrived.
    pub(super) fn deliver(self, arrived: Arrived) -> Arc<Arrived> {
        self.delivery.deliver(arrived)
    }

    /// Sends and receives bytes, each of which its node knows by a part of its own, `late` after the operation's
    /// deadline at the latest. Messages with part 0 are the first that a node gets. Returns the messages whose
    /// length the sender chose, by node.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all is there.
    pub(super) fn pass(
        &self,
        sends: &[Outward<'_>],
        receives: Vec<Inward<'_>>,
        late: Duration,
    ) -> Result<Vec<(usize, Vec<u8>)>> {
        let places = self.op.layout().places();
        let head = |part| if part == 0 { &self.call[..] } else { &[] };
        let sends = sends.iter().map(|send| Outgoing {
            to: places[send.node].process,
            tag: self.tag(send.part),
            head: head(send.part),
            body: send.bytes,
        });
        let nodes: Vec<usize> = receives.iter().map(|receive| receive.node).collect();
        let receives = receives.into_iter().map(|receive| {
            let (from, tag) = (places[receive.node].process, self.tag(receive.part));
            Incoming::new(from, tag, Some(head(receive.part)), receive.into)
        });
        let (sends, mut receives): (Vec<_>, Vec<_>) = (sends.collect(), receives.collect());
        self.op.buffers().await_all(nodes.clone());
        let deadline = self.op.deadline() + late;
        let done = self
            .op
            .network()?
            .exchange(&sends, &mut receives, deadline, self);
        if done.map_err(|lost| self.lost(&lost))? {
            let come = nodes.into_iter().zip(receives);
            let whole = come.filter_map(|(node, receive)| match receive.come {
                Some(Come::Whole { body, .. }) => Some((node, body)),
                _ => None,
            });
            return Ok(whole.collect());
        }
        let mut odd = nodes.into_iter().zip(&receives);
        let odd = odd.find(|(_, receive)| receive.is_odd());
        Err(odd.map_or_else(|| self.op.failure(), |(node, odd)| self.odd(node, odd)))
    }

    fn tag(&self, part: u32) -> Tag {
        Tag {
            group: self.op.layout().group,
            sequence: self.op.call().sequence,
            part,
        }
    }

    /// The error of a message that is not the one expected.
    fn odd(&self, node: usize, odd: &Incoming<'_>) -> Error {
        match (&odd.come, &odd.into) {
            (Some(Come::Whole { head, .. }), _) if odd.head.is_some_and(|due| due != head) => {
                self.mismatch(node, head)
            }
            (Some(Come::Whole { body, .. }), Some(into)) => {
                let (length, due) = (body.len(), into.len());
                self.op
                    .malformed(node, format!("it has {length} bytes where {due} are due"))
            }
            _ => self.op.failure(),
        }
    }

    fn lost(&self, lost: &Lost) -> Error {
        let node = self.op.layout().place_of(lost.process);
        let (Cause::Deadline(_), Some(node)) = (&lost.cause, node) else {
            return self.op.missed(lost);
        };
        let mut missing = self.op.buffers().awaited();
        if missing.is_empty() {
            // Nothing is due from it, but it takes nothing.
            missing.push(node);
        }
        self.op.fail_late(&missing)
    }

    /// Both sides find a mismatch. They tell it alike, the lower rank last.
    fn mismatch(&self, node: usize, head: &[u8]) -> Error {
        let call: Arc<Call> = match codec::decode(head) {
            Ok(call) => Arc::new(call),
            Err(message) => return self.op.malformed(node, message),
        };
        let (here, there) = (
            self.op.lowest(self.op.layout().here()),
            self.op.lowest(node),
        );
        let (own, other) = ((here, self.op.call().clone()), (there, call));
        let ((rank, call), (peer, peer_call)) = if here > there {
            (own, other)
        } else {
            (other, own)
        };
        self.op.fail(Error::Mismatch {
            rank,
            call,
            peer,
            peer_call,
        })
    }
}

impl Cancel for Leader<'_, '_> {
    /// Returns true if the group has failed.
    fn is_cancelled(&self) -> bool {
        !self.op.can_go_on()
    }

    fn received_from(&self, process: usize) {
        if let Some(node) = self.op.layout().place_of(process) {
            self.op.buffers().heard_from(node);
        }
    }
}
