//! Sums that devices make among themselves.

use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use std::fmt;

/// One rank's end of a sum over devices. Dropped, its device is free for another.
pub(super) trait DeviceReduce: fmt::Debug + Send + Sync {
    /// Asks this rank's device for the sum over all its ranks, without waiting for it. Every rank calls it with
    /// as many elements, in the same order, and only once it knows that all others will: a request can't be
    /// taken back, and a device waits for the others without end. So the calling thread must be one that can
    /// be left behind.
    fn sum(&self, tensor: FloatTensor<Dispatch>) -> DeferredTensor;
}

/// A tensor that a device was asked for.
pub(super) struct DeferredTensor(Box<dyn FnOnce() -> FloatTensor<Dispatch> + Send>);

impl DeferredTensor {
    pub(super) fn new(resolve: impl FnOnce() -> FloatTensor<Dispatch> + Send + 'static) -> Self {
        Self(Box::new(resolve))
    }

    /// Returns the tensor, for later operations of this thread.
    pub(super) fn resolve(self) -> FloatTensor<Dispatch> {
        (self.0)()
    }
}

impl fmt::Debug for DeferredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredTensor").finish_non_exhaustive()
    }
}

/// A device without others.
#[derive(Debug)]
pub(super) struct SingleDevice;

impl DeviceReduce for SingleDevice {
    fn sum(&self, tensor: FloatTensor<Dispatch>) -> DeferredTensor {
        DeferredTensor::new(|| tensor)
    }
}

#[cfg(feature = "cuda")]
pub(super) use nccl::{DeviceLease, Nccl};

#[cfg(feature = "cuda")]
mod nccl {
    //! NVIDIA's NCCL, through Burn's own collective.
    //!
    //! Burn has one communicator for a set of devices in a process, and a queue for all collectives of a
    //! device. Two models that are averaged at once would mix theirs there, in another order on every rank;
    //! so a device belongs to one [`Nccl`] at a time.

    use super::{DeferredTensor, DeviceReduce};
    use burn::backend::Dispatch;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::distributed::{ReduceOperation, all_reduce};
    use burn::tensor::{Device, Tensor};
    use parking_lot::Mutex;

    /// The numbers of the devices that are taken.
    static TAKEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    /// A device that was taken, for as long as this lives.
    #[derive(Debug)]
    pub(in crate::ddp) struct DeviceLease(usize);

    impl DeviceLease {
        /// Takes a device, if it is free.
        pub(in crate::ddp) fn new(device: usize) -> Option<Self> {
            let mut taken = TAKEN.lock();
            if taken.contains(&device) {
                return None;
            }
            taken.push(device);
            Some(Self(device))
        }
    }

    impl Drop for DeviceLease {
        fn drop(&mut self) {
            let mut taken = TAKEN.lock();
            taken.retain(|device| *device != self.0);
        }
    }

    /// The devices of some ranks, which one process has.
    #[derive(Debug)]
    pub(in crate::ddp) struct Nccl {
        devices: Vec<Device>,
        _own: DeviceLease,
    }

    impl Nccl {
        pub(in crate::ddp) fn new(devices: Vec<Device>, own: DeviceLease) -> Self {
            let _own = own;
            Self { devices, _own }
        }
    }

    impl DeviceReduce for Nccl {
        fn sum(&self, tensor: FloatTensor<Dispatch>) -> DeferredTensor {
            let tensor = Tensor::<1>::from_dispatch(tensor);
            let sum = all_reduce(tensor, ReduceOperation::Sum, self.devices.clone());
            // The lane waits too, so that the memory is not used again before.
            drop(sum.clone().resolve());
            DeferredTensor::new(move || sum.resolve().into_dispatch())
        }
    }
}
