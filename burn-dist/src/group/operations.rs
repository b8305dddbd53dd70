//! The public calls of a group.

use std::marker::PhantomData;

use super::ProcessGroup;
#[cfg(doc)]
use super::Work;
use super::buffer::{Buffer, form};
use super::mode::{Mode, OwnedCall, Start};
#[cfg(doc)]
use super::p2p::AnyRank;
use super::p2p::{Message, P2p, Slot, Source};
use crate::collective::{self, Collective};
use crate::element::ReduceOp;
use crate::error::Detail;

impl ProcessGroup {
    /// A handle of the same membership whose calls return [`Work`] at once. They take buffers that they own, and
    /// run one after the other on this rank's communication thread.
    ///
    /// A call takes its place in the group's order when it is made, so asynchronous and blocking calls may
    /// follow one another as long as all ranks make them in one order. Tensors are read before the call returns.
    /// [`Work::wait`] also reports wrong arguments. The time that a call waits for other ranks counts from its
    /// turn.
    ///
    /// ```
    /// # use burn_dist::{ProcessGroup, ReduceOp};
    /// # let group = ProcessGroup::single();
    /// let sum = group.start().all_reduce(vec![1.0_f32, 2.0], ReduceOp::Sum);
    /// // Other work goes here.
    /// assert_eq!(sum.wait()?, [1.0, 2.0]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn start(&self) -> Start {
        ProcessGroup {
            member: self.member.clone(),
            timeout: self.timeout,
            within: self.within.clone(),
            mode: PhantomData,
        }
    }
}

