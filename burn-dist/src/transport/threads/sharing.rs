//! A result that the ranks of a process share: one memory, made by all, seen by all.
//!
//! ```text
//! the ranks lend their inputs, the leader also memory for the result ── all have come ──>
//!     each writes its segment of the result ── all have finished ──>
//!     the leader has its memory back, makes it one that nobody writes to any more, and hands it out
//! ```
//!
//! The leader is the lowest rank of the process. Its own input is that memory, if it is nobody else's;
//! else the memory is taken from the group's [`Spare`], which gets it back when the last rank has dropped
//! the result, so that results of one size, dropped before the next, take no new memory.
//!
//! Invariants: a group keeps at most two memories that nobody uses, and gives it out for no less than half
//! of it. Memory is not written to while it is shared: it can't be reached by then but as `Bytes`.
//!
//! Callers: `collective::all_reduce` and `collective::remote`.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytemuck::Pod;
use bytes::Bytes;

use super::lock;
use super::meeting::Entry;
use super::relay::{Arrived, End, Relay};
use super::shared::{Floor, Lent};
use crate::error::Result;

/// A rank's input to an operation.
pub(crate) enum Given<'a, T> {
    /// Nobody else's: the result may take its place.
    Own(Vec<T>),
    /// To be left as it is.
    Borrowed(&'a [T]),
}

impl<T: Pod> Given<'_, T> {
    pub(crate) fn elements(&self) -> &[T] {
        match self {
            Self::Own(elements) => elements,
            Self::Borrowed(elements) => elements,
        }
    }

    /// The input as memory that the result may take the place of.
    pub(crate) fn into_own(self) -> Vec<T> {
        match self {
            Self::Own(elements) => elements,
            Self::Borrowed(elements) => elements.to_vec(),
        }
    }
}

/// Memory for a result, of whatever origin.
trait Memory: AsRef<[u8]> + AsMut<[u8]> + Send + 'static {}

impl<T: Pod + Send> Memory for Elements<T> {}
impl Memory for Loaned {}

/// A vector as bytes.
struct Elements<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl<T: Pod> AsMut<[u8]> for Elements<T> {
    fn as_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// The memories that a group has used last, once nobody uses them: one of little and one of much.
#[derive(Clone, Debug, Default)]
pub(super) struct Spare(Arc<Mutex<[Option<Vec<Unit>>; 2]>>);

/// The most units of a memory of little.
const LITTLE: usize = (64 << 10) / size_of::<Unit>();

/// What memory is counted in: as strictly aligned as any element.
type Unit = u64;

impl Spare {
    /// Memory of so many bytes, with anything in it.
    pub(super) fn take(&self, bytes: usize) -> Loaned {
        let units = bytes.div_ceil(size_of::<Unit>());
        let fits = |memory: &mut Vec<Unit>| (units..=2 * units).contains(&memory.len());
        let kept = if bytes == 0 {
            None
        } else {
            lock(&self.0)[usize::from(units > LITTLE)].take_if(fits)
        };
        Loaned {
            memory: kept.unwrap_or_else(|| bytemuck::zeroed_vec(units)),
            bytes,
            home: self.clone(),
        }
    }
}

/// Memory that comes from a [`Spare`], and goes back there when it is dropped.
#[derive(Debug)]
pub(crate) struct Loaned {
    memory: Vec<Unit>,
    bytes: usize,
    home: Spare,
}

impl AsRef<[u8]> for Loaned {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.memory)[..self.bytes]
    }
}

impl AsMut<[u8]> for Loaned {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.memory)[..self.bytes]
    }
}

impl Drop for Loaned {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            // What it displaces is freed after the lock.
            let _displaced = lock(&self.home.0)[usize::from(memory.len() > LITTLE)].replace(memory);
        }
    }
}

