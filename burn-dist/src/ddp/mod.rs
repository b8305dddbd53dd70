//! Distributed data-parallel training: every rank holds a replica of the model and trains it on its
//! own share of the data; gradients are averaged over the ranks while backward still runs
//! (Li et al., "PyTorch Distributed", VLDB 2020).
//!
//! Imports point down this list:
//!
//! - the calls of [`Ddp`]: `attach`, `synchronize`, `local`, `copies`, `weight`, `module_buffers`, `replicas`,
//!   `clip`, on `handle`, the state that they share;
//! - `contribution`, the part of a rank in a step; `collect`, the parameters and gradients found in a model; `unpack`, the optimizer's gradients made of averages;
//! - `use_tracker`, the records of backward passes: it decides which gradients are handed over at once;
//! - `reducer`, a thread that fills buckets and averages each as soon as it is full, in the same order on every
//!   rank;
//! - `strategy`, the way to an average, chosen when the model is attached: on the CPU, gradients are copied to
//!   their bucket (a large one lies there already); on a GPU they are joined, read, averaged in host memory and
//!   written back (`transfer`); CUDA GPUs of one process add up among themselves (`device_reduce`);
//! - `gradient`, a gradient on its way to the reducer, on a GPU a copy on a stream that the reducer reads;
//! - `pool` and `buffer`, the memory of buckets; `late`, gradients averaged after the step;
//! - `layout`, the bucket and the place of each parameter;
//! - `hook`, an identity on each parameter that sees its gradient as soon as backward has it; `parameters`, the
//!   list of a model's tensors; `config`.
//!
//! Threads: the replica's own thread runs forward, backward and every method of [`Ddp`]; the reducer
//! thread owns the buckets and the process group's operations, which for a GPU run on the group's
//! communication thread. They talk over one channel (`reducer/messages`), and a hook never blocks.

mod attach;
#[cfg(feature = "bench")]
mod benched;
mod broadcast;
mod buffer;
mod clip;
mod collect;
mod config;
mod contribution;
#[cfg(feature = "train")]
mod copies;
mod device_reduce;
mod gradient;
mod handle;
mod hook;
mod late;
mod layout;
mod local;
mod module_buffers;
mod parameters;
mod pool;
#[cfg(test)]
mod programs;
mod reducer;
mod replicas;
mod strategy;
mod synchronize;
mod transfer;
mod unpack;
mod use_tracker;
mod values;
mod weight;

#[cfg(feature = "bench")]
pub(crate) use benched::{BenchedAverage, BenchedBucket};
pub use clip::{GradientScope, clip_grad_norm};
pub use config::{DdpConfig, ReduceOn};
pub use handle::{Ddp, SyncStats};
#[cfg(any(test, fuzzing))]
pub(crate) use parameters::check_parameters;
#[cfg(test)]
pub(crate) use parameters::parameters_seed;
pub use replicas::parameters_sha256;
#[cfg(feature = "train")]
pub(crate) use values::{copy_into, with_own_states};
