//! The leader's memory in an exchange, and its sends and receives at once.

use std::ops::Range;

use bytes::Bytes;

use super::plan::{Exchange, Memory, Span, Step};
use crate::engine::{Arrived, RunningOp};
use crate::shared_memory::Scratch;

/// The memory that an exchange reads and writes.
pub(super) struct Arena<'a> {
    op: &'a RunningOp<'a>,
    output: &'a mut [u8],
    received: Scratch,
    /// The bytes of `received` that are for each node; none if the sender chooses the length.
    slots: Vec<Option<Range<usize>>>,
    /// The messages of nodes that chose their length.
    chosen: Vec<Bytes>,
    work: Scratch,
    shared: Scratch,
}

/// The alignment of a node's bytes: any element may begin there.
const ALIGNMENT: usize = 16;

impl<'a> Arena<'a> {
    pub(super) fn new(
        op: &'a RunningOp<'a>,
        output: &'a mut [u8],
        exchange: &Exchange<'_>,
    ) -> Self {
        let mut end = 0;
        let slots = exchange.received.iter().map(|bytes| {
            bytes.map(|bytes| {
                let start = end;
                end = (start + bytes).next_multiple_of(ALIGNMENT);
                start..start + bytes
            })
        });
        let slots: Vec<_> = slots.collect();
        Self {
            op,
            output,
            received: op.memory(end),
            chosen: vec![Bytes::new(); slots.len()],
            slots,
            work: op.memory(exchange.work),
            shared: op.memory(exchange.shared),
        }
    }

    pub(super) fn read(&self, span: &Span) -> &[u8] {
        let memory = match span.memory {
            Memory::Output => &*self.output,
            Memory::Shared => self.shared.as_ref(),
            Memory::Work => self.work.as_ref(),
            Memory::Received(node) => &self.received.as_ref()[self.slot(node)],
            Memory::Parcel(number) => self.op.parcel_bytes(number),
            Memory::Input(_) | Memory::Lent => &[],
        };
        &memory[span.bytes.start..span.bytes.end.min(memory.len())]
    }

    pub(super) fn write(&mut self, span: &Span) -> &mut [u8] {
        let memory = match span.memory {
            Memory::Shared => self.shared.as_mut(),
            Memory::Work => self.work.as_mut(),
            _ => &mut *self.output,
        };
        &mut memory[span.bytes.clone()]
    }

    /// Copies bytes into work memory. Those of it do not overlap.
    pub(super) fn copy(&mut self, from: &Span, into: &Span) {
        let bytes = from.bytes.clone();
        let source = match from.memory {
            Memory::Work => return self.work.as_mut().copy_within(bytes, into.bytes.start),
            Memory::Output => &*self.output,
            Memory::Shared => self.shared.as_ref(),
            Memory::Received(node) => {
                &self.received.as_ref()[self.slots[node].clone().unwrap_or(0..0)]
            }
            Memory::Parcel(number) => self.op.parcel_bytes(number),
            Memory::Input(_) | Memory::Lent => &[],
        };
        self.work.as_mut()[into.bytes.clone()].copy_from_slice(&source[bytes]);
    }

    fn slot(&self, node: usize) -> Range<usize> {
        self.slots[node].clone().unwrap_or(0..0)
    }

    /// Returns the received bytes and the shared result, for all ranks of the process.
    pub(super) fn into_arrived(self) -> Arrived {
        let all = Bytes::from_owner(self.received);
        let received = self.slots.into_iter().zip(self.chosen);
        let received = received.map(|(slot, chosen)| slot.map_or(chosen, |slot| all.slice(slot)));
        Arrived {
            received: received.collect(),
            work: Bytes::from_owner(self.work),
            shared: Bytes::from_owner(self.shared),
        }
    }
}

/// The memory of an arena, cut so that all messages of a batch can be sent and received at once.
pub(super) struct CutArena<'m> {
    op: &'m RunningOp<'m>,
    slots: &'m [Option<Range<usize>>],
    /// Of the output, the shared result, what is received and work memory.
    cuts: [Carved<'m>; 4],
}

