//! Memory for results and messages, used again and again.
//!
//! Invariants: a pool keeps a few small memories and at most one large one that nobody uses, and gives each out for
//! no less than half of it. Memory is not written to while it is shared: it can be reached only as `Bytes` by then.

use std::sync::Arc;

use bytemuck::Pod;
use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

/// A rank's input to an operation.
pub(crate) enum Input<'a, T> {
    /// Nobody else's: the result may take its place.
    Own(Vec<T>),
    /// To be left as it is.
    Borrowed(&'a [T]),
}

impl<T: Pod> Input<'_, T> {
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

/// A vector as bytes.
pub(crate) struct Elements<T>(pub(crate) Vec<T>);

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

/// The memories that a rank has used last in a group, once nobody uses them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScratchPool(Arc<CachePadded<Mutex<Kept>>>);

#[derive(Debug, Default)]
struct Kept {
    small: Vec<Vec<Unit>>,
    large: Option<Vec<Unit>>,
}

/// The unit of memory: as strictly aligned as any element or sum of elements.
type Unit = u128;

/// The most units of a small memory.
const SMALL_UNITS: usize = (64 << 10) / size_of::<Unit>();

/// The most small memories that a pool keeps.
const MAX_SMALL: usize = 4;

impl ScratchPool {
    /// Memory of so many bytes, with anything in it.
    pub(crate) fn take(&self, bytes: usize) -> Scratch {
        let units = bytes.div_ceil(size_of::<Unit>());
        let fits = |memory: &Vec<Unit>| (units..=2 * units).contains(&memory.len());
        let kept = if units == 0 {
            None
        } else if units > SMALL_UNITS {
            self.0.lock().large.take_if(|memory| fits(memory))
        } else {
            let mut kept = self.0.lock();
            // The last that was used lies in the cache.
            let found = kept.small.iter().rposition(fits);
            found.map(|at| kept.small.remove(at))
        };
        Scratch {
            memory: kept.unwrap_or_else(|| bytemuck::zeroed_vec(units)),
            bytes,
            pool: self.clone(),
        }
    }

    /// Keeps memory; gives back what it displaces.
    fn put(&self, memory: Vec<Unit>) -> Option<Vec<Unit>> {
        let mut kept = self.0.lock();
        if memory.len() > SMALL_UNITS {
            return kept.large.replace(memory);
        }
        // The oldest goes, so that sizes that are used no more do.
        let displaced = (kept.small.len() >= MAX_SMALL).then(|| kept.small.remove(0));
        kept.small.push(memory);
        displaced
    }
}

/// Memory that comes from a [`ScratchPool`], and goes back there when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    memory: Vec<Unit>,
    bytes: usize,
    pool: ScratchPool,
}

impl AsRef<[u8]> for Scratch {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.memory)[..self.bytes]
    }
}

impl AsMut<[u8]> for Scratch {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.memory)[..self.bytes]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            // After the lock is released.
            drop(self.pool.put(memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn memory_is_used_again_once_nobody_has_it() {
        let pool = ScratchPool::default();
        let mut first = pool.take(12);
        first.as_mut().copy_from_slice(b"first result");
        let address = first.as_ref().as_ptr();
        let shared = Bytes::from_owner(first);
        let view = shared.slice(6..);
        drop(shared);
        let second = pool.take(12);
        assert_ne!(second.as_ref().as_ptr(), address);
        assert_eq!(view, "result");
        drop(second);
        drop(view);
        // Of the two, the last that was dropped is taken first; it serves for a little less, too.
        assert_eq!(pool.take(12).as_ref().as_ptr(), address);
        assert_eq!(pool.take(10).as_ref(), b"first resu");
        assert_eq!(pool.take(24).as_ref(), &[0; 24][..]);
        assert_eq!(pool.take(8).as_ref(), &[0; 8][..]);
        assert!(pool.take(0).as_ref().is_empty());
    }

    #[test]
    fn small_memory_displaces_no_large_one() {
        let pool = ScratchPool::default();
        let large = pool.take(1 << 20);
        let address = large.as_ref().as_ptr();
        drop(large);
        drop(pool.take(100));
        drop(pool.take(0));
        assert_eq!(pool.take(1 << 20).as_ref().as_ptr(), address);
    }
}
