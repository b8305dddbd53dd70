//! Operations whose nodes send one another parcels: which parcel is for whom, what the ranks of a process put into
//! it, and what each takes from what has come.
//!
//! How parcels travel depends on their size and on the number of nodes: `direct` in one round between few,
//! `routed` by way of others if they are small, in `windows` from sender to receiver if they are large.

use super::{
    Exchange, Kind, Layout, Lend, Memory, Operation, Partials, Plan, Range, Span, Step, part,
};

mod direct;
mod routed;
mod windows;

/// The nodes that get a parcel from those that have one.
#[derive(Clone, Copy)]
enum Destinations {
    /// Every node gets the same parcel, number 0.
    All,
    /// Every node gets one of its own, of its own number.
    Each,
    /// This node gets one.
    One(usize),
}

impl Destinations {
    /// The numbers of the parcels that are filled.
    fn parcels(self, nodes: usize) -> Range<usize> {
        match self {
            Self::All => 0..1,
            Self::Each => 0..nodes,
            Self::One(node) => node..node + 1,
        }
    }

    /// The number of the parcel for a node.
    fn parcel(self, node: usize) -> usize {
        match self {
            Self::All => 0,
            Self::Each | Self::One(_) => node,
        }
    }
}

/// The bytes of the parcel that a node has for another, by sender and receiver. Those of a parcel for all do not
/// depend on the receiver.
type Sizes<'p> = Box<dyn Fn(usize, usize) -> usize + 'p>;

/// The parcels of one operation, as one rank sees them.
struct Deliveries<'p> {
    layout: &'p Layout,
    rank: usize,
    to: Destinations,
    /// None if they are the sender's choice.
    sizes: Option<Sizes<'p>>,
}

/// The exchange of parcels, and where the parcel from each node lies after it.
struct Delivery<'p> {
    exchange: Exchange<'p>,
    came: Vec<(Memory, usize)>,
}

impl<'p> Deliveries<'p> {
    fn new(
        layout: &'p Layout,
        rank: usize,
        to: Destinations,
        sizes: impl Fn(usize, usize) -> usize + 'p,
    ) -> Self {
        Self {
            layout,
            rank,
            to,
            sizes: Some(Box::new(sizes)),
        }
    }

    /// The bytes from one node to another; none if they are the sender's choice.
    fn length(&self, from: usize, to: usize) -> Option<usize> {
        Some(self.sizes.as_ref()?(from, to))
    }

    fn size(&self, from: usize, to: usize) -> usize {
        self.length(from, to).unwrap_or(0)
    }

    /// The parcels that are this rank's to fill: the ranks of a process share them out.
    fn own_parcels(&self) -> impl Iterator<Item = usize> + use<> {
        let parcels = self.to.parcels(self.layout.places().len());
        let (seat, seats) = (self.layout.seat(self.rank), self.layout.local().len());
        parcels.skip(seat).step_by(seats)
    }

    /// The exchange of parcels for ranks with so many `bytes`. Those with none, and broadcasts, are for rounds.
    fn deliver(&self, bytes: usize) -> Delivery<'p> {
        let crossovers = self.layout.crossovers();
        let nodes = self.layout.places().len();
        let few = if bytes == 0 { 2 } else { crossovers.few };
        if self.sizes.is_none() || nodes <= few {
            direct::deliver(self)
        } else if bytes <= crossovers.parcel {
            routed::deliver(self)
        } else {
            windows::deliver(self)
        }
    }

    /// The plan. `bytes` are those of a rank, `fill` the steps that fill a parcel, and `finish` gives those that take
    /// what has come, of which it is told where the parcel of each node lies.
    fn plan(
        &self,
        lend: Lend,
        bytes: usize,
        fill: impl Fn(usize) -> Vec<Step>,
        finish: impl FnOnce(&dyn Fn(usize) -> (Memory, usize)) -> Vec<Step>,
    ) -> Plan<'p> {
        let here = self.layout.here();
        let share = self.own_parcels().flat_map(fill).collect();
        if self.layout.is_local() {
            return Plan {
                lend,
                share,
                exchange: None,
                finish: Vec::new(),
            };
        }
        let Delivery { exchange, came } = self.deliver(bytes);
        // The parcel of this node itself.
        let own = (Memory::Parcel(self.to.parcel(here)), 0);
        let finish = finish(&|node| if node == here { own } else { came[node] });
        Plan {
            lend,
            share,
            exchange: Some(exchange),
            finish,
        }
    }
}

