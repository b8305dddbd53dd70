//! Messages between two ranks.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Tensor;
use burn::tensor::kind::Basic;

use super::ProcessGroup;
use super::buffer::Slice;
use super::host::{Origin, for_elements};
use super::member::Core;
use super::mode::{Blocking, Mode, OwnedCall};
use crate::element::Element;
use crate::engine::{PendingRecv, Route};
use crate::error::{Call, Detail, Result};

/// A wait for messages, and the receives that it is for.
pub struct Waiting<R> {
    pub(super) posted: Vec<Arc<PendingRecv>>,
    pub(super) job: OwnedCall<R>,
}

/// Elements that are sent: a slice, a vector or a tensor. The trait is sealed.
pub trait Message {
    #[doc(hidden)]
    fn send<M>(self, group: &ProcessGroup<M>, to: usize, tag: u64) -> Result<()>;
}

/// A place for a message: `&mut [T]` for blocking calls, or a `Vec<T>` or tensor of the expected shape, whose
/// contents are not read and in whose place the message is returned. The trait is sealed.
pub trait Slot<M: Mode = Blocking>: Sized {
    /// The message as it is returned.
    type Output;

    #[doc(hidden)]
    fn expected<N>(&self, group: &ProcessGroup<N>) -> Result<Expected>;

    /// Takes what has come, which is as expected.
    #[doc(hidden)]
    fn fill(self, rank: usize, bytes: &[u8]) -> Result<Self::Output>;

    #[doc(hidden)]
    fn receive<S: Source>(
        self,
        group: &ProcessGroup<M>,
        receive: Result<Receive>,
        source: S,
    ) -> M::Returned<S::Received<Self::Output>>;
}

/// The sender of a message that is received: a rank, or [`AnyRank`]. The trait is sealed.
pub trait Source: Copy + Send + 'static {
    /// The result of a receive whose message is returned as `R`.
    type Received<R>;

    #[doc(hidden)]
    fn rank(self) -> Option<usize>;

    #[doc(hidden)]
    fn received<R>(self, from: usize, message: R) -> Self::Received<R>;
}

impl Source for usize {
    type Received<R> = R;

    fn rank(self) -> Option<usize> {
        Some(self)
    }

    fn received<R>(self, _: usize, message: R) -> R {
        message
    }
}

/// Any other rank of the group, as the sender of a message. The receive gives the sender's rank too. It takes the
/// message that came first, so no sender starves.
#[derive(Clone, Copy, Debug)]
pub struct AnyRank;

impl Source for AnyRank {
    type Received<R> = (usize, R);

    fn rank(self) -> Option<usize> {
        None
    }

    fn received<R>(self, from: usize, message: R) -> (usize, R) {
        (from, message)
    }
}

/// One of the sends and receives of a [`batch`](ProcessGroup::batch).
#[derive(Clone, Debug)]
pub enum P2p<B> {
    /// Sends the message to a rank, with a tag.
    Send(B, usize, u64),
    /// Receives from a rank, with a tag, a message like this.
    Recv(B, usize, u64),
}

impl<S: Slice + ?Sized> Message for &S {
    fn send<M>(self, group: &ProcessGroup<M>, to: usize, tag: u64) -> Result<()> {
        let elements = self.elements();
        let shape = [elements.len()];
        group.send_bytes(
            (S::Item::NAME, &shape),
            bytemuck::cast_slice(elements),
            (to, tag),
        )
    }
}

impl<T: Element> Message for Vec<T> {
    fn send<M>(self, group: &ProcessGroup<M>, to: usize, tag: u64) -> Result<()> {
        (&self).send(group, to, tag)
    }
}

impl<const D: usize, K: Basic> Message for Tensor<D, K> {
    fn send<M>(self, group: &ProcessGroup<M>, to: usize, tag: u64) -> Result<()> {
        let contents = group.contents("send", self)?;
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let elements = contents.elements::<T>();
            group.send_bytes(origin.signature::<T>(), bytemuck::cast_slice(&elements), (to, tag))
        }, Err(group.no_elements("send", origin.dtype)))
    }
}

impl<S: Slice + ?Sized> Slot for &mut S {
    type Output = ();

    fn expected<N>(&self, _: &ProcessGroup<N>) -> Result<Expected> {
        Ok(Expected::new::<S::Item>(&[self.elements().len()]))
    }

    fn fill(self, _: usize, bytes: &[u8]) -> Result<()> {
        bytemuck::cast_slice_mut(self.elements_mut()).copy_from_slice(bytes);
        Ok(())
    }

    fn receive<F: Source>(
        self,
        _: &ProcessGroup,
        receive: Result<Receive>,
        source: F,
    ) -> Result<F::Received<()>> {
        let (from, ()) = receive?.finish(self)?;
        Ok(source.received(from, ()))
    }
}

impl<T: Element, M: Mode> Slot<M> for Vec<T> {
    type Output = Self;

    fn expected<N>(&self, _: &ProcessGroup<N>) -> Result<Expected> {
        Ok(Expected::new::<T>(&[self.len()]))
    }

    fn fill(mut self, _: usize, bytes: &[u8]) -> Result<Self> {
        bytemuck::cast_slice_mut(&mut self).copy_from_slice(bytes);
        Ok(self)
    }

