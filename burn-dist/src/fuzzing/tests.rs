//! The corpus, and mutations of it, in the ordinary tests.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::*;

/// Mutations of each decoder's corpus.
const MUTATIONS: u64 = 50_000;

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// A fuzz target with its function and its seeds.
type Target = (&'static str, fn(&[u8]), Seeds);

fn targets() -> [Target; 6] {
    [
        ("frame", frame, transport::tcp::frame_seeds()),
        ("handshake", handshake, net::auth::seeds()),
        ("store", store, rendezvous::store_seeds()),
        ("nodes", nodes, rendezvous::node_seeds()),
        ("variables", variables, rendezvous::variable_seeds()),
        ("control", control, control_seeds()),
    ]
}

fn control_seeds() -> Seeds {
    let of_kind = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    let call = error::Call {
        operation: "all_reduce".into(),
        sequence: 17,
        dtype: "f32".into(),
        shape: vec![128, 10],
        detail: error::Detail {
            reduction: Some("sum".into()),
            root: Some(3),
            tag: Some(1 << 40),
            ..error::Detail::default()
        },
    };
    let mut seeds = vec![
        ("call", of_kind(0, codec::encode(&call).unwrap())),
        ("hello", of_kind(2, transport::tcp::hello_seed())),
        ("parameters", of_kind(4, ddp::parameters_seed())),
        ("loss", of_kind(5, transport::tcp::loss_seed())),
        ("order", of_kind(6, codec::encode(&[2, 1, 300]).unwrap())),
        ("lies", vec![6, 253, 0, 0, 0, 0, 0, 0, 0, 16]),
    ];
    let notices = transport::processes::notice_seeds(&call);
    let records = rendezvous::record_seeds();
    seeds.extend(
        notices
            .into_iter()
            .map(|(name, seed)| (name, of_kind(1, seed))),
    );
    seeds.extend(
        records
            .into_iter()
            .map(|(name, seed)| (name, of_kind(3, seed))),
    );
    seeds
}

fn folder(target: &str) -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.join("fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder(target)).unwrap();
    let mut corpus: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), fs::read(path).unwrap())
        })
        .collect();
    corpus.sort_unstable();
    corpus
}

/// Writes the seeds into the corpus: run it when a format has changed (see `fuzz/README.md`).
#[test]
#[ignore = "it writes files of the repository"]
fn write_the_corpus() {
    for (target, _, seeds) in targets() {
        fs::create_dir_all(folder(target)).unwrap();
        for (name, bytes) in seeds {
            fs::write(folder(target).join(name), bytes).unwrap();
        }
    }
}

#[test]
fn the_corpus_is_that_of_this_format() {
    for (target, _, seeds) in targets() {
        for (name, bytes) in seeds {
            let file = fs::read(folder(target).join(name)).ok();
            assert!(
                file.as_ref() == Some(&bytes),
                "{target}/{name} is of another format; see fuzz/README.md"
            );
        }
    }
}

#[test]
fn everything_in_the_corpus_holds() {
    for (target, check, _) in targets() {
        for (file, bytes) in corpus(target) {
            let held = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
            assert!(held.is_ok(), "{file}");
        }
    }
}

#[test]
fn mutations_of_the_corpus_hold() {
    for (target, check, _) in targets() {
        let corpus = corpus(target);
        for seed in 0..MUTATIONS {
            let bytes = mutated(&corpus, seed);
            let held = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
            assert!(held.is_ok(), "{target}, mutation {seed}: {bytes:?}");
        }
    }
}

/// A file of the corpus with a few changes, always the same for a seed.
fn mutated(corpus: &[(String, Vec<u8>)], seed: u64) -> Vec<u8> {
    let mut random = SplitMix64::seed_from_u64(seed);
    let mut below = |limit: usize| (random.next_u64() % limit.max(1) as u64) as usize;
    let mut bytes = corpus[below(corpus.len())].1.clone();
    for _ in 0..=below(4) {
        let place = below(bytes.len());
        match below(7) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place.min(bytes.len()), below(256) as u8),
            2 => drop(bytes.drain(place..bytes.len().min(place + 1 + below(8)))),
            // The ends of numbers, in which lengths are.
            3 => bytes
                .iter_mut()
                .skip(place)
                .take(4)
                .for_each(|byte| *byte = 0xff),
            // Two files, one after the other.
            4 => bytes.extend_from_slice(&corpus[below(corpus.len())].1),
            5 if !bytes.is_empty() => bytes[place] = below(256) as u8,
            _ if !bytes.is_empty() => bytes[place] ^= 1 << below(8),
            _ => {}
        }
    }
    bytes
}
