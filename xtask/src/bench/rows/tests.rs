use super::*;

fn line(layout: Layout, bytes: u64, seconds: f64) -> Line {
    Line {
        bench: "all-reduce".into(),
        layout,
        ranks: 2,
        bytes,
        seconds,
        variant: None,
        compared: None,
        counts: Vec::new(),
    }
}

fn compared(name: &str, seconds: f64, other: f64) -> Line {
    Line {
        compared: Some((name.into(), other)),
        ..line(Layout::Threads, 8, seconds)
    }
}

#[test]
fn medians() {
    for (times, expected) in [
        (&[3.0, 1.0, 2.0][..], 2.0),
        (&[4.0, 1.0, 2.0, 3.0], 2.5),
        (&[7.0], 7.0),
    ] {
        assert!((median(times) - expected).abs() < f64::EPSILON);
    }
    assert!(median(&[]).is_nan());
}

#[test]
fn rounds_become_medians_and_ratios() {
    let mut samples = Samples::default();
    for (ours, peer) in [(2.0, 6.0), (1.0, 5.0), (9.0, 4.0)] {
        samples.add_ours(line(Layout::Processes, 1024, ours));
        samples.add_peer("TCP", line(Layout::Processes, 1024, peer));
    }
    let rows = samples.rows();
    assert_eq!(rows.len(), 1);
    let expected = json!({
        "bench": "all-reduce", "layout": "processes", "ranks": 2, "bytes": 1024,
        "ours_s": 2.0, "peer": "TCP", "peer_s": 5.0, "ratio": 2.5,
    });
    assert_eq!(rows[0].json(), expected);
}

#[test]
fn the_most_that_a_round_counted_is_kept() {
    let mut samples = Samples::default();
    for messages in [5.0, 7.0, 6.0] {
        samples.add_ours(Line {
            counts: vec![("messages".into(), messages)],
            ..line(Layout::Processes, 8, 1.0)
        });
    }
    let row = samples.rows().remove(0);
    assert_eq!(row.json()["counts"], json!({"messages": 7.0}));
}

#[test]
fn without_a_peer_its_fields_are_null() {
    let mut samples = Samples::default();
    samples.add_ours(line(Layout::Threads, 8, 2.0));
    let expected = json!({
        "bench": "all-reduce", "layout": "threads", "ranks": 2, "bytes": 8,
        "ours_s": 2.0, "peer": null, "peer_s": null, "ratio": null,
    });
    assert_eq!(samples.rows()[0].json(), expected);
}

#[test]
fn nothing_is_no_divisor() {
    for (ours, ratio) in [(0.0, json!(null)), (-1e-3, json!(null)), (0.5, json!(4.0))] {
        let mut samples = Samples::default();
        samples.add_ours(compared("whole", ours, 2.0));
        assert_eq!(samples.rows()[0].json()["ratio"], ratio);
    }
}

#[test]
fn the_parts_of_a_bench_have_rows_of_their_own() {
    let mut samples = Samples::default();
    for part in ["startup-processes", "startup"] {
        let line = line(Layout::Processes, 0, 1.0);
        samples.add_ours(Line {
            bench: part.into(),
            ..line
        });
    }
    let rows = samples.rows();
    let names: Vec<_> = rows.iter().map(|row| row.bench.as_str()).collect();
    assert_eq!(names, ["startup", "startup-processes"]);
}

#[test]
fn the_fastest_way_of_a_peer_counts_at_each_size() {
    let mut samples = Samples::default();
    for (bytes, ring) in [(8, 3.0), (16, 1.5)] {
        samples.add_ours(line(Layout::Threads, bytes, 1.0));
        for (way, seconds) in [("ring", ring), ("tree", 2.0)] {
            let line = line(Layout::Threads, bytes, seconds);
            samples.add_peer(
                "other",
                Line {
                    variant: Some(way.into()),
                    ..line
                },
            );
        }
    }
    let rows = samples.rows();
    let peers: Vec<_> = rows.iter().filter_map(|row| row.peer.as_ref()).collect();
    let titles: Vec<_> = peers.iter().map(|peer| peer.title()).collect();
    assert_eq!(titles, ["other (tree)", "other (ring)"]);
    assert!((peers[1].seconds - 1.5).abs() < f64::EPSILON);
}

#[test]
fn rows_are_in_order_and_peers_where_they_measured() {
    let (threads, processes) = (Layout::Threads, Layout::Processes);
    let mut samples = Samples::default();
    for (layout, bytes) in [(processes, 8), (threads, 64), (threads, 8)] {
        samples.add_ours(line(layout, bytes, 1.0));
    }
    samples.add_peer("b", line(threads, 8, 1.0));
    samples.add_peer("a", line(threads, 8, 1.0));
    // Nothing of ours to compare it with.
    samples.add_peer("a", line(processes, 1, 1.0));
    let rows = samples.rows();
    let name = |row: &Row| row.peer.as_ref().map_or("-".to_owned(), Peer::title);
    let places: Vec<_> = rows
        .iter()
        .map(|row| (row.layout, row.bytes, name(row)))
        .collect();
    let row = |layout, bytes, name: &str| (layout, bytes, name.to_owned());
    let expected = [
        row(threads, 8, "b"),
        row(threads, 8, "a"),
        row(threads, 64, "-"),
        row(processes, 8, "-"),
    ];
    assert_eq!(places, expected);
}

#[test]
fn what_a_program_compares_itself_with_is_a_peer() {
    let mut samples = Samples::default();
    for (ours, without) in [(2.0, 1.0), (4.0, 3.0), (3.0, 2.0)] {
        samples.add_ours(compared("without", ours, without));
    }
    samples.add_ours(compared("other", 8.0, 4.0));
    samples.add_peer("DDP", compared("without", 6.0, 5.0));
    let rows: Vec<_> = samples
        .rows()
        .into_iter()
        .map(|row| (row.ours, row.peer.unwrap()))
        .map(|(ours, peer)| (ours, peer.name, peer.seconds))
        .collect();
    let row = |ours: f64, name: &str, peer: f64| (ours, name.to_owned(), peer);
    let expected = [
        row(8.0, "other", 4.0),
        row(3.0, "without", 2.0),
        row(3.0, "DDP", 6.0),
        row(3.0, "DDP, without", 5.0),
    ];
    assert_eq!(rows, expected);
}
