//! The rounds by which every node comes to know of every other.
//!
//! Dissemination: in round `s` node `a` sends to node `a + 2^s`, modulo their number. Before round `s` a node
//! knows of itself and the `2^s - 1` nodes before it, so after ⌈log2 P⌉ rounds of P nodes all know of all.
//!
//! Source: Hensgen, Finkel and Manber, "Two Algorithms for Barrier Synchronization" (1988); for data, Bruck, Ho,
//! Kipnis, Upfal and Weathersby, "Efficient Algorithms for All-to-All Communications in Multiport
//! Message-Passing Systems" (1997).

use super::{Duration, Layout};

/// The time by which each round waits longer than the one before: enough for the news of a timeout. So the error
/// of a rank that waits for one which has itself waited in vain names the rank that did not come. (Ranks that come
/// further apart than this, while another is missing, may name one that waits.)
pub(super) const NEWS: Duration = Duration::from_secs(1);

/// The rounds over so many nodes.
pub(super) fn count(nodes: usize) -> u32 {
    nodes.next_power_of_two().trailing_zeros()
}

/// One round of dissemination, as one node sees it.
#[derive(Clone, Copy)]
pub(super) struct Round {
    /// The distance from a node to the one that it sends to.
    pub(super) distance: usize,
    pub(super) to: usize,
    pub(super) from: usize,
}

/// The rounds of this process's node.
pub(super) fn dissemination(layout: &Layout) -> impl Iterator<Item = Round> + use<> {
    let (here, nodes) = (layout.here(), layout.places().len());
    (0..count(nodes)).map(move |round| {
        let distance = 1 << round;
        Round {
            distance,
            to: (here + distance) % nodes,
            from: (here + nodes - distance) % nodes,
        }
    })
}

/// The number of nodes of which a node tells another in a round over so many nodes: of itself and of those before
/// it, but not of those that the other knows.
pub(super) fn news(distance: usize, nodes: usize) -> usize {
    distance.min(nodes - distance)
}

/// The node so many before another.
pub(super) fn before(node: usize, distance: usize, nodes: usize) -> usize {
    (node + nodes - distance % nodes) % nodes
}
