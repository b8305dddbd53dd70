//! The executor of plans: it moves and combines bytes as the steps say.
//!
//! ```text
//! begin ── the ranks of the process lend their buffers ──> share
//!   (several processes) the leader exchanges with the others ──> all finish from what has come
//! ```

use std::sync::Arc;

use bytes::Bytes;

use super::arena::Arena;
use super::combine::{Combiner, combine_block, elements};
use super::leader::{Delivery, Leader};
use super::local_steps::{Targets, write};
use super::operation::{Collective, Kind, Operation};
use super::plan::{self, Exchange, Lend, Memory, Plan, Span, Step};
use super::tree::Part;
use crate::element::{Element, ReduceOp};
use crate::engine::{Arrived, OpHandle, RunningOp};
use crate::error::Result;
use crate::shared_memory::{Elements, Input, LentBuffer, PeerBuffers, is_small};

/// The buffers of one rank.
pub(super) enum Buffers<'b> {
    /// One buffer, which holds the input before and the output after.
    InPlace(&'b mut [u8]),
    Apart {
        input: &'b [u8],
        output: &'b mut [u8],
    },
}

impl Buffers<'_> {
    fn output(&mut self) -> &mut [u8] {
        match self {
            Self::InPlace(buffer) => buffer,
            Self::Apart { output, .. } => output,
        }
    }
}

/// The result of an all-reduce that may be shared.
pub(crate) enum Reduced<T> {
    /// Memory of this rank's own.
    Own(Vec<T>),
    /// The elements, as bytes that other ranks of this process see too.
    Shared(Bytes),
}

/// Runs a collective on the rank's buffers, whose lengths are right. A call in place has an output alone.
pub(crate) fn run<T: Element>(
    handle: OpHandle<'_>,
    collective: Collective,
    input: Option<&[T]>,
    output: Option<&mut [T]>,
) -> Result<()> {
    let output = output.unwrap_or_default();
    let lengths = (input.map_or(0, <[T]>::len), output.len());
    let operation = Operation::new::<T>(collective, handle.layout().ranks(), lengths);
    let output = bytemuck::cast_slice_mut(output);
    let mut buffers = match collective {
        Collective::Broadcast { .. } | Collective::Reduce { .. } | Collective::AllReduce { .. } => {
            Buffers::InPlace(output)
        }
        _ => Buffers::Apart {
            input: bytemuck::cast_slice(input.unwrap_or_default()),
            output,
        },
    };
    let op = handle.begin()?;
    let plan = plan::plan(&operation, op.layout(), op.rank());
    let mut combiner = Combiner::new(&operation, op.ranks(), op.pool());
    share::<T>(&op, &plan, &mut combiner, &mut buffers)?;
    if let Some(arrived) = exchange(&op, plan.exchange, &mut combiner, buffers.output())? {
        let read = |span: &Span| cut(come(&op, &arrived, span.memory), span);
        let mut targets = Targets::new(Some(buffers.output()));
        targets.run(&plan.finish, &mut combiner, &read);
    }
    op.succeed();
    Ok(())
}

/// Runs an all-reduce whose result the ranks of a process share, where that saves time.
pub(crate) fn all_reduce_shared<T: Element>(
    handle: OpHandle<'_>,
    input: Input<'_, T>,
    op: ReduceOp,
) -> Result<Reduced<T>> {
    let layout = handle.layout();
    let collective = Collective::AllReduce { op };
    let lengths = (0, input.elements().len());
    let operation = &Operation::new::<T>(collective, layout.ranks(), lengths);
    let is_shared = if layout.is_local() {
        layout.ranks() > 1 && !is_small(operation.bytes, layout.ranks())
    } else {
        plan::shares_result(operation, layout)
    };
    if !is_shared {
        let mut buffer = input.into_own();
        run(handle, collective, None, Some(&mut buffer))?;
        return Ok(Reduced::Own(buffer));
    }
    if layout.is_local() {
        return run_shared_locally(handle, operation, input).map(Reduced::Shared);
    }
    let op = handle.begin()?;
    let plan = plan::plan(operation, layout, op.rank());
    let mut combiner = Combiner::<T>::new(operation, layout.ranks(), op.pool());
    let mut buffers = Buffers::Apart {
        input: bytemuck::cast_slice(input.elements()),
        output: &mut [],
    };
    share(&op, &plan, &mut combiner, &mut buffers)?;
    let arrived = exchange(&op, plan.exchange, &mut combiner, &mut [])?;
    op.succeed();
    // An operation of several processes has something that arrives.
    Ok(Reduced::Shared(
        arrived.map(|all| all.shared.clone()).unwrap_or_default(),
    ))
}

