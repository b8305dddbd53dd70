//! Calls whose ranks give different lengths.

use burn::tensor::Tensor;
use burn::tensor::kind::Basic;

use super::ProcessGroup;
use super::buffer::{Buffer, form};
use super::call::Ticket;
use super::host::{Origin, for_elements};
use super::mode::{Mode, OwnedCall};
use crate::collective::{self, Collective, Unfit};
use crate::element::Element;
use crate::error::{Detail, Result};

/// The bytes that the elements of one call may come to, of all ranks together.
const LIMIT: usize = 1 << 30;

/// The bytes in front of a part's elements: its length, or the size of its first dimension.
const LENGTH: usize = 8;

/// A buffer whose length may differ between ranks, or between its parts, in `gather`, `all_gather`, `scatter` and
/// `all_to_all`. The elements of all ranks may come to 1 GiB.
///
/// | call | vector | tensor |
/// |---|---|---|
/// | `gather` | `Uneven(Vec<T>)` → `Option<Vec<Vec<T>>>` | `Uneven(Tensor)` → `Option<Vec<Tensor>>` |
/// | `all_gather` | `Uneven(Vec<T>)` → `Vec<Vec<T>>` | `Uneven(Tensor)` → `Vec<Tensor>` |
/// | `scatter` | `Uneven(Option<Vec<Vec<T>>>)` → `Vec<T>` | `Uneven((Option<Vec<Tensor>>, &Tensor))` → `Tensor` |
/// | `all_to_all` | `Uneven(Vec<Vec<T>>)` → `Vec<Vec<T>>` | `Uneven(Vec<Tensor>)` → `Vec<Tensor>` |
///
/// Tensors differ in the size of their first dimension alone; ranks compare their dtype and the other dimensions.
///
/// ```
/// # use burn_dist::{ProcessGroup, Uneven};
/// # let group = ProcessGroup::single();
/// let all = group.all_gather(Uneven(vec![1.5_f32; group.rank() + 1]))?;
/// assert_eq!(all[0], [1.5]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Uneven<B>(pub B);

