//! From the measurements of all rounds to the rows that are shown: medians and ratios.

use super::line::{Layout, Line};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Ours against one peer, or ours alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) bench: String,
    pub(super) layout: Layout,
    pub(super) ranks: u64,
    pub(super) bytes: u64,
    /// Seconds.
    pub(super) ours: f64,
    pub(super) peer: Option<Peer>,
    /// What ours counted, by name: the most of all rounds.
    pub(super) counts: BTreeMap<String, f64>,
}

/// Time of a peer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Peer {
    pub(super) name: String,
    /// The fastest of its ways here.
    pub(super) variant: Option<String>,
    pub(super) seconds: f64,
}

impl Peer {
    pub(super) fn title(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{} ({variant})", self.name),
            None => self.name.clone(),
        }
    }
}

impl Row {
    /// The peer's time ÷ ours: above 1, ours is ahead. None where ours, a difference of two times, is
    /// nothing.
    pub(super) fn ratio(&self) -> Option<f64> {
        let ratio = self.peer.as_ref()?.seconds / self.ours;
        (self.ours > 0.0).then_some(ratio)
    }

    pub(super) fn json(&self) -> Value {
        let mut row = json!({
            "bench": self.bench,
            "layout": self.layout.name(),
            "ranks": self.ranks,
            "bytes": self.bytes,
            "ours_s": self.ours,
            "peer": self.peer.as_ref().map(Peer::title),
            "peer_s": self.peer.as_ref().map(|peer| peer.seconds),
            "ratio": self.ratio(),
        });
        if !self.counts.is_empty() {
            row["counts"] = json!(self.counts);
        }
        row
    }
}

/// Key of a measurement: the bench or its part, the layout, the ranks, the bytes.
type Place = (String, Layout, u64, u64);

fn place(line: &Line) -> Place {
    (line.bench.clone(), line.layout, line.ranks, line.bytes)
}

/// Seconds of every round, by place and variant, or what was compared.
type Times = BTreeMap<(Place, Option<String>), Vec<f64>>;

/// The measurements of all rounds of one bench. What was measured in every round is one row.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Ours, by what the program has compared it with itself.
    ours: Times,
    /// Name of the comparison of the program itself.
    compared: BTreeMap<(Place, String), Vec<f64>>,
    /// What ours counted.
    counts: BTreeMap<Place, BTreeMap<String, f64>>,
    /// By peer, in the order in which they came first, and variant.
    peers: Vec<(String, Times)>,
}

impl Samples {
    pub(super) fn add_ours(&mut self, line: Line) {
        let place = place(&line);
        if !line.counts.is_empty() {
            let counts = self.counts.entry(place.clone()).or_default();
            for (name, count) in line.counts {
                let most = counts.entry(name).or_insert(count);
                *most = most.max(count);
            }
        }
        let name = line.compared.map(|(name, seconds)| {
            let key = (place.clone(), name.clone());
            self.compared.entry(key).or_default().push(seconds);
            name
        });
        let ours = self.ours.entry((place, name)).or_default();
        ours.push(line.seconds);
    }

    /// A peer's own comparison is a peer more.
    pub(super) fn add_peer(&mut self, peer: &str, line: Line) {
        let place = place(&line);
        self.push(peer, (place.clone(), line.variant), line.seconds);
        if let Some((name, seconds)) = line.compared {
            self.push(&format!("{peer}, {name}"), (place, None), seconds);
        }
    }

    fn push(&mut self, peer: &str, key: (Place, Option<String>), seconds: f64) {
        let known = self.peers.iter().position(|(name, _)| name == peer);
        let at = known.unwrap_or_else(|| {
            self.peers.push((peer.to_owned(), BTreeMap::new()));
            self.peers.len() - 1
        });
        self.peers[at].1.entry(key).or_default().push(seconds);
    }

    /// Ours against each peer, in the order of layouts, ranks and sizes; alone where there is none. What
    /// a peer has measured and ours has not is left out.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut ours = self.ours.iter().peekable();
        while let Some(((place, compared), times)) = ours.next() {
            let first = rows.len();
            let row = |ours: &[f64], peer| Row {
                bench: place.0.clone(),
                layout: place.1,
                ranks: place.2,
                bytes: place.3,
                ours: median(ours),
                peer,
                counts: self.counts.get(place).cloned().unwrap_or_default(),
            };
            if let Some(name) = compared {
                let key = (place.clone(), name.clone());
                let seconds = self.compared.get(&key).map_or(f64::NAN, |all| median(all));
                let name = name.clone();
                rows.push(row(
                    times,
                    Some(Peer {
                        name,
                        variant: None,
                        seconds,
                    }),
                ));
            }
            // The peers of a place follow the last of its own comparisons.
            if ours.peek().is_some_and(|((next, _), _)| next == place) {
                continue;
            }
            for (name, measured) in &self.peers {
                if let Some(peer) = best(name, place, measured) {
                    rows.push(row(times, Some(peer)));
                }
            }
            if rows.len() == first {
                rows.push(row(times, None));
            }
            // It says the same beside each peer.
            for row in rows.iter_mut().skip(first + 1) {
                row.counts.clear();
            }
        }
        rows
    }
}

/// The fastest of a peer's ways at a place.
fn best(name: &str, place: &Place, measured: &Times) -> Option<Peer> {
    let here = measured.iter().filter(|((at, _), _)| at == place);
    let ways = here.map(|((_, variant), times)| Peer {
        name: name.to_owned(),
        variant: variant.clone(),
        seconds: median(times),
    });
    ways.min_by(|one, other| one.seconds.total_cmp(&other.seconds))
}

/// The middle one; of an even number, the mean of the middle two.
pub(super) fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    match times.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(times[middle - 1], times[middle]),
        _ => times[middle],
    }
}

#[cfg(test)]
mod tests;
