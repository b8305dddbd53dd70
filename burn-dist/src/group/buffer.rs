//! The forms in which calls take elements: borrowed slices, vectors and (in `tensor`) tensors.

use super::ProcessGroup;
use super::mode::{Blocking, Mode, OwnedCall};
use crate::collective::{self, Collective};
use crate::element::Element;
use crate::error::Result;

/// The kinds of calls that take a [`Buffer`], as its type parameter.
pub mod form {
    /// `broadcast`, `reduce` and `all_reduce`.
    #[derive(Debug)]
    pub enum InPlace {}
    /// `gather`.
    #[derive(Debug)]
    pub enum Gather {}
    /// `all_gather`.
    #[derive(Debug)]
    pub enum AllGather {}
    /// `scatter`.
    #[derive(Debug)]
    pub enum Scatter {}
    /// `reduce_scatter`.
    #[derive(Debug)]
    pub enum ReduceScatter {}
    /// `all_to_all`.
    #[derive(Debug)]
    pub enum AllToAll {}
}

/// Elements that a call of the form `C` takes, and the type in which it gives its result.
///
/// | call | borrowed, blocking only | vector | tensor |
/// |---|---|---|---|
/// | `broadcast`, `reduce`, `all_reduce` | `&mut [T]` | `Vec<T>` → `Vec<T>` | `Tensor` → `Tensor` |
/// | `gather` | `(&[T], Option<&mut [T]>)` | `Vec<T>` → `Option<Vec<T>>` | `Tensor` → `Option<Vec<Tensor>>` |
/// | `all_gather` | `(&[T], &mut [T])` | `Vec<T>` → `Vec<T>` | `Tensor` → `Vec<Tensor>` |
/// | `scatter` | `(Option<&[T]>, &mut [T])` | `(Option<Vec<T>>, usize)` → `Vec<T>` | `(Option<Vec<Tensor>>, &Tensor)` → `Tensor` |
/// | `reduce_scatter` | `(&[T], &mut [T])` | `Vec<T>` → `Vec<T>` | `Tensor` → `Tensor` |
/// | `all_to_all` | `(&[T], &mut [T])` | `Vec<T>` → `Vec<T>` | `Vec<Tensor>` → `Vec<Tensor>` |
///
/// Arrays and `&mut Vec<T>` count as slices. A call on borrowed slices takes no memory of their size. What
/// `Option` holds is there on the root alone. A vector that is gathered or scattered has the parts of all
/// ranks one after the other; in `scatter`, the number is the length of one part. For parts of different lengths
/// there is [`Uneven`](super::Uneven).
///
/// The trait is sealed.
pub trait Buffer<C = form::InPlace, M: Mode = Blocking> {
    /// The result of the call.
    type Output;

    #[doc(hidden)]
    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self::Output>;
}

/// Elements that lie one after the other: a slice, an array or a vector. The trait is sealed.
pub trait Slice {
    /// The type of the elements.
    type Item: Element;

    #[doc(hidden)]
    fn elements(&self) -> &[Self::Item];

    #[doc(hidden)]
    fn elements_mut(&mut self) -> &mut [Self::Item];
}

macro_rules! slices {
    ($([$($generics:tt)*] $type:ty;)*) => {$(
        impl<$($generics)*> Slice for $type {
            type Item = T;

            fn elements(&self) -> &[T] {
                self
            }

            fn elements_mut(&mut self) -> &mut [T] {
                self
            }
        }
    )*};
}
slices! {
    [T: Element] [T];
    [T: Element, const N: usize] [T; N];
    [T: Element] Vec<T>;
}

/// Forms in which an input of every rank becomes an output of every rank.
trait Symmetric {}
impl Symmetric for form::AllGather {}
impl Symmetric for form::ReduceScatter {}
impl Symmetric for form::AllToAll {}

impl<S: Slice + ?Sized> Buffer for &mut S {
    type Output = ();

    fn run(self, group: &ProcessGroup, call: Collective) -> Result<()> {
        borrowed(group, call, None, Some(self.elements_mut()))
    }
}

impl<C, I, O> Buffer<C> for (&I, &mut O)
where
    C: Symmetric,
    I: Slice + ?Sized,
    O: Slice<Item = I::Item> + ?Sized,
{
    type Output = ();

    fn run(self, group: &ProcessGroup, call: Collective) -> Result<()> {
        let (input, output) = self;
        borrowed(
            group,
            call,
            Some(input.elements()),
            Some(output.elements_mut()),
        )
    }
}

