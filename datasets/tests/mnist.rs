//! The data set as its users meet it: the embedded digits, and directories good and bad.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::Path;

use burn::data::dataset::{Dataset, DatasetError};
use datasets::{Error, Fault, MnistDataset, MnistItem, MnistSplit, PIXELS};
use tempfile::TempDir;

fn image_file(count: u32, image_of: impl Fn(u32) -> u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3];
    bytes.extend(
        [count, 28, 28]
            .iter()
            .flat_map(|dimension| dimension.to_be_bytes()),
    );
    (0..count).for_each(|item| bytes.extend([image_of(item); PIXELS]));
    bytes
}

fn label_file(labels: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 1];
    bytes.extend((labels.len() as u32).to_be_bytes());
    bytes.extend(labels);
    bytes
}

fn directory(files: &[(&str, Vec<u8>)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

fn embedded_path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/mnist-10k")
        .join(name)
}

#[test]
fn the_embedded_digits_are_all_there() {
    for (split, len) in [(MnistSplit::Train, 8_000), (MnistSplit::Test, 2_000)] {
        let digits = MnistDataset::embedded(split).unwrap();
        assert_eq!(digits.len(), len, "{split}");
        let items: Vec<MnistItem> = digits.iter().map(Result::unwrap).collect();
        assert_eq!(items.len(), len);
        let mut histogram = [0; 10];
        for item in &items {
            histogram[usize::from(item.label)] += 1;
        }
        // Fives are the rarest digit of MNIST (9.0 %), ones the most frequent (11.2 %).
        for (digit, count) in histogram.into_iter().enumerate() {
            assert!(
                (len * 8 / 100..len * 13 / 100).contains(&count),
                "{count} times {digit}"
            );
        }
        // The images are those that the published mean and deviation were computed from, give or
        // take the choice of 10,000 among 60,000.
        let greys = items
            .iter()
            .flat_map(|item| item.image)
            .map(|grey| f64::from(grey) / 255.0);
        let (sum, squares) =
            greys.fold((0.0, 0.0), |(sum, sq), grey| (sum + grey, sq + grey * grey));
        let mean = sum / (len * PIXELS) as f64;
        let deviation = (squares / (len * PIXELS) as f64 - mean * mean).sqrt();
        assert!((mean - 0.1307).abs() < 0.003, "mean {mean}");
        assert!((deviation - 0.3081).abs() < 0.003, "deviation {deviation}");
    }
}

#[test]
fn a_directory_gives_the_same_as_the_embedded_copy_of_it() {
    for split in [MnistSplit::Train, MnistSplit::Test] {
        let embedded = MnistDataset::embedded(split).unwrap();
        let read = MnistDataset::from_dir(embedded_path(""), split).unwrap();
        assert!(
            embedded
                .iter()
                .map(Result::unwrap)
                .eq(read.iter().map(Result::unwrap))
        );
    }
}

#[test]
fn images_and_labels_stay_together() {
    let labels = [3, 1, 4];
    let files = [
        (
            "t10k-images-idx3-ubyte",
            image_file(3, |item| 10 + item as u8),
        ),
        ("t10k-labels.idx1-ubyte", label_file(&labels)),
    ];
    let directory = directory(&files);
    let digits = MnistDataset::from_dir(directory.path(), MnistSplit::Test).unwrap();
    assert_eq!(digits.len(), 3);
    for (index, label) in labels.into_iter().enumerate() {
        let image = [10 + index as u8; PIXELS];
        assert_eq!(digits.get(index).unwrap(), MnistItem { image, label });
    }
    assert_eq!(digits.get_many(vec![2, 0]).unwrap()[1].label, 3);
}

#[test]
fn the_content_says_whether_a_file_is_gzipped() {
    // Gzipped without the ending, plain with it.
    let gzipped = fs::read(embedded_path("train-labels-idx1-ubyte.gz")).unwrap();
    let files = [
        ("train-labels-idx1-ubyte", gzipped),
        ("train-images-idx3-ubyte.gz", image_file(8_000, |_| 0)),
    ];
    let digits = MnistDataset::from_dir(directory(&files).path(), MnistSplit::Train).unwrap();
    assert_eq!(digits.len(), 8_000);
}

#[test]
fn a_missing_file_is_named_with_all_the_names_it_may_have() {
    let directory = directory(&[("t10k-images-idx3-ubyte", image_file(1, |_| 0))]);
    let error = MnistDataset::from_dir(directory.path(), MnistSplit::Test).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::MissingFile { .. }), "{message}");
    assert!(
        message.contains(&directory.path().display().to_string()),
        "{message}"
    );
    for name in ["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"] {
        assert!(message.contains(&format!("{name}, {name}.gz")), "{message}");
    }
    let nowhere = directory.path().join("nowhere");
    let error = MnistDataset::from_dir(&nowhere, MnistSplit::Test).unwrap_err();
    assert!(
        matches!(&error, Error::Io { path, .. } if *path == nowhere),
        "{error}"
    );
}

