//! Blocking calls on slices.

use std::sync::Arc;

use super::ProcessGroup;
use crate::collective;
use crate::element::{Element, ReduceOp};
use crate::error::{Call, Detail, Error, Result};
use crate::transport::threads::Route;

/// The most that a gathering of byte strings may come to.
const LARGEST_GATHERING: usize = 256 << 20;

/// # Errors of all calls
/// [`Error::InvalidArgument`] if an argument can't be right; [`Error::Mismatch`] if another rank makes
/// another call; [`Error::Timeout`] if ranks don't come before the deadline; [`Error::PeerLeft`] if one
/// has ended; [`Error::Aborted`]. The failure is that of the whole group.
impl ProcessGroup {
    /// Waits until every rank of the group has called this.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn barrier(&self) -> Result<()> {
        self.barrier_ticket().run(collective::barrier)
    }

    /// Copies the buffer of rank `root` into that of every other rank. All are of equal length.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn broadcast<T: Element>(&self, buffer: &mut [T], root: usize) -> Result<()> {
        let ticket = self.broadcast_ticket::<T>(&[buffer.len()], root)?;
        ticket.run(|entry| collective::broadcast(entry, buffer, root))
    }

    /// Combines the buffers of all ranks, element by element, into that of rank `root`; the others'
    /// stay as they are.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce<T: Element>(&self, buffer: &mut [T], op: ReduceOp, root: usize) -> Result<()> {
        let ticket = self.reduce_ticket::<T>(&[buffer.len()], op, root)?;
        ticket.run(|entry| collective::reduce(entry, buffer, op, root))
    }

    /// Combines the buffers of all ranks, element by element, into each of them. The result is the
    /// same on all ranks to the bit, and does not depend on how they are laid over threads.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_reduce<T: Element>(&self, buffer: &mut [T], op: ReduceOp) -> Result<()> {
        let ticket = self.all_reduce_ticket::<T>(&[buffer.len()], op);
        ticket.run(|entry| collective::all_reduce(entry, buffer, op))
    }

    /// Puts the inputs of all ranks, in rank order, into the output of rank `root`: `world_size` times
    /// as long, and `None` on the other ranks.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn gather<T: Element>(
        &self,
        input: &[T],
        output: Option<&mut [T]>,
        root: usize,
    ) -> Result<()> {
        let lengths = (input.len(), output.as_ref().map(|output| output.len()));
        let ticket = self.gather_ticket::<T>(&[input.len()], lengths.0, lengths.1, root)?;
        ticket.run(|entry| collective::gather(entry, input, output, root))
    }

    /// Puts the inputs of all ranks, in rank order, into every rank's output: `world_size` times as
    /// long as the input.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_gather<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        let ticket = self.all_gather_ticket::<T>(&[input.len()], input.len(), output.len())?;
        ticket.run(|entry| collective::all_gather(entry, input, output))
    }

    /// Copies part `r` of the input of rank `root` into the output of rank `r`. The input is
    /// `world_size` times as long as the output, and `None` on the other ranks.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn scatter<T: Element>(
        &self,
        input: Option<&[T]>,
        output: &mut [T],
        root: usize,
    ) -> Result<()> {
        let (shape, length) = ([output.len()], input.map(<[T]>::len));
        let ticket = self.scatter_ticket::<T>(&shape, length, output.len(), root)?;
        ticket.run(|entry| collective::scatter(entry, input, output, root))
    }

    /// Combines part `r` of all ranks' inputs, element by element, into the output of rank `r`. The
    /// input is `world_size` times as long as the output.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce_scatter<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<()> {
        let shape = [input.len()];
        let ticket = self.reduce_scatter_ticket::<T>(&shape, input.len(), output.len(), op)?;
        ticket.run(|entry| collective::reduce_scatter(entry, input, output, op))
    }

    /// Copies part `r` of the input of rank `p` into part `p` of the output of rank `r`, for all `p` and
    /// `r`. Inputs and outputs are of equal length, a multiple of `world_size`.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_to_all<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        let ticket = self.all_to_all_ticket::<T>(&[input.len()], input.len(), output.len())?;
        ticket.run(|entry| collective::all_to_all(entry, input, output))
    }

    /// Sends a copy of the elements to rank `to`, and does not wait for it to be received. Messages of
    /// the same two ranks and tag keep their order. What is sent is kept until it is received, so a
    /// sender must not run ahead without bound.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls); [`Error::PeerLeft`] if the receiver has ended.
    pub fn send<T: Element>(&self, elements: &[T], to: usize, tag: u64) -> Result<()> {
        self.send_shaped(elements, &[elements.len()], to, tag)
    }

    /// Receives the next message of rank `from` with this tag, which must have the buffer's type and
    /// length.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls); [`Error::Mismatch`] if the message has another type or shape;
    /// [`Error::PeerLeft`] if there is no message and the sender has ended.
    pub fn recv<T: Element>(&self, buffer: &mut [T], from: usize, tag: u64) -> Result<()> {
        let shape = [buffer.len()];
        self.recv_shaped(buffer, &shape, from, tag)
    }

    pub(super) fn send_shaped<T: Element>(
        &self,
        elements: &[T],
        shape: &[usize],
        to: usize,
        tag: u64,
    ) -> Result<()> {
        let peer = self.check_peer("send", to)?;
        let detail = Detail {
            to: Some(peer),
            tag: Some(tag),
            ..Detail::default()
        };
        let call = self.message_call::<T>("send", shape, detail);
        let route = Route {
            from: self.rank(),
            to,
            tag,
        };
        let (core, bytes) = (self.core(), bytemuck::cast_slice(elements));
        let meeting = &core.meeting;
        meeting.recorded(core.rank, &call, || {
            meeting.send(route, call.clone(), self.timeout(), bytes)
        })
    }

    pub(super) fn recv_shaped<T: Element>(
        &self,
        buffer: &mut [T],
        shape: &[usize],
        from: usize,
        tag: u64,
    ) -> Result<()> {
        let peer = self.check_peer("recv", from)?;
        let detail = Detail {
            from: Some(peer),
            tag: Some(tag),
            ..Detail::default()
        };
        let call = self.message_call::<T>("recv", shape, detail);
        let route = Route {
            from,
            to: self.rank(),
            tag,
        };
        let bytes = bytemuck::cast_slice_mut(buffer);
        let (core, meeting) = (self.core(), &self.core().meeting);
        meeting.recorded(core.rank, &call, || {
            meeting.receive(route, call.clone(), self.timeout(), bytes)
        })
    }

    fn message_call<T: Element>(
        &self,
        operation: &'static str,
        shape: &[usize],
        detail: Detail,
    ) -> Arc<Call> {
        self.member.lineage().tell_fault();
        let sequence = self.core().next_message();
        Arc::new(Call {
            operation: operation.into(),
            sequence,
            dtype: T::NAME.into(),
            shape: shape.to_vec(),
            detail,
        })
    }

    /// Gives every rank the bytes of all, in rank order. Their numbers may differ; together they may
    /// come to 256 MiB.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub(crate) fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let call = "all_gather_bytes";
        let ticket = self.ticket(call, "", &[], Detail::default());
        let gathered =
            ticket.run(|entry| collective::all_gather_bytes(entry, bytes, LARGEST_GATHERING))?;
        gathered.map_err(|total| Error::InvalidArgument {
            rank: self.global_rank(),
            call,
            message: too_much(total),
        })
    }

    /// Gives every rank the bytes of rank `root`, which passes `Some`; up to 256 MiB.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub(crate) fn broadcast_bytes(&self, bytes: Option<&[u8]>, root: usize) -> Result<Vec<u8>> {
        let call = "broadcast_bytes";
        let root_rank = Some(self.check_peer(call, root)?);
        self.check_side(call, "input", bytes.is_some(), root)?;
        let bytes = bytes.unwrap_or_default();
        if bytes.len() > LARGEST_GATHERING {
            return Err(self.refuse(call, too_much(bytes.len())));
        }
        let ticket = self.ticket(
            call,
            "",
            &[],
            Detail {
                root: root_rank,
                ..Detail::default()
            },
        );
        ticket.run(|entry| collective::broadcast_bytes(entry, bytes, root))
    }
}

fn too_much(total: usize) -> String {
    format!("{total} bytes are more than the {LARGEST_GATHERING} that one message may have")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::tests::support::on_ranks;

    #[test]
    fn bytes_of_unequal_lengths_reach_all() {
        on_ranks(3, |group| {
            let mine = vec![group.rank() as u8; 2 * group.rank()];
            let all = group.all_gather_bytes(&mine).unwrap();
            assert_eq!(all, [vec![], vec![1; 2], vec![2; 4]]);
            let bytes = (group.rank() == 2).then_some(&b"from two"[..]);
            assert_eq!(group.broadcast_bytes(bytes, 2).unwrap(), b"from two");
        });
    }

    #[test]
    fn too_many_bytes_are_refused_on_every_rank() {
        let half = vec![0; LARGEST_GATHERING / 2 + 1];
        on_ranks(2, |group| {
            let error = group.all_gather_bytes(&half).unwrap_err();
            assert!(
                error.to_string().contains("268435458 bytes are more than"),
                "{error}"
            );
            // All found it together, so the group goes on.
            group.barrier().unwrap();
        });
    }
}
