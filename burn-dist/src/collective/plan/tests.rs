//! Plans of random layouts and operations, run by a simulator with plain vectors: every rank's output is that of
//! a direct computation, and every message that is sent is received.

use std::collections::{HashMap, VecDeque};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;
use crate::collective::combine::{Combiner, combine_block, elements};
use crate::element::{Element, ReduceOp};
use crate::shared_memory::ScratchPool;

mod messages;

/// Layouts and operations that are tried.
const SEEDS: u64 = if cfg!(miri) { 20 } else { 600 };

/// The memory of one rank, with the parcels and messages of its process.
#[derive(Clone, Default)]
struct Rank {
    input: Vec<i32>,
    output: Vec<i32>,
}

/// The memory of one process.
#[derive(Default)]
struct Process {
    parcels: HashMap<usize, Vec<u8>>,
    received: HashMap<usize, Vec<u8>>,
    work: Vec<u8>,
    shared: Vec<u8>,
}

/// A message's sender, receiver and part.
type Wire = HashMap<(usize, usize, u32), Vec<u8>>;

struct Simulation {
    operation: Operation,
    layouts: Vec<Layout>,
    ranks: Vec<Rank>,
    processes: Vec<Process>,
    pool: ScratchPool,
}

impl Simulation {
    fn read<'m>(&'m self, rank: usize, span: &Span) -> &'m [u8] {
        let process = &self.processes[self.layouts[0].home(rank)];
        let in_place = matches!(
            self.operation.kind,
            Kind::Broadcast | Kind::Reduce | Kind::AllReduce
        );
        let memory: &[u8] = match span.memory {
            Memory::Input(other) if in_place => bytemuck::cast_slice(&self.ranks[other].output),
            Memory::Input(other) => bytemuck::cast_slice(&self.ranks[other].input),
            Memory::Output | Memory::Lent => bytemuck::cast_slice(&self.ranks[rank].output),
            Memory::Parcel(number) => process.parcels.get(&number).map_or(&[], |bytes| bytes),
            Memory::Received(node) => process.received.get(&node).map_or(&[], |bytes| bytes),
            Memory::Work => &process.work,
            Memory::Shared => &process.shared,
        };
        &memory[span.bytes.start..span.bytes.end.min(memory.len())]
    }

    fn write(&mut self, rank: usize, span: &Span, bytes: &[u8]) {
        let home = self.layouts[0].home(rank);
        match span.memory {
            Memory::Parcel(number) => {
                let parcel = self.processes[home].parcels.entry(number);
                parcel.or_default().extend_from_slice(bytes);
            }
            Memory::Received(node) => {
                let end = span.bytes.start + bytes.len();
                let memory = self.processes[home].received.entry(node).or_default();
                memory.resize(memory.len().max(end), 0);
                memory[span.bytes.start..end].copy_from_slice(bytes);
            }
            Memory::Work => {
                self.processes[home].work[span.bytes.clone()].copy_from_slice(bytes);
            }
            Memory::Shared => {
                self.processes[home].shared[span.bytes.clone()].copy_from_slice(bytes);
            }
            _ => {
                let memory = bytemuck::cast_slice_mut(&mut self.ranks[rank].output);
                memory[span.bytes.clone()].copy_from_slice(bytes);
            }
        }
    }

    /// The bytes that a step makes.
    fn evaluate(&self, rank: usize, sources: &Sources, into: &Span, last: bool) -> Vec<u8> {
        let operation = &self.operation;
        let mut combiner = Combiner::<i32>::new(operation, self.ranks.len(), &self.pool);
        let (reducer, blocks) = combiner.begin(elements(operation, sources, into, last));
        let mut made = Vec::new();
        for block in blocks {
            combine_block(reducer, operation, sources, &block, &|span| {
                self.read(rank, span)
            });
            if last {
                let mut target = vec![0_i32; block.len()];
                reducer.write(&mut target);
                made.extend_from_slice(bytemuck::cast_slice(&target));
            } else {
                made.extend_from_slice(reducer.partial(block.len()));
            }
        }
        made
    }

    /// Runs the steps of a stage without the network, of all ranks at once.
    fn run_stage(&mut self, stage: &[Vec<Step>], lends: &[Lend]) {
        let mut writes = Vec::new();
        for (rank, steps) in stage.iter().enumerate() {
            for step in steps {
                let (into, bytes) = match step {
                    Step::Copy { from, into } => (into, self.read(rank, from).to_vec()),
                    Step::Combine {
                        sources,
                        into,
                        last,
                    } => (into, self.evaluate(rank, sources, into, *last)),
                    Step::Send { .. } | Step::Recv { .. } | Step::Wait => {
                        panic!("{step:?} in a local stage")
                    }
                };
                let targets: Vec<usize> = match into.memory {
                    Memory::Lent => (0..lends.len())
                        .filter(|&rank| lends[rank] == Lend::InPlace)
                        .collect(),
                    _ => vec![rank],
                };
                writes.extend(
                    targets
                        .into_iter()
                        .map(|target| (target, into.clone(), bytes.clone())),
                );
            }
        }
        for (rank, span, bytes) in writes {
            self.write(rank, &span, &bytes);
        }
    }

    /// Runs the exchanges of all leaders: each as far as what it waits for has been sent.
    fn run_exchanges(&mut self, exchanges: Vec<Option<Exchange<'_>>>) {
        let mut wire = Wire::new();
        let mut rests: Vec<VecDeque<Batch>> = Vec::new();
        for (node, exchange) in exchanges.into_iter().enumerate() {
            let Some(exchange) = exchange else { return };
            self.processes[node].shared = vec![0; exchange.shared];
            self.processes[node].work = vec![0; exchange.work];
            rests.push(batches(exchange.steps).into());
        }
        loop {
            let mut moved = false;
            for (node, batches) in rests.iter_mut().enumerate() {
                let leader = self.layouts[node].local()[0];
                while let Some(batch) = batches.front_mut() {
                    // All that is sent in a batch is read before anything comes.
                    for (to, part, from) in std::mem::take(&mut batch.sends) {
                        let sent = self.read(leader, &from).to_vec();
                        assert!(wire.insert((node, to, part), sent).is_none(), "sent twice");
                    }
                    let has_come = |(from, part, _): &(usize, u32, Span)| {
                        wire.contains_key(&(*from, node, *part))
                    };
                    if !batch.receives.iter().all(has_come) {
                        break;
                    }
                    moved = true;
                    for (from, part, into) in std::mem::take(&mut batch.receives) {
                        let come = wire.remove(&(from, node, part)).unwrap();
                        assert!(into.bytes.end == usize::MAX || into.bytes.len() == come.len());
                        self.write(leader, &into, &come);
                    }
                    let end = batch.end.take();
                    batches.pop_front();
                    match end {
                        Some(Step::Combine {
                            sources,
                            into,
                            last,
                        }) => {
                            let made = self.evaluate(leader, &sources, &into, last);
                            self.write(leader, &into, &made);
                        }
                        Some(Step::Copy { from, into }) => {
                            let copied = self.read(leader, &from).to_vec();
                            self.write(leader, &into, &copied);
                        }
                        _ => {}
                    }
                }
            }
            if rests.iter().all(VecDeque::is_empty) {
                assert!(wire.is_empty(), "not received: {:?}", wire.keys());
                return;
            }
            assert!(moved, "the processes wait for one another");
        }
    }
}

