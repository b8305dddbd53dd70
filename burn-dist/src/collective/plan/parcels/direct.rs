//! One round: every node sends one parcel, if only an empty one, to every other, and receives one of each.

use super::{Deliveries, Delivery};
use crate::collective::plan::{Exchange, Memory, Span, Step, others};

/// The exchange. A parcel whose length is not known is received as it comes.
pub(super) fn deliver<'p>(parcels: &Deliveries<'p>) -> Delivery<'p> {
    let (layout, to) = (parcels.layout, parcels.to);
    let nodes = layout.places().len();
    let received = (0..nodes).map(|node| parcels.length(node, layout.here()));
    let received = received.collect();
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
    Delivery {
        exchange: Exchange::new(sends.chain(receives), received),
        came: (0..nodes).map(|node| (Memory::Received(node), 0)).collect(),
    }
}
