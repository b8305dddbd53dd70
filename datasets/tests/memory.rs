//! A file's claims cost nothing: what the decoder takes stays far below what hostile files speak of.
//!
//! One test in a binary of its own, because the allocator counts for the whole process.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::io::Write;

use datasets::{Error, MnistDataset, MnistSplit};
use flate2::Compression;
use flate2::write::GzEncoder;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

fn header(count: u32) -> Vec<u8> {
    [
        [0, 0, 8, 3],
        count.to_be_bytes(),
        28u32.to_be_bytes(),
        28u32.to_be_bytes(),
    ]
    .concat()
}

/// One image, then 64 MiB of zeros, in 64 KiB of gzip.
fn bomb(count: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&header(count)).unwrap();
    for _ in 0..64 {
        encoder.write_all(&vec![0; MIB]).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn hostile_files_take_next_to_no_memory() {
    let directory = tempfile::tempdir().unwrap();
    let labels = [vec![0, 0, 8, 1, 0, 0, 0, 1], vec![0]].concat();
    fs::write(directory.path().join("train-labels-idx1-ubyte"), labels).unwrap();
    for (what, bytes) in [
        (
            "four billion images in 100 bytes",
            [header(u32::MAX), vec![0; 84]].concat(),
        ),
        // Just below the limit, so that the data is really read.
        (
            "340,000 images in 100 bytes",
            [header(340_000), vec![0; 84]].concat(),
        ),
        ("a bomb that admits to one image", bomb(1)),
        ("a bomb that admits to four billion", bomb(u32::MAX)),
    ] {
        fs::write(directory.path().join("train-images-idx3-ubyte"), bytes).unwrap();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let error = MnistDataset::from_dir(directory.path(), MnistSplit::Train).unwrap_err();
        let taken = MEMORY.peak_usage() - before;
        assert!(matches!(error, Error::BadFile { .. }), "{what}: {error}");
        // Buffers of the reader and the decompressor: about 50 KiB.
        assert!(taken < MIB / 4, "{what} took {taken} bytes");
    }

    // The measurement measures: a whole set is seen, and costs little more than its content.
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let digits = MnistDataset::embedded(MnistSplit::Train).unwrap();
    let (taken, content) = (MEMORY.peak_usage() - before, 8_000 * 785);
    assert!(
        (content..3 * content).contains(&taken),
        "{digits:?} took {taken} bytes"
    );
}
