//! One round: every process sends one parcel, if only an empty one, to every other, and receives one of each.

use super::{
    Exchange, Kind, Layout, Lend, Memory, Operation, Partials, Plan, Range, Span, Step, others,
    part,
};

/// The nodes that get a parcel in a round.
#[derive(Clone, Copy)]
enum Destinations {
    /// Every node gets the same parcel, number 0.
    All,
    /// Every node gets one of its own, of its own number.
    Each,
    /// This node gets one; those of the others are empty.
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

/// A round as one rank sees it.
struct Round<'p> {
    layout: &'p Layout,
    rank: usize,
    to: Destinations,
}

impl<'p> Round<'p> {
    /// The parcels that are this rank's to fill: the ranks of a process share them out.
    fn own_parcels(&self) -> impl Iterator<Item = usize> + use<> {
        let parcels = self.to.parcels(self.layout.places().len());
        let (seat, seats) = (self.layout.seat(self.rank), self.layout.local().len());
        parcels.skip(seat).step_by(seats)
    }

    /// The memory of what a node has sent to this one; for this node itself, of its own parcel.
    fn came(&self, node: usize) -> Memory {
        if node == self.layout.here() {
            Memory::Parcel(self.to.parcel(node))
        } else {
            Memory::Received(node)
        }
    }

    /// The messages of the round. `length` gives the bytes that come from a node.
    fn exchange(&self, length: impl Fn(usize) -> Option<usize>) -> Exchange<'p> {
        let (layout, to) = (self.layout, self.to);
        let received: Vec<_> = (0..layout.places().len()).map(length).collect();
        let sends = others(layout).map(move |node| Step::Send {
            to: node,
            part: 0,
            from: Span::whole(Memory::Parcel(to.parcel(node))),
        });
        let receives = others(layout).map(|from| Step::Recv {
            from,
            part: 0,
            into: Span::whole(Memory::Received(from)),
        });
        Exchange::new(sends.chain(receives), received)
    }

    fn plan(
        &self,
        lend: Lend,
        fill: impl Fn(usize) -> Vec<Step>,
        length: impl Fn(usize) -> Option<usize>,
        finish: Vec<Step>,
    ) -> Plan<'p> {
        let exchange = (!self.layout.is_local()).then(|| self.exchange(length));
        Plan {
            lend,
            share: self.own_parcels().flat_map(fill).collect(),
            exchange,
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

/// Copies bytes of what came to this rank's output.
fn take(from: Memory, bytes: Range<usize>, into: Range<usize>) -> Step {
    Step::Copy {
        from: Span::new(from, bytes),
        into: Span::new(Memory::Output, into),
    }
}

/// The plan of a rank.
pub(super) fn plan<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    match operation.kind {
        Kind::Barrier => {
            let to = Destinations::All;
            let round = Round { layout, rank, to };
            round.plan(Lend::Nothing, |_| Vec::new(), |_| Some(0), Vec::new())
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

fn plan_broadcast<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation { root, bytes, .. } = *operation;
    let (home, to) = (layout.home(root), Destinations::All);
    let round = Round { layout, rank, to };
    let lend = if rank == root {
        Lend::Input
    } else {
        Lend::Nothing
    };
    let fill = |parcel| {
        let own = layout.is_here(root);
        own.then(|| append(root, 0..bytes, parcel))
            .into_iter()
            .collect()
    };
    let finish = (rank != root).then(|| take(round.came(home), 0..bytes, 0..bytes));
    let length = |node| Some(if node == home { bytes } else { 0 });
    round.plan(lend, fill, length, finish.into_iter().collect())
}

fn plan_gather<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation {
        kind, root, bytes, ..
    } = *operation;
    let (to, has_output) = match kind {
        Kind::Gather => (Destinations::One(layout.home(root)), rank == root),
        _ => (Destinations::All, true),
    };
    let come_here = match to {
        Destinations::One(home) => home == layout.here(),
        _ => true,
    };
    let round = Round { layout, rank, to };
    let fill = |parcel| {
        let local = layout.local().iter();
        local.map(|&rank| append(rank, 0..bytes, parcel)).collect()
    };
    let length = |node: usize| {
        let ranks = layout.places()[node].ranks.len();
        Some(if come_here { ranks * bytes } else { 0 })
    };
    let mut finish = Vec::new();
    for (node, place) in layout.places().iter().enumerate().filter(|_| has_output) {
        for (seat, &peer) in place.ranks.iter().enumerate() {
            finish.push(take(round.came(node), part(seat, bytes), part(peer, bytes)));
        }
    }
    round.plan(Lend::Input, fill, length, finish)
}

fn plan_scatter<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation { root, bytes, .. } = *operation;
    let (home, to) = (layout.home(root), Destinations::Each);
    let round = Round { layout, rank, to };
    let lend = if rank == root {
        Lend::Input
    } else {
        Lend::Nothing
    };
    let fill = |parcel: usize| {
        let ranks = layout.places()[parcel].ranks.iter();
        let ranks = ranks.filter(|_| layout.is_here(root));
        ranks
            .map(|&rank| append(root, part(rank, bytes), parcel))
            .collect()
    };
    let due = layout.local().len() * bytes;
    let length = |node| Some(if node == home { due } else { 0 });
    let finish = take(round.came(home), part(layout.seat(rank), bytes), 0..bytes);
    round.plan(lend, fill, length, vec![finish])
}

