//! All-reduce of a large buffer: reduce-scatter and all-gather by direct exchange, in a stream.
//!
//! Each place owns a segment of the buffer, and each segment is cut into chunks. In step `s` a place
//!
//! 1. sends its partial results of chunk `s + 1` of each segment to the segment's owner, and chunk
//!    `s - 1` of its own segment, which is done, to all;
//! 2. receives all places' partial results of chunk `s` of its own segment, and chunk `s - 2` of each
//!    other segment, done by its owner;
//! 3. merges chunk `s` of its own segment in the canonical tree.
//!
//! So chunks are on their way in both directions while others are merged, and a chunk is merged while
//! it is in the core's cache. A process with one rank sends from the buffer itself and receives into it.
//! (A stream of one or two chunks sends nothing ahead: two steps more would cost more than they save.)
//!
//! Source: the reduce-scatter and all-gather of Rabenseifner (2004) by direct exchange; chunks in a
//! pipeline as in the ring of Patarasuk and Yuan (2009).
//!
//! Callers: `reductions`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::super::tree::Reducer;
use super::reductions::Partials;
use crate::element::Element;
use crate::error::Result;
use crate::transport::threads::{Abroad, Carrier, Floor, Inward, Lent, Outward};

/// How many bytes of its own segment a place receives from each other in one step: a frame that goes in
/// one write. Less costs more system calls, more falls out of the core's cache (measured with 2, 4 and 8
/// processes on 2 cores: half of it and twice as much take a quarter longer).
/// (Tests inside the crate make many steps of little.)
const CHUNK_BYTES: usize = if cfg!(test) { 1500 } else { 126 << 10 };
/// How many it receives at least from all others together: with one other, two writes a step.
const STEP_BYTES: usize = 2 * CHUNK_BYTES;

/// One chunk, as a place that does not own it sees it; or as its owner does.
struct Cell<'b> {
    /// This process's partial results; those of its only rank are in `result`.
    parts: Option<&'b [u8]>,
    /// The elements, in the end those of the result.
    result: &'b mut [u8],
}

impl Cell<'_> {
    fn parts(&self) -> &[u8] {
        self.parts.unwrap_or(self.result)
    }

    fn elements<T>(&self) -> usize {
        self.result.len() / size_of::<T>()
    }
}

/// How a buffer is cut.
struct Cuts {
    places: usize,
    count: usize,
    chunk: usize,
}

impl Cuts {
    fn new<T>(places: usize, count: usize) -> Self {
        let others = (places - 1).max(1);
        let chunk = CHUNK_BYTES.max(STEP_BYTES / others) / size_of::<T>();
        Self {
            places,
            count,
            chunk: chunk.max(1),
        }
    }

    /// The elements that a place owns.
    fn segment(&self, place: usize) -> Range<usize> {
        // Nearly equal, so that none is empty, and the first message to each place has the call.
        let cut = |place: usize| place * self.count / self.places;
        cut(place)..cut(place + 1)
    }

    /// The chunks of a place's segment.
    fn chunks(&self, place: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (segment, chunk) = (self.segment(place), self.chunk);
        let end = segment.end;
        segment
            .step_by(chunk)
            .map(move |start| start..(start + chunk).min(end))
    }
}

/// Reduces the buffer of this process's only rank in its place.
pub(super) fn all_reduce_alone<T: Element>(
    abroad: Abroad<'_>,
    buffer: &mut [T],
    partials: &Partials<'_>,
) -> Result<()> {
    let cuts = Cuts::new::<T>(partials.layout.places().len(), buffer.len());
    let done = abroad.lead(Lent::Read(&[]), (0..0, &|_, _| Vec::new()), |carrier| {
        let cells = cells(&cuts, buffer, &|_| None);
        Stream::<T>::new(partials, cells).run(carrier)?;
        Ok(Arc::default())
    });
    done.map(drop)
}

/// Reduces the buffers of this process's ranks into memory that they share: the result's elements, as
/// bytes that are aligned for them.
pub(super) fn all_reduce_together<T: Element>(
    abroad: Abroad<'_>,
    buffer: &[T],
    partials: &Partials<'_>,
) -> Result<Bytes> {
    let layout = partials.layout;
    let cuts = Cuts::new::<T>(layout.places().len(), buffer.len());
    let pack = |floor: &Floor<'_>, place| {
        let chunks = cuts.chunks(place);
        let packed = chunks.map(|chunk| partials.pack::<T>(floor, &[chunk]));
        packed.collect::<Vec<_>>().concat()
    };
    let lent = Lent::Read(bytemuck::cast_slice(buffer));
    let done = abroad.lead(lent, (0..cuts.places, &pack), |carrier| {
        let mut memory = carrier.memory(size_of_val(buffer));
        let result = bytemuck::cast_slice_mut::<u8, T>(memory.as_mut());
        let parcel = |place| Some(carrier.packed(place));
        let mut cells = cells(&cuts, result, &parcel);
        for row in &mut cells {
            let mut start = 0;
            for cell in row {
                let elements = cell.result.len() / size_of::<T>();
                let length = partials.length(layout.here(), elements);
                cell.parts = cell.parts.map(|parcel| &parcel[start..start + length]);
                start += length;
            }
        }
        Stream::<T>::new(partials, cells).run(carrier)?;
        Ok(Arc::new([Bytes::from_owner(memory)]))
    });
    // A leader delivers one.
    done.map(|done| done[0].clone())
}

