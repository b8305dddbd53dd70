use super::*;
use crate::bench::line::Layout;
use crate::bench::rows::Peer;
use std::collections::BTreeMap;

fn row(bench: &str, ranks: u64, bytes: u64, peer: Option<&str>) -> Row {
    Row {
        bench: bench.into(),
        layout: Layout::Threads,
        ranks,
        bytes,
        ours: 1e-5 + bytes as f64 / 8e9,
        peer: peer.map(|name| Peer {
            name: name.into(),
            variant: None,
            seconds: 2e-5 + bytes as f64 / 5e9,
        }),
        counts: BTreeMap::new(),
    }
}

fn count(svg: &str, part: &str) -> usize {
    svg.matches(part).count()
}

#[test]
fn several_sizes_are_lines() {
    let mut rows = Vec::new();
    for ranks in [2, 4] {
        for bytes in [1 << 10, 1 << 20, 16 << 20] {
            rows.push(row("all-reduce", ranks, bytes, Some("one")));
            rows.push(row("all-reduce", ranks, bytes, Some("other")));
        }
    }
    let svg = svg(&rows).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in [
        "2 threads",
        "4 threads",
        "10 GB/s",
        "1 KiB",
        "burn-dist",
        "one",
        "other",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    // A point for each contestant and size, on each of the two panels.
    assert_eq!(count(&svg, "<circle"), 2 * 3 * 3);
}

#[test]
fn one_size_is_bars_with_figures() {
    let rows = [
        row("startup", 2, 0, None),
        row("startup", 8, 0, Some("without")),
    ];
    let svg = svg(&rows).unwrap();
    assert!(
        svg.contains("8 threads") && svg.contains("20.0 µs"),
        "{svg}"
    );
    assert_eq!(count(&svg, "<circle"), 0);
}

#[test]
fn growth_is_drawn_over_processes() {
    let mut rows = Vec::new();
    for ranks in [2, 8, 64] {
        for bytes in [1 << 10, 1 << 20] {
            rows.push(row("growth-all-reduce", ranks, bytes, Some("one")));
        }
    }
    rows.extend([2, 64].map(|ranks| row("growth-barrier", ranks, 0, None)));
    let svg = svg(&rows).unwrap();
    for text in ["processes", "1 KiB", "1 MiB", "10.0 µs", "growth-barrier"] {
        assert!(svg.contains(text), "{text}");
    }
    // A point for each contestant and number of processes on each panel.
    assert_eq!(count(&svg, "<circle"), 2 * 2 * 3 + 2);
}

#[test]
fn anything_is_drawn() {
    for rows in [
        vec![],
        vec![row("growth-barrier", 1, 0, None)],
        vec![row("all-reduce", 2, 4, None)],
        vec![row("loader", 1, 0, None), row("loader", 1, 0, Some("a"))],
        vec![
            row("all-reduce", 2, 4, None),
            row("all-reduce", 2, 1 << 30, Some("a")),
        ],
        (0..40)
            .map(|at| row("all-reduce", 2, 64, Some(&format!("a peer {at}"))))
            .collect(),
    ] {
        let svg = svg(&rows).unwrap();
        assert!(
            svg.starts_with("<svg") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
    }
}