#[test]
fn different_counts_name_both_files() {
    let files = [
        ("train-images-idx3-ubyte", image_file(3, |_| 0)),
        ("train-labels-idx1-ubyte", label_file(&[1, 2])),
    ];
    let error = MnistDataset::from_dir(directory(&files).path(), MnistSplit::Train).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(
            error,
            Error::CountMismatch {
                image_count: 3,
                label_count: 2,
                ..
            }
        ),
        "{message}"
    );
    assert!(
        message.contains("train-images-idx3-ubyte holds 3 images"),
        "{message}"
    );
    assert!(
        message.contains("train-labels-idx1-ubyte holds 2 labels"),
        "{message}"
    );
}

/// Every fault reaches the user with the path of the file it is in, also inside Burn's own error.
#[test]
fn a_bad_file_is_named() {
    let good = label_file(&[5]);
    let longer = [&good[..], &[0]].concat();
    for (labels, expected) in [
        (
            good[..6].to_vec(),
            Fault::ShortHeader {
                found: 6,
                expected: 8,
            },
        ),
        (
            good[..8].to_vec(),
            Fault::Truncated {
                found: 0,
                declared: 1,
            },
        ),
        (longer, Fault::TrailingBytes { declared: 1 }),
        (
            label_file(&[77]),
            Fault::WrongLabel {
                index: 0,
                label: 77,
            },
        ),
    ] {
        let files = [
            ("train-images-idx3-ubyte", image_file(1, |_| 0)),
            ("train-labels-idx1-ubyte", labels),
        ];
        let directory = directory(&files);
        let error = MnistDataset::from_dir(directory.path(), MnistSplit::Train).unwrap_err();
        let bad = directory.path().join("train-labels-idx1-ubyte");
        assert!(
            matches!(&error, Error::BadFile { path, fault } if *path == bad && *fault == expected),
            "{error}"
        );
        let inside_burn = DatasetError::from(error).to_string();
        assert!(
            inside_burn.starts_with(&bad.display().to_string()),
            "{inside_burn}"
        );
        assert!(inside_burn.contains(&expected.to_string()), "{inside_burn}");
    }
}

#[test]
fn a_directory_in_place_of_a_file_is_an_error() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("train-images-idx3-ubyte")).unwrap();
    let error = MnistDataset::from_dir(directory.path(), MnistSplit::Train).unwrap_err();
    assert!(
        matches!(
            error,
            Error::BadFile {
                fault: Fault::NotAFile,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn clones_share_the_images() {
    let digits = MnistDataset::embedded(MnistSplit::Test).unwrap();
    let clone = digits.clone();
    drop(digits);
    assert_eq!(clone.len(), 2_000);
    assert_eq!(format!("{clone:?}"), "MnistDataset { len: 2000 }");
}

#[test]
#[should_panic(expected = "index out of bounds: the len is 2000 but the index is 2000")]
fn an_index_beyond_the_end_panics_as_the_trait_asks() {
    let _ = MnistDataset::embedded(MnistSplit::Test).unwrap().get(2_000);
}
