//! Configuration of data-parallel training.

use burn::config::Config;

/// The place where gradients are averaged.
#[derive(Config, Debug, PartialEq, Eq)]
pub enum ReduceOn {
    /// In host memory where there are several ranks. A rank that is alone has nothing to add up, and leaves
    /// its gradients where they are.
    Auto,
    /// By their devices, where all can: CUDA GPUs, one for each rank, which add up among themselves with
    /// NVIDIA's NCCL (`libnccl.so`). Those of several processes give their sums to one rank of each, which
    /// exchanges them. Everywhere else in host memory: which of the two, and why, is in the log (`info`), and
    /// [`Ddp::reduce_on`](super::Ddp::reduce_on) tells. A rank that is alone leaves its gradients where they are, on any GPU.
    ///
    /// **This never ran on two real GPUs**, only on emulated ones: compare its results with those of
    /// [`Host`](Self::Host) first.
    ///
    /// All ranks get the same averages, but NCCL adds in an order of its own: they can differ in the last
    /// bits from those of the host, or of another number of GPUs.
    ///
    /// A GPU adds up for one model at a time: a second [`Ddp`](super::Ddp) on it is averaged in host memory. As long as
    /// a model is attached so, nothing else may use Burn's own collectives between its GPUs, and that is what
    /// moving a tensor from one to another (`to_device`) does too: they could wait for one another without
    /// end.
    ///
    /// [`Ddp::synchronize`](super::Ddp::synchronize) waits for the sums of the devices. A GPU that fails in the midst of a sum never
    /// ends it on the others: then all ranks get an error after the group's timeout, the thread that waits for
    /// the sum is left behind, which is in the log (`error`), and the GPUs are of no use to the process any
    /// more.
    Device,
    /// In host memory, always: sums are added in one order, whatever ranks run on.
    Host,
}

/// Configuration of [`Ddp`](super::Ddp).
///
/// Gradients travel in buckets: larger ones use the link better, smaller ones leave earlier. The
/// defaults are PyTorch's.
#[derive(Config, Debug)]
pub struct DdpConfig {
    /// The size a bucket is filled to, in megabytes (2^20 bytes) of gradients.
    #[config(default = 25.0)]
    pub bucket_cap_mb: f64,
    /// The size of the first bucket, smaller so that the first average starts early. A parameter of
    /// this size and more does not wait for others: its gradient is averaged where it lies.
    #[config(default = 1.0)]
    pub first_bucket_mb: f64,
    /// The place where gradients are averaged.
    #[config(default = "ReduceOn::Auto")]
    pub reduce_on: ReduceOn,
}

impl DdpConfig {
    /// The sizes in bytes: the first bucket's, and the others'.
    pub(super) fn caps(&self) -> (usize, usize) {
        let bytes = |megabytes: f64| (megabytes * f64::from(1 << 20)) as usize;
        (bytes(self.first_bucket_mb), bytes(self.bucket_cap_mb))
    }
}