fn plan_all_to_all<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let bytes = operation.bytes;
    let to = Destinations::Each;
    let (seat, seats) = (layout.seat(rank), layout.local().len());
    let round = Round { layout, rank, to };
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
    let length = |node: usize| Some(seats * layout.places()[node].ranks.len() * bytes);
    let mut finish = Vec::new();
    for (node, place) in layout.places().iter().enumerate() {
        for (peer_seat, &peer) in place.ranks.iter().enumerate() {
            let sent = part(peer_seat * seats + seat, bytes);
            finish.push(take(round.came(node), sent, part(peer, bytes)));
        }
    }
    round.plan(Lend::Input, fill, length, finish)
}

fn plan_reduce<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let Operation {
        kind, root, bytes, ..
    } = *operation;
    let partials = Partials::new(operation, layout);
    let (to, has_output) = match kind {
        Kind::Reduce => (Destinations::One(layout.home(root)), rank == root),
        _ => (Destinations::All, true),
    };
    let owned = match to {
        Destinations::One(home) if home != layout.here() => 0,
        _ => bytes,
    };
    let round = Round { layout, rank, to };
    let whole = 0..bytes;
    let fill = |parcel| partials.pack(layout.here(), std::slice::from_ref(&whole), parcel);
    let length = |node| Some(partials.length(node, owned));
    let finish = has_output.then(|| Step::Combine {
        sources: partials.sources(&whole, bytes, |node| (round.came(node), 0)),
        into: Span::new(Memory::Output, 0..bytes),
        last: true,
    });
    round.plan(Lend::Input, fill, length, finish.into_iter().collect())
}

fn plan_reduce_scatter<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let bytes = operation.bytes;
    let partials = Partials::new(operation, layout);
    let to = Destinations::Each;
    let round = Round { layout, rank, to };
    let fill = |parcel: usize| {
        let ranks = layout.places()[parcel].ranks.iter();
        let parts: Vec<_> = ranks.map(|&rank| part(rank, bytes)).collect();
        partials.pack(layout.here(), &parts, parcel)
    };
    let owned = bytes * layout.local().len();
    let length = |node| Some(partials.length(node, owned));
    let mine = part(layout.seat(rank), bytes);
    let finish = Step::Combine {
        sources: partials.sources(&mine, owned, |node| (round.came(node), 0)),
        into: Span::new(Memory::Output, 0..bytes),
        last: true,
    };
    round.plan(Lend::Input, fill, length, vec![finish])
}

/// The plan for bytes of any lengths. There is no output: the caller reads what has come.
pub(super) fn plan_bytes<'p>(operation: &Operation, layout: &'p Layout, rank: usize) -> Plan<'p> {
    let to = Destinations::All;
    let round = Round { layout, rank, to };
    let senders = |rank: &usize| operation.kind == Kind::AllGatherBytes || *rank == operation.root;
    let fill = |parcel| {
        let local = layout.local().iter().copied().filter(senders);
        local
            .map(|rank| append(rank, 0..usize::MAX, parcel))
            .collect()
    };
    let lend = if senders(&rank) {
        Lend::Input
    } else {
        Lend::Nothing
    };
    round.plan(lend, fill, |_| None, Vec::new())
}