/// Appends bytes of a rank's input to a parcel.
fn append(rank: usize, bytes: Range<usize>, parcel: usize) -> Step {
    Step::Copy {
        from: Span::new(Memory::Input(rank), bytes),
        into: Span::whole(Memory::Parcel(parcel)),
    }
}

/// Copies bytes of a parcel to this rank's output.
fn take((from, start): (Memory, usize), bytes: Range<usize>, into: Range<usize>) -> Step {
    Step::Copy {
        from: Span::new(from, start + bytes.start..start + bytes.end),
        into: Span::new(Memory::Output, into),
    }
}

/// The plan of a rank.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    match operation.kind {
        Kind::Barrier => {
            let parcels = Deliveries::new(layout, rank, Destinations::All, |_, _| 0);
            parcels.plan(Lend::Nothing, 0, |_| Vec::new(), |_| Vec::new())
        }
        Kind::Broadcast => plan_broadcast(operation, layout, rank),
        Kind::Gather | Kind::AllGather => plan_gather(operation, layout, rank),
        Kind::Scatter => plan_scatter(operation, layout, rank),
        Kind::AllToAll => plan_all_to_all(operation, layout, rank),
        Kind::Reduce | Kind::AllReduce => plan_reduce(operation, layout, rank),
        Kind::ReduceScatter => plan_reduce_scatter(operation, layout, rank),
        Kind::AllGatherBytes | Kind::BroadcastBytes => plan_bytes(operation, layout, rank),
    }
}

fn lend_if(lends: bool) -> Lend {
    if lends { Lend::Input } else { Lend::Nothing }
}

fn plan_broadcast<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation { root, bytes, .. } = *operation;
    let home = layout.home(root);
    let sizes = move |from, _| if from == home { bytes } else { 0 };
    let parcels = Deliveries::new(layout, rank, Destinations::All, sizes);
    let fill = |parcel| {
        let own = layout.is_here(root);
        own.then(|| append(root, 0..bytes, parcel))
            .into_iter()
            .collect()
    };
    parcels.plan(lend_if(rank == root), 0, fill, |came| {
        let take = (rank != root).then(|| take(came(home), 0..bytes, 0..bytes));
        take.into_iter().collect()
    })
}

fn plan_gather<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation {
        kind, root, bytes, ..
    } = *operation;
    let (to, has_output) = match kind {
        Kind::Gather => (Destinations::One(layout.home(root)), rank == root),
        _ => (Destinations::All, true),
    };
    let home = layout.home(root);
    let is_due = move |node| kind == Kind::AllGather || node == home;
    let sizes = move |from: usize, to: usize| {
        let ranks = layout.places()[from].ranks.len();
        if is_due(to) { ranks * bytes } else { 0 }
    };
    let parcels = Deliveries::new(layout, rank, to, sizes);
    let fill = |parcel| {
        let local = layout.local().iter();
        local.map(|&rank| append(rank, 0..bytes, parcel)).collect()
    };
    parcels.plan(Lend::Input, bytes, fill, |came| {
        let mut finish = Vec::new();
        for (node, place) in layout.places().iter().enumerate().filter(|_| has_output) {
            for (seat, &peer) in place.ranks.iter().enumerate() {
                finish.push(take(came(node), part(seat, bytes), part(peer, bytes)));
            }
        }
        finish
    })
}

fn plan_scatter<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation { root, bytes, .. } = *operation;
    let home = layout.home(root);
    let sizes = move |from, to: usize| {
        let ranks = layout.places()[to].ranks.len();
        if from == home { ranks * bytes } else { 0 }
    };
    let parcels = Deliveries::new(layout, rank, Destinations::Each, sizes);
    let fill = |parcel: usize| {
        let ranks = layout.places()[parcel].ranks.iter();
        let ranks = ranks.filter(|_| layout.is_here(root));
        ranks
            .map(|&rank| append(root, part(rank, bytes), parcel))
            .collect()
    };
    parcels.plan(lend_if(rank == root), bytes, fill, |came| {
        vec![take(came(home), part(layout.seat(rank), bytes), 0..bytes)]
    })
}