/// One part: a vector or a tensor.
trait UnevenPart: Sized + Send + 'static {
    /// All that a part has in common with the others of a call.
    type Like: Send + 'static;

    fn like<M>(&self, group: &ProcessGroup<M>, call: &'static str) -> Self::Like;

    /// The dtype, and the sizes that all parts have in common.
    fn signature<M>(
        like: &Self::Like,
        group: &ProcessGroup<M>,
    ) -> Result<(&'static str, Vec<usize>)>;

    /// The length and the elements, of a part that is like the others.
    fn write<M>(self, like: &Self::Like, group: &ProcessGroup<M>) -> Result<Vec<u8>>;

    /// The part of this length; nothing if it does not have as many elements.
    fn read(like: &Self::Like, length: usize, bytes: &[u8]) -> Result<Option<Self>>;
}

impl<T: Element> UnevenPart for Vec<T> {
    type Like = ();

    fn like<M>(&self, _: &ProcessGroup<M>, _: &'static str) {}

    fn signature<M>((): &(), _: &ProcessGroup<M>) -> Result<(&'static str, Vec<usize>)> {
        Ok((T::NAME, Vec::new()))
    }

    fn write<M>(self, (): &(), _: &ProcessGroup<M>) -> Result<Vec<u8>> {
        Ok(with_length(self.len(), &self))
    }

    fn read((): &(), length: usize, bytes: &[u8]) -> Result<Option<Self>> {
        Ok(elements(bytes, Some(length)))
    }
}

impl<const D: usize, K: Basic + Send + 'static> UnevenPart for Tensor<D, K> {
    type Like = Origin<D>;

    fn like<M>(&self, group: &ProcessGroup<M>, call: &'static str) -> Origin<D> {
        group.origin(call, self)
    }

    fn signature<M>(
        like: &Origin<D>,
        group: &ProcessGroup<M>,
    ) -> Result<(&'static str, Vec<usize>)> {
        let call = like.operation;
        if D == 0 {
            let message = "a tensor without dimensions has no length that could differ".to_owned();
            return Err(group.refuse(call, message));
        }
        for_elements!(like.dtype, T => {
            Ok((like.signature::<T>().0, like.shape[1..].to_vec()))
        }, Err(group.no_elements(call, like.dtype)))
    }

    fn write<M>(self, like: &Origin<D>, group: &ProcessGroup<M>) -> Result<Vec<u8>> {
        let contents = group.contents(like.operation, self)?;
        let found = contents.origin.clone();
        if found.shape[1..] != like.shape[1..] || found.dtype != like.dtype {
            let message = format!(
                "a tensor is {:?}{:?} beside one of {:?}{:?}; only the first dimension may differ",
                found.dtype, found.shape, like.dtype, like.shape
            );
            return Err(group.refuse(like.operation, message));
        }
        for_elements!(found.dtype, T => {
            Ok(with_length(found.shape[0], &contents.elements::<T>()))
        }, Err(group.no_elements(like.operation, found.dtype)))
    }

    fn read(like: &Origin<D>, length: usize, bytes: &[u8]) -> Result<Option<Self>> {
        let mut shape = like.shape;
        shape[0] = length;
        let count = shape
            .iter()
            .try_fold(1_usize, |count, &size| count.checked_mul(size));
        for_elements!(like.dtype, T => {
            elements::<T>(bytes, count).map(|elements| like.tensor(elements, shape)).transpose()
        }, Ok(None))
    }
}

fn with_length<T: Element>(length: usize, elements: &[T]) -> Vec<u8> {
    let bytes: &[u8] = bytemuck::cast_slice(elements);
    [&(length as u64).to_le_bytes()[..], bytes].concat()
}

/// The elements, if they are so many.
fn elements<T: Element>(bytes: &[u8], count: Option<usize>) -> Option<Vec<T>> {
    let length = count?.checked_mul(size_of::<T>())?;
    (bytes.len() == length).then(|| bytemuck::pod_collect_to_vec(bytes))
}

/// Makes a part of a string that [`UnevenPart::write`] has written on a rank.
fn read<P: UnevenPart>(ticket: &Ticket, like: &P::Like, from: usize, string: &[u8]) -> Result<P> {
    let part = match string.split_first_chunk::<LENGTH>() {
        Some((length, bytes)) => match usize::try_from(u64::from_le_bytes(*length)) {
            Ok(length) => P::read(like, length, bytes)?,
            Err(_) => None,
        },
        None => None,
    };
    part.ok_or_else(|| ticket.unfit(&Unfit::Malformed(from), LIMIT))
}

fn read_all<P: UnevenPart>(ticket: &Ticket, like: &P::Like, all: &[Vec<u8>]) -> Result<Vec<P>> {
    let all = all.iter().enumerate();
    all.map(|(from, string)| read(ticket, like, from, string))
        .collect()
}

/// Prepares a gathering, of which the root alone has the result, if there is one.
fn gather<P: UnevenPart, M>(
    group: &ProcessGroup<M>,
    part: P,
    root: Option<usize>,
) -> Result<OwnedCall<Option<Vec<P>>>> {
    let call = if root.is_some() {
        "gather(Uneven)"
    } else {
        "all_gather(Uneven)"
    };
    let mut detail = Detail::default();
    if let Some(root) = root {
        detail.root = Some(group.check_peer(call, root)?);
    }
    let like = part.like(group, call);
    let (dtype, shape) = P::signature(&like, group)?;
    let string = part.write(&like, group)?;
    let ticket = group.ticket(call, dtype, &shape, detail);
    Ok(Box::new(move || {
        let all = ticket.run(|handle| {
            if let Some(root) = root {
                collective::gather_bytes(handle, &string, root, LIMIT)
            } else {
                let all = collective::all_gather_bytes(handle, &string, LIMIT)?;
                Ok(all.map(Some).map_err(Unfit::TooMany))
            }
        });
        let all = all?.map_err(|unfit| ticket.unfit(&unfit, LIMIT))?;
        all.map(|all| read_all(&ticket, &like, &all)).transpose()
    }))
}

fn scatter<P: UnevenPart, M>(
    group: &ProcessGroup<M>,
    like: P::Like,
    parts: Option<Vec<P>>,
    root: usize,
) -> Result<OwnedCall<P>> {
    let (dtype, shape) = P::signature(&like, group)?;
    let parts = parts
        .map(|parts| write_all(group, &like, parts))
        .transpose()?;
    let ticket =
        group.scatter_ticket("scatter(Uneven)", (dtype, &shape), parts.as_deref(), root)?;
    Ok(Box::new(move || {
        let string = ticket
            .run(|handle| collective::scatter_bytes(handle, parts.as_deref(), root, LIMIT))?;
        let string = string.map_err(|unfit| ticket.unfit(&unfit, LIMIT))?;
        read(&ticket, &like, root, &string)
    }))
}

fn all_to_all<P: UnevenPart, M>(
    group: &ProcessGroup<M>,
    parts: Vec<P>,
) -> Result<OwnedCall<Vec<P>>> {
    let call = "all_to_all(Uneven)";
    group.check_count(call, parts.len())?;
    // A group has a rank, so there is a first part.
    let Some(like) = parts.first().map(|first| first.like(group, call)) else {
        return Ok(Box::new(|| Ok(Vec::new())));
    };
    let (dtype, shape) = P::signature(&like, group)?;
    let parts = write_all(group, &like, parts)?;
    let ticket = group.ticket(call, dtype, &shape, Detail::default());
    Ok(Box::new(move || {
        let all = ticket.run(|handle| collective::all_to_all_bytes(handle, &parts, LIMIT))?;
        let all = all.map_err(|unfit| ticket.unfit(&unfit, LIMIT))?;
        read_all(&ticket, &like, &all)
    }))
}

fn write_all<P: UnevenPart, M>(
    group: &ProcessGroup<M>,
    like: &P::Like,
    parts: Vec<P>,
) -> Result<Vec<Vec<u8>>> {
    parts
        .into_iter()
        .map(|part| part.write(like, group))
        .collect()
}

impl<P: UnevenPart, M: Mode> Buffer<form::AllGather, M> for Uneven<P> {
    type Output = Vec<P>;

    fn run(self, group: &ProcessGroup<M>, _: Collective) -> M::Returned<Vec<P>> {
        let job = gather(group, self.0, None);
        M::run(
            group,
            job.map(|job| -> OwnedCall<_> { Box::new(move || Ok(job()?.unwrap_or_default())) }),
        )
    }
}

impl<P: UnevenPart, M: Mode> Buffer<form::Gather, M> for Uneven<P> {
    type Output = Option<Vec<P>>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Option<Vec<P>>> {
        M::run(group, gather(group, self.0, call.root()))
    }
}

impl<T: Element, M: Mode> Buffer<form::Scatter, M> for Uneven<Option<Vec<Vec<T>>>> {
    type Output = Vec<T>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Vec<T>> {
        M::run(
            group,
            scatter(group, (), self.0, call.root().unwrap_or_default()),
        )
    }
}

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Buffer<form::Scatter, M>
    for Uneven<(Option<Vec<Tensor<D, K>>>, &Tensor<D, K>)>
{
    type Output = Tensor<D, K>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Tensor<D, K>> {
        let Self((parts, like)) = self;
        let like = like.like(group, "scatter(Uneven)");
        M::run(
            group,
            scatter(group, like, parts, call.root().unwrap_or_default()),
        )
    }
}

impl<P: UnevenPart, M: Mode> Buffer<form::AllToAll, M> for Uneven<Vec<P>> {
    type Output = Vec<P>;

    fn run(self, group: &ProcessGroup<M>, _: Collective) -> M::Returned<Vec<P>> {
        M::run(group, all_to_all(group, self.0))
    }
}
