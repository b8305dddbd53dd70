use super::*;
use crate::bench::line::Layout;
use crate::bench::peers::Kind;
use crate::bench::programs::Bench;

const SETTING: Setting = Setting {
    bench: Bench::AllReduce,
    layout: Layout::Threads,
    ranks: 2,
    sizes: &[8],
    budget: 0.1,
};

fn taken(lines: &[&str]) -> (Result<(), String>, usize) {
    let ours = Contestant {
        peer: None,
        name: "burn-dist",
        says: "all-reduce",
    };
    let lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
    let mut samples = Samples::default();
    let result = take(&lines, &ours, &SETTING, &mut samples);
    (result, samples.rows().len())
}

const LINE: &str = r#"{"bench":"all-reduce","layout":"threads","ranks":2,"bytes":8,"seconds":1}"#;

#[test]
fn measurements_are_taken_from_among_other_lines() {
    let other = LINE.replace("\"bytes\":8", "\"bytes\":16");
    assert_eq!(taken(&["hello", LINE, "", &other]), (Ok(()), 2));
}

#[test]
fn the_label_of_a_process_is_no_part_of_a_line() {
    assert_eq!(taken(&[&format!("[0] {LINE}")]), (Ok(()), 1));
    for text in ["[a] b", "[1]", "x [1] y", ""] {
        assert_eq!(unlabelled(text), text);
    }
}

#[test]
fn a_measurement_of_something_else_is_refused() {
    for (part, changed) in [
        ("all-reduce", "ddp-step"),
        ("all-reduce", "all-reduces"),
        ("\"threads\"", "\"processes\""),
        ("\"ranks\":2", "\"ranks\":4"),
    ] {
        let (result, _) = taken(&[&LINE.replace(part, changed)]);
        assert!(result.unwrap_err().contains("something else"), "{changed}");
    }
}

#[test]
fn parts_of_a_bench_are_taken() {
    let part = LINE.replace("all-reduce", "all-reduce-of-halves");
    assert_eq!(taken(&[LINE, &part]), (Ok(()), 2));
}

#[test]
fn who_prints_nothing_is_in_trouble() {
    for lines in [&[][..], &["hello"]] {
        assert!(taken(lines).0.unwrap_err().contains("no measurement"));
    }
}

#[test]
fn a_peer_with_a_name_of_its_own_for_the_bench_is_compared() {
    let peer = Peer {
        kind: Kind::RawTcp,
        program: "raw_tcp".into(),
        file: None,
    };
    let raw = Contestant {
        peer: Some(&peer),
        name: "raw",
        says: "raw-tcp",
    };
    let ours = Contestant {
        peer: None,
        name: "burn-dist",
        says: "all-reduce",
    };
    let mut samples = Samples::default();
    let theirs = LINE.replace("all-reduce", "raw-tcp");
    take(&[LINE.to_owned()], &ours, &SETTING, &mut samples).unwrap();
    take(&[theirs], &raw, &SETTING, &mut samples).unwrap();
    let rows = samples.rows();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].ratio(), Some(1.0));
}