/// Messages that are under way together, and the step after them.
#[derive(Default)]
struct Batch {
    sends: Vec<(usize, u32, Span)>,
    receives: Vec<(usize, u32, Span)>,
    end: Option<Step>,
}

/// The batches of an exchange. Their receives share no bytes, with one another or with sends.
fn batches(steps: impl Iterator<Item = Step>) -> Vec<Batch> {
    let mut all = vec![Batch::default()];
    for step in steps {
        let batch = all.last_mut().unwrap();
        match step {
            Step::Send { to, part, from } => batch.sends.push((to, part, from)),
            Step::Recv { from, part, into } => batch.receives.push((from, part, into)),
            end => {
                batch.end = Some(end);
                all.push(Batch::default());
            }
        }
    }
    for batch in &all {
        let spans = batch.sends.iter().chain(&batch.receives);
        for (at, (_, _, into)) in batch.receives.iter().enumerate() {
            for (other, (_, _, span)) in spans.clone().enumerate() {
                let is_itself = other == batch.sends.len() + at;
                let apart = into.memory != span.memory
                    || into.bytes.end <= span.bytes.start
                    || span.bytes.end <= into.bytes.start;
                assert!(is_itself || apart, "{into:?} and {span:?} in one batch");
            }
        }
    }
    all
}

