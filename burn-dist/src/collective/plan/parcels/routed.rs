//! Small parcels by way of other nodes, in ⌈log2 P⌉ rounds of dissemination.
//!
//! A parcel whose receiver is `d` nodes after its sender goes `2^s` nodes further in each round `s` for which `d`
//! has bit `s`. One for all nodes goes on from every node that has it to one that has not. In each round a node
//! sends one message, of all parcels that go on from it, or of none: so all nodes have come before one ends.
//!
//! Source: the index algorithm of Bruck et al. (1997); for a parcel to or from one node it is a binomial tree.

use std::collections::HashMap;

use super::{Deliveries, Delivery, Destinations};
use crate::collective::plan::rounds::{self, Round, before};
use crate::collective::plan::{Exchange, Memory, Span, Step};

/// A parcel: its sender and its receiver, which is its sender too if it is for all.
type Key = (usize, usize);

/// The exchange.
pub(super) fn deliver<'p>(parcels: &Deliveries<'p>) -> Delivery<'p> {
    let (layout, to) = (parcels.layout, parcels.to);
    let (here, nodes) = (layout.here(), layout.places().len());
    let mut way = Way {
        parcels,
        steps: Vec::new(),
        found: HashMap::new(),
        work: 0,
    };
    for round in rounds::dissemination(layout) {
        way.pass(round);
    }
    let came = (0..nodes).map(|node| {
        let key = parcels.key(node, here);
        let found = way.found.get(&key);
        found.map_or((Memory::Parcel(to.parcel(here)), 0), |span| {
            (span.memory, span.bytes.start)
        })
    });
    let came = came.collect();
    let mut exchange = Exchange::new(way.steps.into_iter(), vec![Some(0); nodes]);
    exchange.work = way.work;
    exchange.patience = rounds::NEWS;
    Delivery { exchange, came }
}

/// What this node does, and where it has the parcels of others.
struct Way<'w, 'p> {
    parcels: &'w Deliveries<'p>,
    steps: Vec<Step>,
    found: HashMap<Key, Span>,
    work: usize,
}

impl Way<'_, '_> {
    /// A round: one message to a node, and one from another.
    fn pass(&mut self, round: Round) {
        let here = self.parcels.layout.here();
        let sent = self.parcels.leaving(here, round.distance);
        let from = self.pack(&sent);
        let (to, part) = (round.to, 0);
        self.steps.push(Step::Send { to, part, from });
        let start = self.work;
        for key in self.parcels.leaving(round.from, round.distance) {
            let bytes = self.take(self.parcels.size(key.0, key.1));
            self.found.insert(key, bytes);
        }
        let into = Span::new(Memory::Work, start..self.work);
        let from = round.from;
        self.steps.push(Step::Recv { from, part, into });
        self.steps.push(Step::Wait);
    }

    /// Work memory of so many bytes.
    fn take(&mut self, bytes: usize) -> Span {
        let start = self.work;
        self.work += bytes;
        Span::new(Memory::Work, start..self.work)
    }

    /// The bytes of parcels, one after the other: copied together unless there is one.
    fn pack(&mut self, sent: &[Key]) -> Span {
        if let [key] = sent {
            return self.find(*key);
        }
        let start = self.work;
        for key in sent {
            let from = self.find(*key);
            let into = self.take(from.bytes.len());
            self.steps.push(Step::Copy { from, into });
        }
        Span::new(Memory::Work, start..self.work)
    }

    /// The place of a parcel that is here.
    fn find(&self, key: Key) -> Span {
        if let Some(span) = self.found.get(&key) {
            return span.clone();
        }
        let parcel = Memory::Parcel(self.parcels.to.parcel(key.1));
        Span::new(parcel, 0..self.parcels.size(key.0, key.1))
    }
}

impl Deliveries<'_> {
    /// The key of the parcel that goes from one node to another.
    fn key(&self, from: usize, to: usize) -> Key {
        match self.to {
            Destinations::All => (from, from),
            Destinations::Each | Destinations::One(_) => (from, to),
        }
    }

    /// The parcels that go on from a node in the round of this distance, in the order in which they are sent.
    fn leaving(&self, node: usize, distance: usize) -> Vec<Key> {
        let nodes = self.layout.places().len();
        let keys: Vec<_> = match self.to {
            Destinations::All => (0..rounds::news(distance, nodes))
                .map(|back| before(node, back, nodes))
                .map(|sender| (sender, sender))
                .collect(),
            Destinations::Each | Destinations::One(_) => (distance..nodes)
                .filter(|way| way & distance != 0)
                .map(|way| {
                    let sender = before(node, way % distance, nodes);
                    (sender, (sender + way) % nodes)
                })
                .collect(),
        };
        let is_sent = |key: &Key| match self.to {
            Destinations::One(receiver) => key.1 == receiver,
            _ => true,
        };
        let keys = keys.into_iter().filter(is_sent);
        keys.filter(|key| self.size(key.0, key.1) > 0).collect()
    }
}
