//! Large parcels from their sender to their receiver, a few nodes at a time.
//!
//! First all nodes learn that all have come, by rounds of dissemination that carry the call. So nothing comes to a
//! node that it is not ready for. Then each sends to the nodes after it and receives from those before it, a window
//! of ⌈log2 P⌉ nodes at a time, so that a process never sends to more. One that sends nothing receives from all at
//! once: its senders do not wait for one another.

use super::{Deliveries, Delivery};
use crate::collective::plan::{AFTER_CALL, Exchange, Memory, Span, Step, rounds};

/// The exchange.
pub(super) fn deliver<'p>(parcels: &Deliveries<'p>) -> Delivery<'p> {
    let (layout, to) = (parcels.layout, parcels.to);
    let (here, nodes) = (layout.here(), layout.places().len());
    let mut steps = Vec::new();
    for round in rounds::dissemination(layout) {
        let empty = |memory| Span::new(memory, 0..0);
        steps.push(Step::Send {
            to: round.to,
            part: 0,
            from: empty(Memory::Work),
        });
        steps.push(Step::Recv {
            from: round.from,
            part: 0,
            into: empty(Memory::Work),
        });
        steps.push(Step::Wait);
    }
    let window = rounds::count(nodes) as usize;
    let mut received = vec![Some(0); nodes];
    for first in (1..nodes).step_by(window) {
        let mut sends = false;
        for distance in first..(first + window).min(nodes) {
            let (next, last) = (
                (here + distance) % nodes,
                rounds::before(here, distance, nodes),
            );
            let part = AFTER_CALL;
            if parcels.size(here, next) > 0 {
                sends = true;
                let from = Span::whole(Memory::Parcel(to.parcel(next)));
                steps.push(Step::Send {
                    to: next,
                    part,
                    from,
                });
            }
            let length = parcels.size(last, here);
            if length > 0 {
                received[last] = Some(length);
                let into = Span::new(Memory::Received(last), 0..length);
                steps.push(Step::Recv {
                    from: last,
                    part,
                    into,
                });
            }
        }
        if sends {
            steps.push(Step::Wait);
        }
    }
    let mut exchange = Exchange::new(steps.into_iter(), received);
    exchange.patience = rounds::NEWS;
    Delivery {
        exchange,
        came: (0..nodes).map(|node| (Memory::Received(node), 0)).collect(),
    }
}
