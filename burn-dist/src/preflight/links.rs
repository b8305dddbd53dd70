//! Latency and bandwidth between processes, by messages from one to the other and back.
//!
//! Of each process its first rank takes part; the others wait at the barrier before the next round.
//! Of a pair, the lower process leads: it decides how many messages go and how large they are, tells the
//! other, and holds the watch, so that no clocks are compared.

use super::report::Link;
use super::schedule;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use std::time::{Duration, Instant};

/// No other message of the group has this tag; it is made of the letters of "flight".
const TAG: u64 = 0x666c_6967_6874;
/// Approximate time for the small messages of a pair together.
const PINGING: Duration = Duration::from_millis(20);
/// Least and greatest number of small messages.
const PINGS: [i64; 2] = [3, 50];
/// Approximate time for one large message.
const STREAMING: Duration = Duration::from_millis(20);
/// Least and greatest size of a large message, in bytes.
const LARGE: [i64; 2] = [256 << 10, 16 << 20];
/// Number of large messages each way. The fastest counts as the rate of the way.
const REPEATS: usize = 3;

/// Plan that the leader of a pair sends to the other process.
#[derive(Clone, Copy, Debug)]
struct LinkPlan {
    pings: i64,
    bytes: i64,
}

/// Measures the ways between the processes, of which each has one rank in `ranks`. Every rank of the
/// group calls it, and gets the same.
///
/// # Errors
/// The group's own.
pub(super) fn measure(group: &ProcessGroup, ranks: &[usize]) -> Result<Vec<Link>> {
    let mut mine = Vec::new();
    let here = ranks.iter().position(|&rank| rank == group.rank());
    for round in schedule::rounds(ranks.len()) {
        group.barrier()?;
        for (low, high) in round {
            if here == Some(low) {
                let (latency_s, there, back) = lead(group, ranks[high])?;
                mine.push(Link {
                    processes: [low, high],
                    latency_s,
                    bytes_per_s: [there, back],
                });
            } else if here == Some(high) {
                follow(group, ranks[low])?;
            }
        }
    }
    let all: Vec<Vec<Link>> = group.objects().all_gather(&mine)?;
    let mut all: Vec<Link> = all.into_iter().flatten().collect();
    all.sort_by_key(|link| link.processes);
    Ok(all)
}

/// Gives the latency of one way in seconds, and the bytes a second there and back.
fn lead(group: &ProcessGroup, peer: usize) -> Result<(f64, f64, f64)> {
    let ping = || -> Result<Duration> {
        let start = Instant::now();
        group.send(&[0_u8], peer, TAG)?;
        group.recv(&mut [0_u8], peer, TAG)?;
        Ok(start.elapsed())
    };
    // The first brings up what is made on demand; and tells, roughly, what there is time for.
    ping()?;
    let first = ping()?;
    let mut plan = LinkPlan {
        pings: within(PINGS, PINGING.as_secs_f64() / first.as_secs_f64()),
        bytes: LARGE[0],
    };
    tell(group, peer, plan)?;
    let mut round_trips = (0..plan.pings)
        .map(|_| ping())
        .collect::<Result<Vec<_>>>()?;
    round_trips.sort_unstable();
    // At least three were made.
    let round_trip = round_trips[round_trips.len() / 2];

    // The size that takes long enough to tell, by what a small one took.
    let mut buffer = vec![0_u8; plan.bytes as usize];
    let probe = there(group, peer, &buffer)?;
    plan.bytes = within(
        LARGE,
        LARGE[0] as f64 * STREAMING.as_secs_f64() / probe.as_secs_f64(),
    );
    tell(group, peer, plan)?;
    buffer.resize(plan.bytes as usize, 0);
    let (mut best_there, mut best_back) = (Duration::MAX, Duration::MAX);
    for _ in 0..REPEATS {
        best_there = best_there.min(there(group, peer, &buffer)?);
        let start = Instant::now();
        group.send(&[0_u8], peer, TAG)?;
        group.recv(&mut buffer, peer, TAG)?;
        best_back = best_back.min(start.elapsed());
    }
    let rate = |time: Duration| {
        // A small message went along, one way; time is never less than a tenth of what was measured.
        let sent = time.saturating_sub(round_trip / 2).max(time / 10);
        plan.bytes as f64 / sent.as_secs_f64().max(1e-9)
    };
    let latency = round_trip.as_secs_f64() / 2.0;
    Ok((latency, rate(best_there), rate(best_back)))
}

/// Measures the time of a large message, with a small one back.
fn there(group: &ProcessGroup, peer: usize, buffer: &[u8]) -> Result<Duration> {
    let start = Instant::now();
    group.send(buffer, peer, TAG)?;
    group.recv(&mut [0_u8], peer, TAG)?;
    Ok(start.elapsed())
}

fn follow(group: &ProcessGroup, peer: usize) -> Result<()> {
    let pong = || -> Result<()> {
        group.recv(&mut [0_u8], peer, TAG)?;
        group.send(&[0_u8], peer, TAG)
    };
    pong()?;
    pong()?;
    for _ in 0..hear(group, peer)?.pings {
        pong()?;
    }
    let mut buffer = vec![0_u8; LARGE[0] as usize];
    group.recv(&mut buffer, peer, TAG)?;
    group.send(&[0_u8], peer, TAG)?;
    buffer.resize(hear(group, peer)?.bytes as usize, 0);
    for _ in 0..REPEATS {
        group.recv(&mut buffer, peer, TAG)?;
        group.send(&[0_u8], peer, TAG)?;
        group.recv(&mut [0_u8], peer, TAG)?;
        group.send(&buffer, peer, TAG)?;
    }
    Ok(())
}

fn tell(group: &ProcessGroup, peer: usize, plan: LinkPlan) -> Result<()> {
    group.send(&[plan.pings, plan.bytes], peer, TAG)
}

/// Receives the leader's plan, within its bounds.
fn hear(group: &ProcessGroup, peer: usize) -> Result<LinkPlan> {
    let mut told = [0; 2];
    group.recv(&mut told, peer, TAG)?;
    let [pings, bytes] = told;
    let in_bounds = |[least, most]: [i64; 2], number| (least..=most).contains(&number);
    if !in_bounds(PINGS, pings) || !in_bounds(LARGE, bytes) {
        return Err(Error::Control {
            rank: group.global_rank(),
            peer: group.ranks()[peer],
            message: format!("{pings} messages and one of {bytes} bytes are no plan to measure by"),
        });
    }
    Ok(LinkPlan { pings, bytes })
}

/// A number within bounds; the least for one that is none.
fn within([least, most]: [i64; 2], number: f64) -> i64 {
    (number as i64).clamp(least, most)
}