/// The chunks of each place's segment, with the whole of what was packed for the place.
fn cells<'b, T: Element>(
    cuts: &Cuts,
    mut result: &'b mut [T],
    parcel: &dyn Fn(usize) -> Option<&'b [u8]>,
) -> Vec<Vec<Cell<'b>>> {
    let row = |place| {
        let chunks = cuts.chunks(place).map(|chunk| {
            let (now, later) = std::mem::take(&mut result).split_at_mut(chunk.len());
            result = later;
            Cell {
                parts: parcel(place),
                result: bytemuck::cast_slice_mut(now),
            }
        });
        chunks.collect()
    };
    (0..cuts.places).map(row).collect()
}

/// One all-reduce, as the leader of a place carries it.
struct Stream<'s, 'l, 'b, T: Element> {
    partials: &'s Partials<'l>,
    here: usize,
    /// By place and chunk.
    cells: Vec<Vec<Cell<'b>>>,
    /// How much memory the partial results of a chunk of this place's segment take, by place.
    rooms: Vec<usize>,
    reducer: Reducer<T>,
    /// How many chunks the longest segment has.
    chunks: usize,
    /// How many chunks are sent before they are needed.
    ahead: usize,
}

/// The part of the messages that carry partial results of a chunk.
fn raw(chunk: usize) -> u32 {
    2 * chunk as u32
}

/// The part of the messages that carry a chunk that is done.
fn done(chunk: usize) -> u32 {
    2 * chunk as u32 + 1
}

impl<'s, 'l, 'b, T: Element> Stream<'s, 'l, 'b, T> {
    fn new(partials: &'s Partials<'l>, cells: Vec<Vec<Cell<'b>>>) -> Self {
        let here = partials.layout.here();
        let chunks = cells.iter().map(Vec::len).max().unwrap_or(0);
        let longest = cells[here].first().map_or(0, Cell::elements::<T>);
        let rooms = (0..cells.len()).map(|place| match place {
            own if own == here => 0,
            // So that each begins where any element may.
            other => partials.length(other, longest).next_multiple_of(16),
        });
        Self {
            here,
            rooms: rooms.collect(),
            cells,
            reducer: partials.reducer(longest),
            partials,
            chunks,
            ahead: usize::from(chunks > 2),
        }
    }

    fn run(mut self, carrier: &Carrier<'_, '_>) -> Result<()> {
        let mut memory = carrier.memory(self.rooms.iter().sum());
        let mut rest = memory.as_mut();
        // What comes of the chunk to be merged, by place.
        let cut = self.rooms.iter().map(|room| {
            let (room, others) = std::mem::take(&mut rest).split_at_mut(*room);
            rest = others;
            room
        });
        let mut come: Vec<_> = cut.collect();
        for step in 0..=self.chunks + self.ahead {
            self.pass(carrier, step, &mut come)?;
            self.merge(step, &come);
        }
        Ok(())
    }

    /// Sends and receives what is due in a step.
    fn pass(
        &mut self,
        carrier: &Carrier<'_, '_>,
        step: usize,
        come: &mut [&mut [u8]],
    ) -> Result<()> {
        let (here, ahead) = (self.here, self.ahead);
        let first = if step == 0 { 0 } else { step + ahead };
        let to_send = first..=step + ahead;
        let to_receive = step.checked_sub(1 + ahead);
        let mut rows: Vec<_> = self.cells.iter_mut().enumerate().collect();
        // Each begins with the next after it, so that not all write to one at once.
        rows.rotate_left(here);
        let mut rows = rows.into_iter();
        let own: &[Cell<'_>] = rows.next().map_or(&[], |(_, own)| own);
        let finished = step.checked_sub(1);
        let finished = finished.and_then(|chunk| Some((chunk, own.get(chunk)?)));
        let mut sends = Vec::new();
        let mut receives = Vec::new();
        for (place, row) in rows {
            // What is received lies before what is sent.
            let cut = to_receive.map_or(0, |chunk| chunk + 1).min(row.len());
            let (before, open) = row.split_at_mut(cut);
            for chunk in to_send.clone() {
                if let Some(cell) = open.get(chunk - cut) {
                    sends.push(Outward {
                        place,
                        part: raw(chunk),
                        bytes: cell.parts(),
                    });
                }
            }
            if let Some((chunk, cell)) = finished {
                sends.push(Outward {
                    place,
                    part: done(chunk),
                    bytes: cell.result,
                });
            }
            if let Some(chunk) = to_receive
                && let Some(cell) = before.get_mut(chunk)
            {
                receives.push(Inward {
                    place,
                    part: done(chunk),
                    bytes: cell.result,
                });
            }
        }
        if let Some(owned) = own.get(step).map(Cell::elements::<T>) {
            for (place, memory) in come.iter_mut().enumerate() {
                if place != here {
                    let length = self.partials.length(place, owned);
                    receives.push(Inward {
                        place,
                        part: raw(step),
                        bytes: &mut memory[..length],
                    });
                }
            }
        }
        carrier.pass(&sends, receives)
    }

    /// Merges a chunk of this place's segment.
    fn merge(&mut self, chunk: usize, come: &[&mut [u8]]) {
        let here = self.here;
        let Some(cell) = self.cells[here].get_mut(chunk) else {
            return;
        };
        let owned = cell.elements::<T>();
        for block in self.reducer.blocks(owned) {
            let sent = |place: usize| match place {
                own if own == here => cell.parts(),
                other => &*come[other],
            };
            let reducer = &mut self.reducer;
            self.partials
                .merge_block(reducer, block.clone(), owned, &sent);
            let result: &mut [T] = bytemuck::cast_slice_mut(cell.result);
            reducer.write(&mut result[block]);
        }
    }
}