/// Runs an all-reduce within one process into one memory: the leader's own input, if it is nobody else's, or
/// scratch memory.
fn run_shared_locally<T: Element>(
    handle: OpHandle<'_>,
    operation: &Operation,
    input: Input<'_, T>,
) -> Result<Bytes> {
    let op = handle.begin()?;
    let result = match input {
        Input::Own(elements) if op.leads() => {
            lead_shared::<T, _>(&op, operation, None, Elements(elements))
        }
        Input::Borrowed(elements) if op.leads() => {
            let memory = op.memory(size_of_val(elements));
            let input = bytemuck::cast_slice(elements);
            lead_shared::<T, _>(&op, operation, Some(input), memory)
        }
        input => {
            let lent = LentBuffer::Read(bytemuck::cast_slice(input.elements()));
            let mut combiner = Combiner::<T>::new(operation, op.ranks(), op.pool());
            op.share(lent, |buffers| combine_lent(buffers, &mut combiner))?;
            op.follow().map(|arrived| arrived.shared.clone())
        }
    }?;
    op.succeed();
    Ok(result)
}

/// Lends the memory of the result, and delivers it. Without an input, the memory holds it.
fn lead_shared<T: Element, M: AsRef<[u8]> + AsMut<[u8]> + Send + 'static>(
    op: &RunningOp<'_>,
    operation: &Operation,
    input: Option<&[u8]>,
    mut memory: M,
) -> Result<Bytes> {
    let delivery = Delivery::new(op);
    let output = memory.as_mut();
    let lent = match input {
        Some(input) => LentBuffer::Beside { input, output },
        None => LentBuffer::InPlace(output),
    };
    let mut combiner = Combiner::<T>::new(operation, op.ranks(), op.pool());
    // If this fails it fails for all, and nobody waits for the leader.
    op.share(lent, |buffers| combine_lent(buffers, &mut combiner))?;
    let shared = Bytes::from_owner(memory);
    delivery.deliver(Arrived {
        shared: shared.clone(),
        ..Arrived::default()
    });
    Ok(shared)
}

/// The memory of what has come to this process, and of its own parcels.
fn come<'a>(op: &'a RunningOp<'_>, arrived: &'a Arrived, memory: Memory) -> &'a [u8] {
    match memory {
        Memory::Received(node) => &arrived.received[node],
        Memory::Shared => &arrived.shared,
        Memory::Work => &arrived.work,
        Memory::Parcel(number) => op.parcel_bytes(number),
        Memory::Input(_) | Memory::Lent | Memory::Output => &[],
    }
}

/// The first stage: lends the rank's buffer and does its steps on what all have lent.
pub(super) fn share<T: Element>(
    op: &RunningOp<'_>,
    plan: &Plan<'_>,
    combiner: &mut Combiner<'_, T>,
    buffers: &mut Buffers<'_>,
) -> Result<()> {
    // Nobody needs what other ranks do in this stage.
    let is_combined = combiner.operation().kind == Kind::AllReduce && op.layout().is_local();
    let (lent, output) = match (plan.lend, buffers) {
        (Lend::InPlace, Buffers::InPlace(buffer)) if is_combined => {
            (LentBuffer::combined(buffer, op.ranks()), None)
        }
        (Lend::InPlace, Buffers::InPlace(buffer)) => (LentBuffer::InPlace(buffer), None),
        (Lend::InPlace, Buffers::Apart { output, .. }) => (LentBuffer::InPlace(output), None),
        (Lend::Input, Buffers::InPlace(buffer)) => (LentBuffer::Read(buffer), None),
        (Lend::Input, Buffers::Apart { input, output }) => {
            (LentBuffer::Read(input), Some(&mut **output))
        }
        (Lend::Nothing, buffers) => (LentBuffer::Read(&[]), Some(buffers.output())),
    };
    op.share(lent, |buffers| {
        if let [Step::Combine { into, .. }] = &plan.share[..]
            && into.memory == Memory::Lent
        {
            return combine_lent(buffers, combiner);
        }
        let mut targets = Targets::new(output);
        let read = |span: &Span| match span.memory {
            Memory::Input(rank) => cut(buffers.read(op.seat_of(rank)), span),
            _ => &[],
        };
        targets.run(&plan.share, combiner, &read);
        // Before this stage ends for any rank: the leader reads them next.
        for (number, parcel) in targets.parcels {
            op.fill(number, parcel.into());
        }
    })
}