impl<I: Slice + ?Sized> Buffer<form::Gather> for (&I, Option<&mut [I::Item]>) {
    type Output = ();

    fn run(self, group: &ProcessGroup, call: Collective) -> Result<()> {
        borrowed(group, call, Some(self.0.elements()), self.1)
    }
}

impl<O: Slice + ?Sized> Buffer<form::Scatter> for (Option<&[O::Item]>, &mut O) {
    type Output = ();

    fn run(self, group: &ProcessGroup, call: Collective) -> Result<()> {
        borrowed(group, call, self.0, Some(self.1.elements_mut()))
    }
}

/// Runs a call on borrowed memory. Ranks compare the length that all of them have.
fn borrowed<T: Element>(
    group: &ProcessGroup,
    call: Collective,
    input: Option<&[T]>,
    output: Option<&mut [T]>,
) -> Result<()> {
    let lengths = (
        input.map(<[T]>::len),
        output.as_ref().map(|output| output.len()),
    );
    let shared = match call {
        Collective::Barrier => None,
        Collective::Broadcast { .. }
        | Collective::Reduce { .. }
        | Collective::AllReduce { .. }
        | Collective::Scatter { .. } => lengths.1,
        Collective::Gather { .. }
        | Collective::AllGather
        | Collective::ReduceScatter { .. }
        | Collective::AllToAll => lengths.0,
    };
    let shape = [shared.unwrap_or_default()];
    let ticket = group.collective_ticket(call, (T::NAME, &shape), lengths)?;
    collective::run(ticket.handle(), call, input, output)
}

impl<T: Element, M: Mode> Buffer<form::InPlace, M> for Vec<T> {
    type Output = Self;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self> {
        let shape = [self.len()];
        M::run(group, in_place(group, call, (T::NAME, &shape), self, Ok))
    }
}

impl<C: Symmetric, T: Element, M: Mode> Buffer<C, M> for Vec<T> {
    type Output = Self;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self> {
        let length = self.len();
        let job = group.output_length(call, length).and_then(|output| {
            let signature = (T::NAME, &[length][..]);
            transfer(group, call, signature, (Some(self), output), |output| {
                Ok(output.unwrap_or_default())
            })
        });
        M::run(group, job)
    }
}

impl<T: Element, M: Mode> Buffer<form::Gather, M> for Vec<T> {
    type Output = Option<Self>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self::Output> {
        let length = self.len();
        let job = group.output_length(call, length).and_then(|output| {
            let signature = (T::NAME, &[length][..]);
            transfer(group, call, signature, (Some(self), output), Ok)
        });
        M::run(group, job)
    }
}

impl<T: Element, M: Mode> Buffer<form::Scatter, M> for (Option<Vec<T>>, usize) {
    type Output = Vec<T>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Vec<T>> {
        let (input, length) = self;
        let signature = (T::NAME, &[length][..]);
        let job = transfer(group, call, signature, (input, Some(length)), |output| {
            Ok(output.unwrap_or_default())
        });
        M::run(group, job)
    }
}

/// Prepares a call in place on elements of its own.
pub(super) fn in_place<T: Element, R: 'static, M>(
    group: &ProcessGroup<M>,
    call: Collective,
    signature: (&'static str, &[usize]),
    mut buffer: Vec<T>,
    finish: impl FnOnce(Vec<T>) -> Result<R> + Send + 'static,
) -> Result<OwnedCall<R>> {
    let ticket = group.collective_ticket(call, signature, (None, Some(buffer.len())))?;
    Ok(Box::new(move || {
        ticket.run(|handle| {
            collective::run(handle, call, None, Some(&mut buffer))?;
            finish(buffer)
        })
    }))
}

/// Prepares a call from elements of its own to an output of the given length.
pub(super) fn transfer<T: Element, R: 'static, M>(
    group: &ProcessGroup<M>,
    call: Collective,
    signature: (&'static str, &[usize]),
    (input, output): (Option<Vec<T>>, Option<usize>),
    finish: impl FnOnce(Option<Vec<T>>) -> Result<R> + Send + 'static,
) -> Result<OwnedCall<R>> {
    let lengths = (input.as_ref().map(Vec::len), output);
    let ticket = group.collective_ticket(call, signature, lengths)?;
    Ok(Box::new(move || {
        ticket.run(|handle| {
            let mut output = output.map(bytemuck::zeroed_vec::<T>);
            collective::run(handle, call, input.as_deref(), output.as_deref_mut())?;
            finish(output)
        })
    }))
}
