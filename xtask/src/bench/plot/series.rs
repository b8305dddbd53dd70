//! Rows, sorted for drawing: who takes part, and what each measured where.

use crate::bench::line::Layout;
use crate::bench::rows::Row;
use plotters::style::RGBColor;

/// Okabe and Ito's colours, which also the colour-blind tell apart; ours first.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

/// Everybody, ours first.
#[derive(Debug)]
pub(super) struct Contestants(Vec<String>);

impl Contestants {
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut names = vec!["burn-dist".to_owned()];
        for peer in rows.iter().filter_map(|row| row.peer.as_ref()) {
            if !names.contains(&peer.name) {
                names.push(peer.name.clone());
            }
        }
        Self(names)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn name(&self, at: usize) -> &str {
        &self.0[at]
    }
}

pub(super) fn colour(contestant: usize) -> RGBColor {
    COLOURS[contestant % COLOURS.len()]
}

/// Measurements with one layout and number of ranks.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) layout: Layout,
    pub(super) ranks: u64,
    rows: Vec<&'a Row>,
}

impl Group<'_> {
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.ranks, self.layout.name())
    }

    /// Measurements of each contestant: bytes and seconds, in the order of sizes.
    pub(super) fn series<'a>(
        &'a self,
        contestants: &'a Contestants,
    ) -> impl Iterator<Item = (usize, Vec<(u64, f64)>)> + 'a {
        let measured = |at: usize| {
            let mut points: Vec<(u64, f64)> = Vec::new();
            for row in &self.rows {
                let seconds = match &row.peer {
                    _ if at == 0 => row.ours,
                    Some(peer) if peer.name == contestants.name(at) => peer.seconds,
                    _ => continue,
                };
                // Each row has ours.
                if points.last().is_none_or(|(bytes, _)| *bytes != row.bytes) {
                    points.push((row.bytes, seconds));
                }
            }
            (at, points)
        };
        let all = (0..contestants.len()).map(measured);
        all.filter(|(_, points)| !points.is_empty())
    }

    pub(super) fn has_several_sizes(&self) -> bool {
        let sized = |row: &&&Row| row.bytes > 0;
        let mut rows = self.rows.iter().filter(sized);
        let first = rows.next().map(|row| row.bytes);
        rows.any(|row| Some(row.bytes) != first)
    }
}

/// The benches in their order, and the groups of each.
pub(super) fn groups(rows: &[Row]) -> Vec<(&str, Vec<Group<'_>>)> {
    let mut benches: Vec<(&str, Vec<Group>)> = Vec::new();
    for row in rows {
        if benches.last().is_none_or(|(bench, _)| *bench != row.bench) {
            benches.push((&row.bench, Vec::new()));
        }
        // One was just pushed.
        let Some((_, groups)) = benches.last_mut() else {
            continue;
        };
        let same = |group: &&mut Group| (group.layout, group.ranks) == (row.layout, row.ranks);
        if let Some(group) = groups.iter_mut().find(same) {
            group.rows.push(row);
        } else {
            groups.push(Group {
                layout: row.layout,
                ranks: row.ranks,
                rows: vec![row],
            });
        }
    }
    benches
}