    fn receive<S: Source>(
        self,
        group: &ProcessGroup<M>,
        receive: Result<Receive>,
        source: S,
    ) -> M::Returned<S::Received<Self>> {
        later(group, self, receive, source)
    }
}

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Slot<M> for Tensor<D, K> {
    type Output = Self;

    fn expected<N>(&self, group: &ProcessGroup<N>) -> Result<Expected> {
        let origin = Origin::of(self, group.global_rank(), "recv");
        for_elements!(origin.dtype, T => {
            let (dtype, shape) = origin.signature::<T>();
            Ok(Expected { dtype, ..Expected::new::<T>(shape) })
        }, Err(group.no_elements("recv", origin.dtype)))
    }

    fn fill(self, rank: usize, bytes: &[u8]) -> Result<Self> {
        let origin = Origin::of(&self, rank, "recv");
        for_elements!(origin.dtype, T => {
            origin.tensor(bytemuck::pod_collect_to_vec::<u8, T>(bytes), origin.shape)
        }, Err(origin.failed("its dtype can't travel".to_owned())))
    }

    fn receive<S: Source>(
        self,
        group: &ProcessGroup<M>,
        receive: Result<Receive>,
        source: S,
    ) -> M::Returned<S::Received<Self>> {
        later(group, self, receive, source)
    }
}

/// Receives into a slot of its own, now or when the result is waited for.
fn later<B: Slot<M, Output: Send> + Send + 'static, M: Mode, S: Source>(
    group: &ProcessGroup<M>,
    slot: B,
    receive: Result<Receive>,
    source: S,
) -> M::Returned<S::Received<B::Output>> {
    M::wait(
        group,
        receive.map(|receive| {
            let posted = vec![receive.posted.clone()];
            let job: OwnedCall<_> = Box::new(move || {
                let (from, message) = receive.finish(slot)?;
                Ok(source.received(from, message))
            });
            Waiting { posted, job }
        }),
    )
}

/// The type and shape of a message that is due, as ranks compare them.
pub struct Expected {
    dtype: &'static str,
    shape: Vec<usize>,
    /// In bytes.
    length: usize,
}

impl Expected {
    fn new<T: Element>(shape: &[usize]) -> Self {
        let length = shape.iter().product::<usize>() * size_of::<T>();
        let (dtype, shape) = (T::NAME, shape.to_vec());
        Self {
            dtype,
            shape,
            length,
        }
    }
}

/// A receive whose place in the rank's order is taken.
pub struct Receive {
    core: Arc<Core>,
    timeout: Duration,
    posted: Arc<PendingRecv>,
    /// In bytes.
    length: usize,
}

impl Receive {
    /// Waits for the message, and gives its sender's rank with it.
    fn finish<B: Slot<M>, M: Mode>(self, slot: B) -> Result<(usize, B::Output)> {
        let (core, posted) = (&self.core, &self.posted);
        let record = core.state.record(core.rank, posted.call());
        let received = posted.wait(self.length, self.timeout);
        let filled =
            received.and_then(|(from, bytes)| Ok((from, slot.fill(core.global_rank(), &bytes)?)));
        record.end(filled)
    }
}

impl<M> ProcessGroup<M> {
    fn send_bytes(
        &self,
        signature: (&'static str, &[usize]),
        bytes: &[u8],
        (to, tag): (usize, u64),
    ) -> Result<()> {
        let detail = Detail {
            to: Some(self.check_peer("send", to)?),
            tag: Some(tag),
            ..Detail::default()
        };
        let call = self.message_call("send", signature, detail);
        let from = self.rank();
        let route = Route { from, to, tag };
        let (core, state) = (self.core(), &self.core().state);
        let record = state.record(core.rank, &call);
        record.end(state.send(route, call.clone(), self.timeout, bytes))
    }

    /// Takes the next place in the order of this rank's receives.
    pub(super) fn post<B: Slot<N>, N: Mode>(
        &self,
        slot: &B,
        from: Option<usize>,
        tag: u64,
    ) -> Result<Receive> {
        let expected = slot.expected(self)?;
        if from.is_none() && self.world_size() == 1 {
            let message = "there is no other rank in a group of 1".to_owned();
            return Err(self.refuse("recv", message));
        }
        let global = from.map(|from| self.check_peer("recv", from));
        let detail = Detail {
            from: global.transpose()?,
            tag: Some(tag),
            ..Detail::default()
        };
        let call = self.message_call("recv", (expected.dtype, &expected.shape), detail);
        let core = self.core();
        Ok(Receive {
            posted: Arc::new(core.state.post(core.rank, from, call)),
            core: core.clone(),
            timeout: self.timeout,
            length: expected.length,
        })
    }

    /// Posts the receives of a batch, then sends, and prepares the wait for all.
    pub(super) fn post_batch<B>(
        &self,
        batch: impl IntoIterator<Item = P2p<B>>,
    ) -> Result<Waiting<Vec<B::Output>>>
    where
        B: Message + Slot<M, Output: Send> + Send + 'static,
        M: Mode,
    {
        let (mut receives, mut sends) = (Vec::new(), Vec::new());
        for one in batch {
            match one {
                P2p::Send(message, to, tag) => sends.push((message, to, tag)),
                P2p::Recv(slot, from, tag) => {
                    receives.push((self.post(&slot, Some(from), tag)?, slot));
                }
            }
        }
        for (message, to, tag) in sends {
            message.send(self, to, tag)?;
        }
        let posted = receives
            .iter()
            .map(|(receive, _)| receive.posted.clone())
            .collect();
        let job: OwnedCall<_> = Box::new(move || {
            let received = receives
                .into_iter()
                .map(|(receive, slot)| receive.finish(slot));
            received.map(|one| Ok(one?.1)).collect()
        });
        Ok(Waiting { posted, job })
    }

    fn message_call(
        &self,
        operation: &'static str,
        (dtype, shape): (&'static str, &[usize]),
        detail: Detail,
    ) -> Arc<Call> {
        self.member.lineage().tell_fault();
        let sequence = self.core().next_message();
        Arc::new(Call {
            operation: operation.into(),
            sequence,
            dtype: dtype.into(),
            shape: shape.to_vec(),
            detail,
        })
    }
}