/// The collectives take their elements as slices, vectors or tensors: [`Buffer`] lists the forms of each. They
/// return `Result<Output>`, or [`Work<Output>`](Work) from [`start`](ProcessGroup::start).
///
/// Tensors are float, int or bool, of any number of dimensions and on any backend. They keep their dtype and
/// device. Those of an autodiff device are read without their history, and results are not tracked. On the CPU,
/// the ranks of a process get tensors from `all_reduce` that share their memory, as clones of one do. Bool tensors
/// are reduced by `Min` (all) and `Max` (any) alone.
///
/// # Errors of all calls
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if an argument can't be right;
/// [`Error::Mismatch`](crate::Error::Mismatch) if another rank makes another call;
/// [`Error::Timeout`](crate::Error::Timeout) if ranks don't come before the deadline;
/// [`Error::PeerLeft`](crate::Error::PeerLeft) if one has ended; [`Error::Aborted`](crate::Error::Aborted);
/// [`Error::Tensor`](crate::Error::Tensor) for a tensor that can't be read, or whose dtype is none of F32, Flex32,
/// F64, F16, BF16, I64, I32, U8 and Bool. The failure is that of the whole group.
impl<M: Mode> ProcessGroup<M> {
    /// Waits until every rank of the group has called this.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn barrier(&self) -> M::Returned<()> {
        let ticket = self.ticket("barrier", "", &[], Detail::default());
        let job: OwnedCall<()> = Box::new(move || {
            collective::run::<u8>(ticket.handle(), Collective::Barrier, None, None)
        });
        M::run(self, Ok(job))
    }

    /// Copies the buffer of rank `root` into that of every other rank. All are of one shape.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn broadcast<B>(&self, buffer: B, root: usize) -> M::Returned<B::Output>
    where
        B: Buffer<form::InPlace, M>,
    {
        buffer.run(self, Collective::Broadcast { root })
    }

    /// Combines the buffers of all ranks, element by element, into that of rank `root`. The others' stay as they
    /// are.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce<B>(&self, buffer: B, op: ReduceOp, root: usize) -> M::Returned<B::Output>
    where
        B: Buffer<form::InPlace, M>,
    {
        buffer.run(self, Collective::Reduce { op, root })
    }

    /// Combines the buffers of all ranks, element by element, into each of them. The result is the same on all
    /// ranks to the bit, and does not depend on their layout over threads and processes.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_dist::{ProcessGroup, ReduceOp};
    /// # let group = ProcessGroup::single();
    /// let mut values = [1.0_f32, 2.0];
    /// group.all_reduce(&mut values, ReduceOp::Sum)?;
    /// let mean = group.all_reduce(Tensor::<2>::ones([2, 3], &Device::flex()), ReduceOp::Mean)?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn all_reduce<B>(&self, buffer: B, op: ReduceOp) -> M::Returned<B::Output>
    where
        B: Buffer<form::InPlace, M>,
    {
        buffer.run(self, Collective::AllReduce { op })
    }

    /// Puts the inputs of all ranks, in rank order, into the output of rank `root`. The other ranks have none.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    ///
    /// ```
    /// # use burn_dist::ProcessGroup;
    /// # let group = ProcessGroup::single();
    /// let all = group.gather(vec![1_i64, 2], 0)?;
    /// assert_eq!(all.is_some(), group.rank() == 0);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn gather<B>(&self, buffer: B, root: usize) -> M::Returned<B::Output>
    where
        B: Buffer<form::Gather, M>,
    {
        buffer.run(self, Collective::Gather { root })
    }

    /// Puts the inputs of all ranks, in rank order, into every rank's output.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    ///
    /// ```
    /// # use burn_dist::ProcessGroup;
    /// # let group = ProcessGroup::single();
    /// let mut all = vec![0; group.world_size()];
    /// group.all_gather((&[group.rank() as i64], &mut all))?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn all_gather<B>(&self, buffer: B) -> M::Returned<B::Output>
    where
        B: Buffer<form::AllGather, M>,
    {
        buffer.run(self, Collective::AllGather)
    }

    /// Copies part `r` of the input of rank `root` to rank `r`. The other ranks have no input. The tensor beside
    /// the input says, on every rank, the shape, dtype and device that are expected; its contents are not read.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn scatter<B>(&self, buffer: B, root: usize) -> M::Returned<B::Output>
    where
        B: Buffer<form::Scatter, M>,
    {
        buffer.run(self, Collective::Scatter { root })
    }

    /// Combines part `r` of all ranks' inputs, element by element, into the output of rank `r`. Tensors are cut
    /// along their first dimension, whose size is a multiple of the number of ranks.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce_scatter<B>(&self, buffer: B, op: ReduceOp) -> M::Returned<B::Output>
    where
        B: Buffer<form::ReduceScatter, M>,
    {
        buffer.run(self, Collective::ReduceScatter { op })
    }

    /// Copies part `r` of the input of rank `p` into part `p` of the output of rank `r`, for all `p` and `r`.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_to_all<B>(&self, buffer: B) -> M::Returned<B::Output>
    where
        B: Buffer<form::AllToAll, M>,
    {
        buffer.run(self, Collective::AllToAll)
    }

    /// Sends a copy of the message to rank `to`, and does not wait until it is received. Messages of the same
    /// two ranks and tag keep their order. A message is kept until it is received, so a sender must not run ahead
    /// without bound.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls); [`Error::PeerLeft`](crate::Error::PeerLeft) if the receiver has ended.
    pub fn send<B: Message>(&self, message: B, to: usize, tag: u64) -> M::Returned<()> {
        M::ready(self, message.send(self, to, tag))
    }

    /// Receives the next message of rank `from`, or of [`AnyRank`], with this tag. It must have the type and shape
    /// of `slot`: a slice to receive into, or a vector or tensor to be replaced.
    ///
    /// With [`start`](ProcessGroup::start), the receive takes its place among those of this rank at once and never
    /// waits for other calls. The message is taken in when [`Work::wait`] or [`Work::is_done`] is called; a receive
    /// whose [`Work`] is dropped is withdrawn.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls); [`Error::Mismatch`](crate::Error::Mismatch) if the message has another
    /// type or shape; [`Error::PeerLeft`](crate::Error::PeerLeft) if there is no message and the sender has ended.
    ///
    /// ```
    /// # use burn_dist::{AnyRank, ProcessGroup};
    /// # let groups = ProcessGroup::threads(2)?;
    /// # std::thread::scope(|scope| for group in groups { scope.spawn(move || -> burn_dist::Result<()> {
    /// if group.rank() == 0 {
    ///     let (from, values) = group.recv(vec![0_i32; 2], AnyRank, 7)?;
    ///     assert_eq!((from, values), (1, vec![3, 4]));
    /// } else {
    ///     group.send(&[3_i32, 4], 0, 7)?;
    /// }
    /// # group.barrier()
    /// # }); });
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn recv<B: Slot<M>, S: Source>(
        &self,
        slot: B,
        from: S,
        tag: u64,
    ) -> M::Returned<S::Received<B::Output>> {
        let receive = self.post(&slot, from.rank(), tag);
        slot.receive(self, receive, from)
    }

    /// Makes several sends and receives at once, in any order on any rank without deadlock. Gives the messages
    /// that were received, in the order of the receives. All receives take their places before anything is sent.
    ///
    /// # Errors
    /// Those of [`Self::send`] and [`Self::recv`].
    ///
    /// ```
    /// # use burn_dist::{P2p, ProcessGroup};
    /// # let group = ProcessGroup::single();
    /// let (rank, ranks) = (group.rank(), group.world_size());
    /// let (next, previous) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    /// let received = group.batch([
    ///     P2p::Recv(vec![0.0_f32; 2], previous, 0),
    ///     P2p::Send(vec![rank as f32, 0.5], next, 0),
    /// ])?;
    /// assert_eq!(received, [[previous as f32, 0.5]]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn batch<B>(
        &self,
        operations: impl IntoIterator<Item = P2p<B>>,
    ) -> M::Returned<Vec<B::Output>>
    where
        B: Message + Slot<M, Output: Send> + Send + 'static,
    {
        M::wait(self, self.post_batch(operations))
    }
}