/// The outputs by the definition of the operation.
fn expected(kind: Kind, op: ReduceOp, root: usize, ranks: &[Rank], count: usize) -> Vec<Vec<i32>> {
    let value = |rank: usize, index: usize| match kind {
        Kind::Broadcast | Kind::Reduce | Kind::AllReduce => ranks[rank].output[index],
        _ => ranks[rank].input[index],
    };
    let reduced = |index: usize| {
        let values = (0..ranks.len()).map(|rank| value(rank, index));
        match op {
            ReduceOp::Sum => values.fold(0, i32::wrapping_add),
            ReduceOp::Mean => {
                let sum: i128 = values.map(i128::from).sum();
                (sum / ranks.len() as i128) as i32
            }
            ReduceOp::Product => values.fold(1, i32::wrapping_mul),
            ReduceOp::Min => values.min().unwrap(),
            ReduceOp::Max => values.max().unwrap(),
        }
    };
    let all = |rank: usize| (0..count).map(move |index| value(rank, index));
    let output = |rank: usize| -> Vec<i32> {
        let own = || ranks[rank].output.clone();
        match kind {
            Kind::Broadcast => all(root).collect(),
            Kind::Reduce | Kind::Gather if rank != root => own(),
            Kind::Reduce | Kind::AllReduce => (0..count).map(reduced).collect(),
            Kind::Gather | Kind::AllGather => (0..ranks.len()).flat_map(all).collect(),
            Kind::Scatter => (0..count)
                .map(|index| value(root, rank * count + index))
                .collect(),
            Kind::ReduceScatter => (0..count)
                .map(|index| reduced(rank * count + index))
                .collect(),
            Kind::AllToAll => (0..ranks.len())
                .flat_map(|peer| (0..count).map(move |index| value(peer, rank * count + index)))
                .collect(),
            Kind::Barrier | Kind::AllGatherBytes | Kind::BroadcastBytes => own(),
        }
    };
    (0..ranks.len()).map(output).collect()
}

const KINDS: [Kind; 9] = [
    Kind::Barrier,
    Kind::Broadcast,
    Kind::Reduce,
    Kind::AllReduce,
    Kind::Gather,
    Kind::AllGather,
    Kind::Scatter,
    Kind::ReduceScatter,
    Kind::AllToAll,
];

const OPS: [ReduceOp; 5] = [
    ReduceOp::Sum,
    ReduceOp::Mean,
    ReduceOp::Product,
    ReduceOp::Min,
    ReduceOp::Max,
];

/// An operation on `count` elements: of one rank's input, or of the part for one rank.
fn operation_of<T: Element>(kind: Kind, root: usize, op: ReduceOp, count: usize) -> Operation {
    let element = size_of::<T>();
    Operation {
        op,
        bytes: count * element,
        element,
        partial: match op {
            ReduceOp::Mean => size_of::<T::Wide>(),
            _ => element,
        },
        ..Operation::moving(kind, root)
    }
}

