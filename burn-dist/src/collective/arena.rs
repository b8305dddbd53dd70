//! The leader's memory in an exchange, and its sends and receives at once.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::leader::{Inward, Leader, Outward};
use super::plan::{Exchange, Memory, Span, Step};
use crate::engine::{Arrived, RunningOp};
use crate::error::Result;
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
            shared: op.memory(exchange.shared),
        }
    }

    pub(super) fn read(&self, span: &Span) -> &[u8] {
        let memory = match span.memory {
            Memory::Output => &*self.output,
            Memory::Shared => self.shared.as_ref(),
            Memory::Received(node) => &self.received.as_ref()[self.slot(node)],
            Memory::Parcel(number) => self.op.parcel_bytes(number),
            Memory::Input(_) | Memory::Lent => &[],
        };
        &memory[span.bytes.start..span.bytes.end.min(memory.len())]
    }

    pub(super) fn write(&mut self, span: &Span) -> &mut [u8] {
        let memory = match span.memory {
            Memory::Shared => self.shared.as_mut(),
            _ => &mut *self.output,
        };
        &mut memory[span.bytes.clone()]
    }

    fn slot(&self, node: usize) -> Range<usize> {
        self.slots[node].clone().unwrap_or(0..0)
    }

    /// Bytes received for all ranks of the process.
    pub(super) fn into_arrived(self) -> Arrived {
        let all = Bytes::from_owner(self.received);
        let received = self.slots.into_iter().zip(self.chosen);
        let received = received.map(|(slot, chosen)| slot.map_or(chosen, |slot| all.slice(slot)));
        Arrived {
            received: received.collect(),
            shared: Bytes::from_owner(self.shared),
        }
    }
}

/// The sends and receives that are under way together.
pub(super) struct Batch {
    pub(super) steps: Vec<Step>,
    /// The time by which each batch may be later than the one before.
    patience: Duration,
    done: u32,
}

impl Batch {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            steps: Vec::new(),
            patience,
            done: 0,
        }
    }

    /// Sends and receives what is due.
    pub(super) fn pass(&mut self, leader: &Leader<'_, '_>, memory: &mut Arena<'_>) -> Result<()> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let Arena {
            op,
            output,
            received,
            slots,
            chosen,
            shared,
        } = memory;
        let mut carvings = [
            Carving::new(output),
            Carving::new(shared.as_mut()),
            Carving::new(received.as_mut()),
        ];
        let place = |span: &Span| carving_of(span, slots);
        for step in &self.steps {
            if let Step::Recv { into, .. } = step
                && let Some((carving, bytes)) = place(into)
            {
                carvings[carving].writes.push(bytes);
            }
        }
        let mut carved = carvings.map(Carving::carve);
        let mut receives = Vec::new();
        for step in &self.steps {
            if let Step::Recv { from, part, into } = step {
                let chosen = matches!(into.memory, Memory::Received(it) if slots[it].is_none());
                let into = place(into).map(|(carving, bytes)| carved[carving].take(&bytes));
                let (node, part, into) = (*from, *part, into.filter(|_| !chosen));
                receives.push(Inward { node, part, into });
            }
        }
        let sends = self.steps.iter().filter_map(|step| match step {
            Step::Send { to, part, from } => Some(Outward {
                node: *to,
                part: *part,
                bytes: match (from.memory, place(from)) {
                    (Memory::Parcel(number), _) => {
                        let parcel = op.parcel_bytes(number);
                        &parcel[from.bytes.start..from.bytes.end.min(parcel.len())]
                    }
                    (_, Some((carving, bytes))) => carved[carving].read(&bytes),
                    _ => &[],
                },
            }),
            _ => None,
        });
        let sends: Vec<_> = sends.collect();
        let late = self.patience * self.done;
        for (node, bytes) in leader.pass(&sends, receives, late)? {
            chosen[node] = bytes.into();
        }
        self.steps.clear();
        self.done += 1;
        Ok(())
    }
}

/// Returns the index of a span's carving (output, shared, received) and the bytes in it; none for a parcel.
fn carving_of(span: &Span, slots: &[Option<Range<usize>>]) -> Option<(usize, Range<usize>)> {
    match span.memory {
        Memory::Output => Some((0, span.bytes.clone())),
        Memory::Shared => Some((1, span.bytes.clone())),
        Memory::Received(node) => {
            let slot = slots[node].clone().unwrap_or(0..0);
            let end = slot.end.min(slot.start.saturating_add(span.bytes.end));
            Some((2, slot.start + span.bytes.start..end))
        }
        Memory::Parcel(_) | Memory::Input(_) | Memory::Lent => None,
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
