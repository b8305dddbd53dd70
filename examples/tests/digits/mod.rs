//! A few made-up digits, in the files of a data set.

use std::path::Path;

/// Writes a data set in MNIST's format: digit `d` is a bright column at `2 d`. There are 45 to train on.
pub(crate) fn write_digits(folder: &Path) {
    for (name, count) in [("train", 45_u32), ("t10k", 10)] {
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
