//! Rows as a table of text, and sizes and times as people read them.

use super::rows::Row;
use std::collections::BTreeMap;

/// Ends of the names of benches whose time is that of moving bytes.
const BANDWIDTHS: [&str; 2] = ["all-reduce", "broadcast"];

/// The rows of one bench, with a head; nothing without rows.
pub(super) fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut lines = vec![
        [
            "bench", "layout", "ranks", "bytes", "ours", "GB/s", "peer", "peer's", "ratio",
            "counted",
        ]
        .map(str::to_owned),
    ];
    lines.extend(rows.iter().map(cells));
    let counted = rows.iter().any(|row| !row.counts.is_empty());
    let columns = lines[0].len() - usize::from(!counted);
    let widths: Vec<_> = (0..columns)
        .map(|at| lines.iter().map(|line| line[at].chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = "\n".to_owned();
    for line in lines {
        let cells = line.iter().zip(&widths).take(columns).enumerate();
        let padded: Vec<_> = cells
            .map(|(at, (cell, width))| match at {
                // Words begin, numbers end at the same place.
                0 | 1 | 6 | 9 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> [String; 10] {
    let (peer, peers) = match &row.peer {
        Some(peer) => (peer.title(), time(peer.seconds)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    [
        row.bench.clone(),
        row.layout.name().to_owned(),
        row.ranks.to_string(),
        match row.bytes {
            0 => "-".to_owned(),
            bytes => size(bytes),
        },
        time(row.ours),
        // Elsewhere, the bytes are not all that takes the time.
        if row.bytes > 0 && BANDWIDTHS.iter().any(|bench| row.bench.ends_with(bench)) {
            three(row.bytes as f64 / row.ours / 1e9)
        } else {
            "-".to_owned()
        },
        peer,
        peers,
        row.ratio()
            .map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
        counted(&row.counts),
    ]
}

/// `messages 6, bytes sent 1024`.
fn counted(counts: &BTreeMap<String, f64>) -> String {
    let each = counts.iter().map(|(name, count)| match count {
        whole if whole.fract() == 0.0 => format!("{name} {whole:.0}"),
        count => format!("{name} {count:.2}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// `4 KiB`; without a rest, or with three digits.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{} {name}", three(bytes as f64 / unit as f64)),
        None => format!("{bytes} B"),
    }
}

/// `22.1 µs`.
pub(super) fn time(seconds: f64) -> String {
    let units = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")];
    // What rounds up to a whole unit is one.
    let fits = |(unit, _): &(f64, &str)| seconds.abs() >= 0.9995 * unit;
    let (unit, name) = units.into_iter().find(fits).unwrap_or((1e-9, "ns"));
    let sign = if seconds < 0.0 { "-" } else { "" };
    format!("{sign}{} {name}", three(seconds.abs() / unit))
}

/// Three digits that count.
fn three(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::line::Layout;
    use crate::bench::rows::Peer;

    fn row(bytes: u64, peer: Option<Peer>) -> Row {
        Row {
            bench: "all-reduce".into(),
            layout: Layout::Threads,
            ranks: 2,
            bytes,
            ours: 1e-4,
            peer,
            counts: BTreeMap::new(),
        }
    }

    #[test]
    fn numbers_read_well() {
        let sizes = [0, 100, 1024, 65536, 1 << 20, 4_799_528, 3 << 30].map(size);
        assert_eq!(
            sizes,
            [
                "0 B", "100 B", "1 KiB", "64 KiB", "1 MiB", "4.58 MiB", "3 GiB"
            ]
        );
        let times = [3.21e-7, 9.9999e-4, 2.2e-5, 0.0149, 0.25, 1.5, 125.0, -0.002].map(time);
        let expected = [
            "321 ns", "1.00 ms", "22.0 µs", "14.9 ms", "250 ms", "1.50 s", "125 s", "-2.00 ms",
        ];
        assert_eq!(times, expected);
    }

    #[test]
    fn columns_line_up() {
        let peer = Peer {
            name: "burn-collective, its best".into(),
            variant: Some("ring".into()),
            seconds: 1.5e-4,
        };
        let startup = Row {
            bench: "startup".into(),
            ..row(0, None)
        };
        let text = table(&[row(1 << 20, Some(peer)), startup]);
        let expected = "
bench       layout   ranks  bytes    ours  GB/s  peer                              peer's  ratio
all-reduce  threads      2  1 MiB  100 µs  10.5  burn-collective, its best (ring)  150 µs   1.50
startup     threads      2      -  100 µs     -  -                                      -      -
";
        assert_eq!(text, expected);
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn counts_have_a_column_where_there_are_some() {
        let counts = [("messages", 6.0), ("bytes", 1.5)].map(|(name, count)| (name.into(), count));
        let counting = Row {
            bench: "growth-barrier".into(),
            counts: BTreeMap::from(counts),
            ..row(0, None)
        };
        let text = table(&[counting, row(4, None)]);
        let expected = "
bench           layout   ranks  bytes    ours  GB/s  peer  peer's  ratio  counted
growth-barrier  threads      2      -  100 µs     -  -          -      -  bytes 1.50, messages 6
all-reduce      threads      2    4 B  100 µs  0.00  -          -      -
";
        assert_eq!(text, expected);
    }
}
