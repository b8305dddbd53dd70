//! Data for burn-dist's examples, tests and benches: MNIST, and images that look a little like it.
//!
//! - [`MnistDataset`] holds one [`MnistSplit`] in memory: the 10,000 digits inside this crate
//!   ([`MnistDataset::embedded`]) or any directory in MNIST's format, such as the full MNIST or
//!   Fashion-MNIST ([`MnistDataset::from_dir`]).
//! - [`Mnist`] holds both splits.
//! - `download::mnist`, with the feature `download`, fetches the full MNIST into the user's cache.
//! - [`SyntheticMnist`] computes images from an index and a seed, for benches of any length.
//! - [`MnistBatcher`] turns the items of either into an [`MnistBatch`] of tensors.
//!
//! Both data sets implement Burn's [`Dataset`](burn::data::dataset::Dataset) and the batcher
//! implements Burn's [`Batcher`](burn::data::dataloader::batcher::Batcher), so they serve Burn's
//! data loaders and burn-dist's alike.
//!
//! ```
//! use burn::data::dataset::Dataset;
//! use datasets::{MnistDataset, MnistSplit};
//!
//! let train = MnistDataset::embedded(MnistSplit::Train)?;
//! assert_eq!(train.len(), 8_000);
//! println!("the first digit is a {}", train.get(0)?.label);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Licence of the digits
//!
//! The files under `data/mnist-10k` are a selection from the MNIST database by Yann LeCun and Corinna
//! Cortes, licensed under [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/); what was
//! changed is said beside them. They are part of every program that calls
//! [`MnistDataset::embedded`]. The code is licensed under MIT or Apache-2.0.

mod batcher;
#[cfg(feature = "download")]
pub mod download;
mod error;
mod idx;
mod mnist;
mod synthetic;

pub use batcher::{MnistBatch, MnistBatcher};
pub use error::{Error, Fault, Result};
pub use mnist::{Mnist, MnistDataset, MnistItem, MnistSplit};
pub use synthetic::SyntheticMnist;

/// Height and width of an image, in pixels.
pub const SIDE: usize = 28;

/// Pixels in an image, row by row from the top left.
pub const PIXELS: usize = SIDE * SIDE;

/// Number of classes; labels go from 0 to `CLASSES - 1`.
pub const CLASSES: usize = 10;