/// Runs the plans of all ranks.
fn run_plans(simulation: &mut Simulation) {
    let layouts = simulation.layouts.clone();
    let plans = (0..simulation.ranks.len()).map(|rank| {
        let layout = &layouts[layouts[0].home(rank)];
        plan(&simulation.operation, layout, rank)
    });
    let mut plans: Vec<_> = plans.collect();
    let lends: Vec<_> = plans.iter().map(|plan| plan.lend).collect();
    let share: Vec<_> = plans.iter().map(|plan| plan.share.clone()).collect();
    simulation.run_stage(&share, &lends);
    let leaders = layouts.iter().map(|layout| layout.local()[0]);
    let exchanges = leaders
        .map(|leader| plans[leader].exchange.take())
        .collect();
    simulation.run_exchanges(exchanges);
    let finish: Vec<_> = plans.iter().map(|plan| plan.finish.clone()).collect();
    simulation.run_stage(&finish, &lends);
}

/// The processes of ranks: any number of ranks in each of a few or of many processes, in any order, or as many in
/// each.
fn draw_hosts(below: &mut impl FnMut(usize) -> usize) -> Vec<usize> {
    let most = [5, 12][below(2)];
    let processes = 1 + below(most);
    match below(4) {
        0 => (0..[2, 4, 8, 16][below(4)]).collect(),
        1 => {
            let each = 1 + below(4);
            (0..processes * each).map(|rank| rank / each).collect()
        }
        _ => {
            let mut hosts: Vec<usize> = (0..processes).collect();
            for _ in 0..below(6) {
                let place = below(hosts.len() + 1);
                hosts.insert(place, below(processes));
            }
            hosts
        }
    }
}

fn run(seed: u64) {
    let mut random = SplitMix64::seed_from_u64(seed);
    let mut below = |count: usize| (random.next_u64() % count as u64) as usize;
    let hosts = draw_hosts(&mut below);
    let size = hosts.len();
    let (kind, op, root) = (KINDS[below(9)], OPS[below(5)], below(size));
    // The lengths of one round, of doubling, and of streams of few and of many chunks.
    let count = [0, 1, 5, 100, 300, 700, 1_200, 3_000, 9_000][below(9)];
    let whole = match kind {
        Kind::Scatter | Kind::ReduceScatter | Kind::AllToAll => count * size,
        Kind::Barrier => 0,
        _ => count,
    };
    let in_place = matches!(kind, Kind::Broadcast | Kind::Reduce | Kind::AllReduce);
    let gathered = match kind {
        Kind::Scatter | Kind::ReduceScatter => count,
        Kind::Barrier => 0,
        _ => count * size,
    };
    let mut values = |length: usize| (0..length).map(|_| below(1 << 20) as i32).collect();
    let ranks: Vec<Rank> = (0..size)
        .map(|_| Rank {
            input: if in_place { Vec::new() } else { values(whole) },
            output: if in_place {
                values(count)
            } else {
                vec![-1; gathered]
            },
        })
        .collect();
    let operation = operation_of::<i32>(kind, root, op, count);
    let due = expected(kind, op, root, &ranks, count);
    let nodes = hosts.iter().max().map_or(0, |last| last + 1);
    let layouts: Vec<_> = (0..nodes)
        .filter_map(|node| Layout::new(0, &hosts, node))
        .collect();
    let mut simulation = Simulation {
        operation,
        processes: layouts.iter().map(|_| Process::default()).collect(),
        layouts,
        ranks,
        pool: ScratchPool::default(),
    };
    run_plans(&mut simulation);
    for (rank, due) in due.iter().enumerate() {
        let output = &simulation.ranks[rank].output;
        assert!(
            output == due,
            "seed {seed}: {kind:?} {op:?} of {count} from {root}, {hosts:?}: wrong on rank {rank}"
        );
    }
}

#[test]
fn plans_of_random_layouts_give_the_results_of_the_definition() {
    (0..SEEDS).for_each(run);
}
