//! Data sharded by rank: which samples each rank sees at each step, and a loader that feeds them.
//!
//! Three layers, each of use on its own:
//!
//! - [`DistributedSampler`]: arithmetic on positions. A plain value, with no threads and no group.
//! - [`ShardedLoader`]: the sampler, a Burn dataset and a Burn batcher, with prefetching workers. It
//!   implements Burn's [`DataLoader`](burn::data::dataloader::DataLoader).
//! - [`ShardedBatches`]: one epoch of that loader, with the number of items that count in each batch.
//!
//! Samples never travel. Ranks agree because each computes the same permutation from the same seed and
//! epoch, and takes its own part of it. A loader made with a group ([`ShardedLoaderConfig::init`]) compares its
//! settings with those of the other ranks whenever a pass begins; nothing else here communicates.
//!
//! # Batch sizes
//!
//! Two names have one meaning each, everywhere in this crate and in its examples. Exactly one of the two is given;
//! neither or both are an [`Error::Data`](crate::Error::Data).
//!
//! | name | samples of one step | with more ranks |
//! |---|---|---|
//! | `batch_size` | on each rank | a step has more samples, an epoch has fewer steps |
//! | `global_batch_size` | on all ranks together | each rank has fewer samples; steps stay the same |
//!
//! Compare results of different layouts with the same `global_batch_size`: the same number of steps, each on the
//! same samples. [`ShardedLoader`] asks for a multiple of the number of ranks, so that a rank's tensors keep their
//! shape. With burn-train, the parts of a batch may differ by one sample.
//!
//! The permutation of up to 2^24 samples is a list (8 bytes a sample on each rank). That of a longer data set
//! is computed index by index, in a few bytes.
//!
//! Imports point one way: loader > agreement, batches > prefetch, position > sampler > batch_size, plan >
//! permutation > feistel.

mod agreement;
mod batch_size;
mod batches;
mod feistel;
mod loader;
mod permutation;
mod plan;
mod position;
mod prefetch;
mod sampler;

#[cfg(feature = "train")]
pub(crate) use batch_size::BatchSize;
pub use batches::{ShardedBatch, ShardedBatches};
#[cfg(feature = "train")]
pub(crate) use loader::Items;
pub use loader::{ShardedLoader, ShardedLoaderConfig};
pub use plan::{EpochPlan, IndexBatch, Remainder, SamplerState};
#[cfg(feature = "train")]
pub(crate) use prefetch::{Feed, Loaded, PassJob, Picks, Prefetch, Workers};
pub use sampler::{DistributedSampler, DistributedSamplerConfig};