/// The part of a memory that a span names.
fn cut<'m>(memory: &'m [u8], span: &Span) -> &'m [u8] {
    &memory[span.bytes.start..span.bytes.end.min(memory.len())]
}

/// Combines this rank's segment of all inputs into the segments of all outputs that are lent.
fn combine_lent<T: Element>(buffers: PeerBuffers<'_>, combiner: &mut Combiner<'_, T>) {
    let mut segments = buffers.segments();
    // All buffers have one length, so the segments have too. They are aligned: a segment starts at a multiple of
    // a cache line, which every element's size divides.
    let count = segments.first().map_or(0, |segment| segment.input().len()) / size_of::<T>();
    let (reducer, blocks) = combiner.begin(count);
    for block in blocks {
        let bytes = block.start * size_of::<T>()..block.end * size_of::<T>();
        reducer.combine(0..segments.len(), block.len(), &|ranks| {
            let input = || &segments[ranks.start].input()[bytes.clone()];
            (ranks.len() == 1).then(|| Part::Rank(input()))
        });
        let mut done: Option<&[u8]> = None;
        for segment in &mut segments {
            if let Some(output) = segment.output() {
                let target = &mut output[bytes.clone()];
                match done {
                    // A mean is divided once.
                    None => reducer.write(bytemuck::cast_slice_mut(target)),
                    Some(done) => target.copy_from_slice(done),
                }
                done = Some(target);
            }
        }
    }
}

/// The second stage: the leader does its steps, and all ranks of the process get what has arrived; none within
/// one process.
pub(super) fn exchange<T: Element>(
    op: &RunningOp<'_>,
    exchange: Option<Exchange<'_>>,
    combiner: &mut Combiner<'_, T>,
    output: &mut [u8],
) -> Result<Option<Arc<Arrived>>> {
    let Some(exchange) = exchange else {
        return Ok(None);
    };
    if !op.leads() {
        let _span = tracing::trace_span!("wait for network").entered();
        return op.follow().map(Some);
    }
    let _span = tracing::trace_span!("network").entered();
    let mut leader = Leader::new(op, exchange.patience)?;
    let arrived = carry_out(&mut leader, exchange, combiner, output)?;
    Ok(Some(leader.deliver(arrived)))
}

/// Does the leader's steps, and returns what has arrived.
pub(super) fn carry_out<T: Element>(
    leader: &mut Leader<'_, '_>,
    exchange: Exchange<'_>,
    combiner: &mut Combiner<'_, T>,
    output: &mut [u8],
) -> Result<Arrived> {
    let mut memory = Arena::new(leader.op(), output, &exchange);
    // The sends and receives that are under way together.
    let mut batch = Vec::new();
    for step in exchange.steps {
        match step {
            Step::Send { .. } | Step::Recv { .. } => batch.push(step),
            Step::Combine {
                sources,
                into,
                last,
            } => {
                leader.pass(&mut batch, &mut memory)?;
                let operation = combiner.operation();
                let (reducer, blocks) = combiner.begin(elements(operation, &sources, &into, last));
                for block in blocks {
                    combine_block(reducer, operation, &sources, &block, &|span| {
                        memory.read(span)
                    });
                    write(
                        reducer,
                        &block,
                        operation.written(last),
                        memory.write(&into),
                        last,
                    );
                }
            }
            Step::Wait => leader.pass(&mut batch, &mut memory)?,
            Step::Copy { from, into } => {
                leader.pass(&mut batch, &mut memory)?;
                memory.copy(&from, &into);
            }
        }
    }
    leader.pass(&mut batch, &mut memory)?;
    Ok(memory.into_arrived())
}