/// The cut and the bytes in it that a span names; none for a parcel.
fn place(slots: &[Option<Range<usize>>], span: &Span) -> Option<(usize, Range<usize>)> {
    match span.memory {
        Memory::Output => Some((0, span.bytes.clone())),
        Memory::Shared => Some((1, span.bytes.clone())),
        Memory::Received(node) => {
            let slot = slots[node].clone()?;
            let end = slot.end.min(slot.start.saturating_add(span.bytes.end));
            Some((2, slot.start + span.bytes.start..end))
        }
        Memory::Work => Some((3, span.bytes.clone())),
        Memory::Parcel(_) | Memory::Input(_) | Memory::Lent => None,
    }
}

impl Arena<'_> {
    /// Cuts the memory for the messages of a batch.
    pub(super) fn cut(&mut self, batch: &[Step]) -> CutArena<'_> {
        let mut cuts = [
            Carving::new(self.output),
            Carving::new(self.shared.as_mut()),
            Carving::new(self.received.as_mut()),
            Carving::new(self.work.as_mut()),
        ];
        for step in batch {
            if let Step::Recv { into, .. } = step
                && let Some((cut, bytes)) = place(&self.slots, into)
            {
                cuts[cut].writes.push(bytes);
            }
        }
        CutArena {
            op: self.op,
            slots: &self.slots,
            cuts: cuts.map(Carving::carve),
        }
    }

    /// Keeps a message whose length its node chose.
    pub(super) fn set_chosen(&mut self, node: usize, bytes: Vec<u8>) {
        self.chosen[node] = bytes.into();
    }
}

impl<'m> CutArena<'m> {
    /// The memory of a receive; none if the sender chooses the length.
    pub(super) fn take(&mut self, into: &Span) -> Option<&'m mut [u8]> {
        let (cut, bytes) = place(self.slots, into)?;
        Some(self.cuts[cut].take(&bytes))
    }

    /// The bytes of a send.
    pub(super) fn read(&self, from: &Span) -> &'m [u8] {
        if let Memory::Parcel(number) = from.memory {
            let parcel = self.op.parcel_bytes(number);
            return &parcel[from.bytes.start..from.bytes.end.min(parcel.len())];
        }
        place(self.slots, from).map_or(&[], |(cut, bytes)| self.cuts[cut].read(&bytes))
    }
}

/// A memory that is cut into disjoint pieces to write, and what lies between them to read.
struct Carving<'m> {
    memory: &'m mut [u8],
    writes: Vec<Range<usize>>,
}

struct Carved<'m> {
    /// By start; none once it is taken.
    writes: Vec<(Range<usize>, Option<&'m mut [u8]>)>,
    /// The bytes between, by start.
    gaps: Vec<(usize, &'m [u8])>,
}

impl<'m> Carving<'m> {
    fn new(memory: &'m mut [u8]) -> Self {
        Self {
            memory,
            writes: Vec::new(),
        }
    }

    /// Cuts the memory. Writes that overlap are a mistake of the plan, which panics.
    fn carve(self) -> Carved<'m> {
        let Self { memory, mut writes } = self;
        writes.sort_unstable_by_key(|bytes| (bytes.start, bytes.end));
        let mut rest = memory;
        let mut at = 0;
        let mut gaps = Vec::with_capacity(writes.len() + 1);
        let writes = writes.into_iter().map(|bytes| {
            let (gap, tail) = std::mem::take(&mut rest).split_at_mut(bytes.start - at);
            gaps.push((at, &*gap));
            let (piece, tail) = tail.split_at_mut(bytes.len());
            rest = tail;
            at = bytes.end;
            (bytes, Some(piece))
        });
        let writes = writes.collect();
        gaps.push((at, rest));
        Carved { writes, gaps }
    }
}

impl<'m> Carved<'m> {
    /// A piece to write.
    fn take(&mut self, bytes: &Range<usize>) -> &'m mut [u8] {
        let key = |bytes: &Range<usize>| (bytes.start, bytes.end);
        let first = self
            .writes
            .partition_point(|(other, _)| key(other) < key(bytes));
        let mut found = self.writes[first..].iter_mut();
        found
            .find_map(|(_, piece)| piece.take())
            .unwrap_or_default()
    }

    /// Bytes to read, which lie between two writes.
    fn read(&self, bytes: &Range<usize>) -> &'m [u8] {
        let after = self
            .gaps
            .partition_point(|(start, _)| *start <= bytes.start);
        // Of gaps that begin at one place, the last may be the one that is not empty.
        let (start, gap) = self.gaps[..after].last().copied().unwrap_or((0, &[]));
        &gap[bytes.start - start..bytes.end - start]
    }
}
