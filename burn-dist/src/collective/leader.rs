//! The leader of a process, its lowest rank, in the exchange of an operation: it alone uses the network, and no
//! lock is held meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arena::Arena;
use super::plan::{AFTER_CALL, Step};

use crate::codec;
use crate::engine::{Arrived, RunningOp};
use crate::error::{Call, Error, Result};
use crate::transport::network::{Cancel, Cause, Come, Incoming, Lost, Outgoing, Tag};

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
    /// The time by which each batch may be later than the one before.
    patience: Duration,
    /// The deadline of the next batch.
    deadline: Instant,
}

impl<'o, 'm> Leader<'o, 'm> {
    pub(super) fn new(op: &'o RunningOp<'m>, patience: Duration) -> Result<Self> {
        let delivery = Delivery::new(op);
        let call = codec::encode(&**op.call());
        let call = call.map_err(|message| op.malformed(op.layout().here(), message))?;
        Ok(Self {
            op,
            call,
            delivery,
            patience,
            deadline: op.deadline(),
        })
    }

    pub(super) fn op(&self) -> &'o RunningOp<'m> {
        self.op
    }

    /// Gives all ranks of the process what has arrived.
    pub(super) fn deliver(self, arrived: Arrived) -> Arc<Arrived> {
        self.delivery.deliver(arrived)
    }

    /// Sends and receives the messages of a batch, each of which its node knows by a part of its own. Those with a
    /// part below [`AFTER_CALL`] carry the call.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all is there.
    pub(super) fn pass(&mut self, batch: &mut Vec<Step>, memory: &mut Arena<'_>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let places = self.op.layout().places();
        let head = |part| {
            if part < AFTER_CALL {
                &self.call[..]
            } else {
                &[]
            }
        };
        let mut cut = memory.cut(batch);
        let (mut sends, mut receives, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for step in batch.iter() {
            if let Step::Recv { from, part, into } = step {
                let (process, tag) = (places[*from].process, self.tag(*part));
                nodes.push(*from);
                receives.push(Incoming::new(
                    process,
                    tag,
                    Some(head(*part)),
                    cut.take(into),
                ));
            }
        }
        for step in batch.iter() {
            if let Step::Send { to, part, from } = step {
                sends.push(Outgoing {
                    to: places[*to].process,
                    tag: self.tag(*part),
                    head: head(*part),
                    body: cut.read(from),
                });
            }
        }
        let patience = self.deadline - self.op.deadline();
        self.op.buffers().await_all(nodes.clone(), patience);
        let network = self.op.network()?;
        let done = network.exchange(&sends, &mut receives, self.deadline, self);
        if !done.map_err(|lost| self.lost(&lost))? {
            let mut odd = nodes.into_iter().zip(&receives);
            let odd = odd.find(|(_, receive)| receive.is_odd());
            return Err(odd.map_or_else(|| self.op.failure(), |(node, odd)| self.odd(node, odd)));
        }
        let whole = nodes.into_iter().zip(receives);
        let whole = whole.filter_map(|(node, receive)| match receive.come {
            Some(Come::Whole { body, .. }) => Some((node, body)),
            _ => None,
        });
        let whole: Vec<_> = whole.collect();
        for (node, body) in whole {
            memory.set_chosen(node, body);
        }
        batch.clear();
        self.deadline += self.patience;
        Ok(())
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