fn plan_all_to_all<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let bytes = operation.bytes;
    let (seat, seats) = (layout.seat(rank), layout.local().len());
    let ranks = |node: usize| layout.places()[node].ranks.len();
    let sizes = move |from, to| ranks(from) * ranks(to) * bytes;
    let parcels = Deliveries::new(layout, rank, Destinations::Each, sizes);
    let fill = |parcel: usize| {
        let there = &layout.places()[parcel].ranks;
        let local = layout.local().iter();
        let copies = local.flat_map(|&from| {
            there
                .iter()
                .map(move |&to| append(from, part(to, bytes), parcel))
        });
        copies.collect()
    };
    parcels.plan(Lend::Input, bytes, fill, |came| {
        let mut finish = Vec::new();
        for (node, place) in layout.places().iter().enumerate() {
            for (peer_seat, &peer) in place.ranks.iter().enumerate() {
                let sent = part(peer_seat * seats + seat, bytes);
                finish.push(take(came(node), sent, part(peer, bytes)));
            }
        }
        finish
    })
}

fn plan_reduce<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation {
        kind, root, bytes, ..
    } = *operation;
    let home = layout.home(root);
    let (to, has_output) = match kind {
        Kind::Reduce => (Destinations::One(home), rank == root),
        _ => (Destinations::All, true),
    };
    let partials = Partials::new(operation, layout);
    let whole = 0..bytes;
    let fill = |parcel| partials.pack(layout.here(), std::slice::from_ref(&whole), parcel);
    let is_due = move |node| kind == Kind::AllReduce || node == home;
    let lengths: Vec<_> = (0..layout.places().len())
        .map(|node| partials.length(node, bytes))
        .collect();
    let sizes = move |from: usize, to: usize| if is_due(to) { lengths[from] } else { 0 };
    let parcels = Deliveries::new(layout, rank, to, sizes);
    parcels.plan(Lend::Input, bytes, fill, |came| {
        let combine = has_output.then(|| Step::Combine {
            sources: partials.sources(&whole, bytes, came),
            into: Span::new(Memory::Output, 0..bytes),
            last: true,
        });
        combine.into_iter().collect()
    })
}

fn plan_reduce_scatter<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let bytes = operation.bytes;
    let partials = Partials::new(operation, layout);
    let fill = |parcel: usize| {
        let ranks = layout.places()[parcel].ranks.iter();
        let parts: Vec<_> = ranks.map(|&rank| part(rank, bytes)).collect();
        partials.pack(layout.here(), &parts, parcel)
    };
    let lengths: Vec<_> = (0..layout.places().len())
        .map(|node| partials.length(node, bytes))
        .collect();
    let sizes = move |from: usize, to: usize| lengths[from] * layout.places()[to].ranks.len();
    let parcels = Deliveries::new(layout, rank, Destinations::Each, sizes);
    let owned = bytes * layout.local().len();
    let mine = part(layout.seat(rank), bytes);
    parcels.plan(Lend::Input, bytes, fill, |came| {
        vec![Step::Combine {
            sources: partials.sources(&mine, owned, came),
            into: Span::new(Memory::Output, 0..bytes),
            last: true,
        }]
    })
}

/// The plan for bytes of any lengths between few nodes, or within one. There is no output: the caller reads what
/// has come.
pub(super) fn plan_bytes<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let is_sender = |rank: usize| operation.kind == Kind::AllGatherBytes || rank == operation.root;
    let parcels = Deliveries {
        layout,
        rank,
        to: Destinations::All,
        sizes: None,
    };
    let fill = |parcel| {
        let local = layout.local().iter().copied();
        let local = local.filter(|&rank| is_sender(rank));
        local
            .map(|rank| append(rank, 0..usize::MAX, parcel))
            .collect()
    };
    parcels.plan(lend_if(is_sender(rank)), 0, fill, |_| Vec::new())
}