impl Entry<'_> {
    /// Lends this rank's input to the ranks here, all of which are in this process, and does `share` of
    /// the work on it when all have come: it writes this rank's segment of the one output that is lent.
    /// Gives the whole output, once all have done theirs.
    ///
    /// # Errors
    /// As [`Self::attend`].
    pub(crate) fn attend_together<T: Pod + Send>(
        self,
        given: Given<'_, T>,
        share: impl FnOnce(Floor<'_>),
    ) -> Result<Bytes> {
        if self.meeting.layout.seat(self.rank) > 0 {
            return self.follow(bytemuck::cast_slice(given.elements()), share);
        }
        match given {
            Given::Own(elements) => self.lead(None, Elements(elements), share),
            Given::Borrowed(elements) => {
                let memory = self.meeting.spare.take(size_of_val(elements));
                self.lead(Some(bytemuck::cast_slice(elements)), memory, share)
            }
        }
    }

    /// As the leader; without an input, the memory holds it.
    fn lead(
        self,
        input: Option<&[u8]>,
        mut memory: impl Memory,
        share: impl FnOnce(Floor<'_>),
    ) -> Result<Bytes> {
        let occasion = self.meeting.enter(self.rank, &self.call)?;
        let deadline = Instant::now() + self.timeout;
        let mut delivery = Delivery {
            entry: &self,
            relay: &occasion.relay,
            result: None,
        };
        let output = memory.as_mut();
        let lent = match input {
            Some(input) => Lent::Beside { input, output },
            None => Lent::InPlace(output),
        };
        // If this fails it fails for all, and nobody waits for the leader.
        self.exchange(&occasion, lent, deadline, share)?;
        let result = Bytes::from_owner(memory);
        delivery.result = Some(result.clone());
        Ok(result)
    }

    fn follow(self, input: &[u8], share: impl FnOnce(Floor<'_>)) -> Result<Bytes> {
        let occasion = self.meeting.enter(self.rank, &self.call)?;
        let deadline = Instant::now() + self.timeout;
        self.exchange(&occasion, Lent::Read(input), deadline, share)?;
        // Nothing remains that could make the leader wait: it comes out of the exchange as this rank did.
        let come = occasion.relay.wait(deadline, || ());
        come.map(|come| come.shared.clone())
            .ok_or_else(|| self.withdrawn())
    }
}

/// Hands the result out when dropped, or says that there is none, so that the others here never wait for a
/// leader that is gone.
struct Delivery<'o, 'm> {
    entry: &'o Entry<'m>,
    relay: &'o Relay,
    result: Option<Bytes>,
}

impl Drop for Delivery<'_, '_> {
    fn drop(&mut self) {
        let (meeting, rank) = (self.entry.meeting, self.entry.rank);
        let result = self.result.take();
        if result.is_none() {
            // Whatever failed has said so already, unless the leader panicked.
            meeting.fail(meeting.left(rank, "panicked while it reduced", None));
        }
        let arrived = |shared| Arrived {
            received: Vec::new(),
            shared,
        };
        let end = result.map_or(End::Closed, |result| {
            End::Delivered(Arc::new(arrived(result)))
        });
        self.relay.end(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_nobody_has_it() {
        let spare = Spare::default();
        let mut first = spare.take(12);
        first.as_mut().copy_from_slice(b"first result");
        let address = first.as_ref().as_ptr();
        let shared = Bytes::from_owner(first);
        let view = shared.slice(6..);
        drop(shared);
        let second = spare.take(12);
        assert_ne!(second.as_ref().as_ptr(), address);
        assert_eq!(view, "result");
        drop(second);
        drop(view);
        // Of the two, the last that was dropped is kept; it serves for a little less, too.
        assert_eq!(spare.take(12).as_ref().as_ptr(), address);
        assert_eq!(spare.take(10).as_ref(), b"first resu");
        assert_eq!(spare.take(24).as_ref(), &[0; 24][..]);
        assert_eq!(spare.take(8).as_ref(), &[0; 8][..]);
        assert!(spare.take(0).as_ref().is_empty());
    }
}
