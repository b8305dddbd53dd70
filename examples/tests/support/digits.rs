//! A made-up data set in MNIST's format.

use std::path::Path;

/// Writes so many training digits and ten to test on: digit `d` is a bright column at `2 d`.
pub(crate) fn write(folder: &Path, training: u32) {
    for (name, count) in [("train", training), ("t10k", 10)] {
        let mut images = Vec::from([0, 0, 8, 3]);
        let mut labels = Vec::from([0, 0, 8, 1]);
        for header in [count, 28, 28] {
            images.extend(header.to_be_bytes());
        }
        labels.extend(count.to_be_bytes());
        for i in 0..count as usize {
            labels.push((i % 10) as u8);
            images.extend((0..784).map(|p| if p % 28 == 2 * (i % 10) { 255 } else { 0 }));
        }
        std::fs::write(folder.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(folder.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
    }
}
