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
//! epoch, and takes its own part of it. A loader that was given its ranks' group
//! ([`ShardedLoaderBuilder::group`]) compares what decides about samples whenever a pass begins; nothing
//! else here communicates.
//!
//! The permutation of up to 2^24 samples is a list (8 bytes a sample on each rank). That of a longer data set
//! is computed index by index, in a few bytes.
//!
//! Imports point one way: loader > agreement, batches > prefetch, position > sampler > plan > permutation >
//! feistel.

mod agreement;
mod batches;
mod feistel;
mod loader;
mod permutation;
mod plan;
mod position;
mod prefetch;
mod sampler;

pub use batches::{ShardedBatch, ShardedBatches};
#[cfg(feature = "train")]
pub(crate) use loader::Items;
pub use loader::{ShardedLoader, ShardedLoaderBuilder};
pub use plan::{EpochPlan, IndexBatch, Remainder, SamplerState};
#[cfg(feature = "train")]
pub(crate) use prefetch::{Job, Loaded, Picks, Prefetch, Workers};
pub use sampler::{DistributedSampler, DistributedSamplerConfig};
