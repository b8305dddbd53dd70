//! The way that gradients take to their averages: decided once, when a model is attached.
//!
//! All ranks decide together that devices average among themselves, each from the reports of all: the decision
//! is pure, and so the same everywhere.

use super::config::{DdpConfig, ReduceOn};
use super::device_reduce::{DeviceReduce, SingleDevice};
use super::gradient::is_queued;
use super::parameters::Parameters;
use crate::error::Result;
use crate::group::ProcessGroup;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The way of the gradients of one rank to their averages.
#[derive(Debug)]
pub(super) enum Strategy {
    /// They lie in host memory, or on several devices: each is read and packed, and the buckets are averaged
    /// in host memory.
    HostPack {
        /// True if large gradients are averaged in pieces, because other ranks read them so from their devices.
        in_pieces: bool,
    },
    /// They are joined on their device, and the buckets are read, averaged in host memory, and written back.
    DeviceConcat,
    /// They are joined on their device, which adds the buckets up with those of other ranks.
    DeviceReduce(Arc<DeviceSum>),
}

/// Sums on devices.
#[derive(Debug)]
pub(super) struct DeviceSum {
    /// The sum over the devices of this process.
    pub(super) device_reduce: Box<dyn DeviceReduce>,
    /// The sum over processes, if there are several.
    pub(super) hierarchy: Option<Hierarchy>,
}

/// One rank of each process, the leader, reads the sum of its process's devices, adds it up with the other
/// leaders over the network, and gives the result to the ranks of its process.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// The ranks of this process; the first leads.
    pub(super) process: ProcessGroup,
    /// The leaders, on a leader.
    pub(super) leaders: Option<ProcessGroup>,
}

impl Strategy {
    /// Returns true if the gradients of a bucket are joined on their device.
    pub(super) fn joins(&self) -> bool {
        !matches!(self, Self::HostPack { .. })
    }

    /// Returns the sum over processes, if devices add up and there are several.
    pub(super) fn hierarchy(&self) -> Option<&Hierarchy> {
        match self {
            Self::DeviceReduce(devices) => devices.hierarchy.as_ref(),
            Self::HostPack { .. } | Self::DeviceConcat => None,
        }
    }

    /// The groups that are used beside the model's own.
    pub(super) fn beside(&self) -> Vec<ProcessGroup> {
        let hierarchy = self.hierarchy().into_iter();
        let groups =
            hierarchy.flat_map(|hierarchy| hierarchy.leaders.iter().chain([&hierarchy.process]));
        groups.cloned().collect()
    }

    /// Returns the place where buckets are averaged.
    pub(super) fn reduce_on(&self) -> ReduceOn {
        match self {
            Self::HostPack { .. } | Self::DeviceConcat => ReduceOn::Host,
            Self::DeviceReduce(_) => ReduceOn::Device,
        }
    }
}

/// The report of a rank to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DeviceReport {
    /// Its process's number in the job.
    process: usize,
    /// True if its gradients are joined on their device.
    joins: bool,
    /// The number of its device, if it is one of CUDA's.
    number: Option<usize>,
    /// The reason why its device can't add up with others.
    unable: Option<String>,
}

/// Chooses the way for a model with these parameters. Every rank of the group calls it.
pub(super) fn choose(
    config: &DdpConfig,
    group: &ProcessGroup,
    parameters: &Parameters,
) -> Result<Strategy> {
    let device = only_device(parameters);
    let queued = device.filter(|device| is_queued(device.as_dispatch()));
    let wanted = config.reduce_on == ReduceOn::Device;
    if group.world_size() == 1 {
        return Ok(match queued {
            Some(_) if config.reduce_on != ReduceOn::Host => {
                Strategy::DeviceReduce(Arc::new(DeviceSum {
                    device_reduce: Box::new(SingleDevice),
                    hierarchy: None,
                }))
            }
            Some(_) => Strategy::DeviceConcat,
            None => Strategy::HostPack { in_pieces: false },
        });
    }
    let number = queued.as_ref().and_then(own::number);
    let own = match number {
        Some(number) if wanted => own::OwnDevice::take(number),
        Some(_) => Err("it is not configured so".to_owned()),
        None => Err("its model is on no CUDA device, or on several".to_owned()),
    };
    let report = DeviceReport {
        process: group.process(),
        joins: queued.is_some(),
        number,
        unable: own.as_ref().err().cloned(),
    };
    let reports: Vec<DeviceReport> = group.objects().all_gather(&report)?;
    match (decide(&reports, report.process), own) {
        (Ok(plan), Ok(own)) => {
            tracing::info!(devices = ?plan.numbers, "gradients are added up by their devices");
            let device_reduce = own.device_reduce(&plan.numbers);
            let hierarchy = plan
                .hierarchy
                .then(|| Hierarchy::new(group, report.process));
            let hierarchy = hierarchy.transpose()?;
            return Ok(Strategy::DeviceReduce(Arc::new(DeviceSum {
                device_reduce,
                hierarchy,
            })));
        }
        (Err(why), _) if wanted && number.is_some() => {
            tracing::info!(why, "gradients are averaged in host memory");
        }
        _ => {}
    }
    Ok(if report.joins {
        Strategy::DeviceConcat
    } else {
        let in_pieces = reports.iter().any(|report| report.joins);
        Strategy::HostPack { in_pieces }
    })
}

impl Hierarchy {
    /// Every rank of the group calls it, with its process.
    pub(super) fn new(group: &ProcessGroup, process: usize) -> Result<Self> {
        let process = group.part(process as u64)?;
        let leads = process.rank() == 0;
        let leaders = group.split(leads.then_some(0), 0)?;
        // Its ranks wait for the leader, which waits for other leaders.
        let process = process.with_timeout(group.timeout().saturating_mul(2));
        Ok(Self { process, leaders })
    }
}

/// The sum of the devices of a process.
#[derive(Debug, PartialEq, Eq)]
struct DevicePlan {
    /// The numbers of the devices of the process's ranks.
    numbers: Vec<usize>,
    /// True if there are other processes.
    hierarchy: bool,
}

/// Returns the sum for the ranks of one process, or the reason why devices can't add up.
fn decide(reports: &[DeviceReport], process: usize) -> std::result::Result<DevicePlan, String> {
    let mut taken: Vec<(usize, usize)> = Vec::with_capacity(reports.len());
    for (rank, report) in reports.iter().enumerate() {
        if let Some(number) = report.number {
            let device = (report.process, number);
            if let Some(other) = taken.iter().position(|taken| *taken == device) {
                return Err(format!(
                    "ranks {other} and {rank} of the group share GPU {number}"
                ));
            }
            taken.push(device);
        }
    }
    let unable = |report: &DeviceReport| report.unable.clone();
    let mut unable = reports.iter().map(unable).enumerate();
    if let Some((rank, Some(why))) = unable.find(|(_, why)| why.is_some()) {
        return Err(format!("rank {rank} of the group: {why}"));
    }
    let own = |of: usize| taken.iter().filter(move |device| device.0 == of);
    if reports
        .iter()
        .all(|report| own(report.process).count() == 1)
    {
        return Err("no process has several GPUs".to_owned());
    }
    Ok(DevicePlan {
        numbers: own(process).map(|device| device.1).collect(),
        hierarchy: reports.iter().any(|report| report.process != process),
    })
}

/// The device that all trained parameters are on, without autodiff.
fn only_device(parameters: &Parameters) -> Option<Device> {
    let trained = parameters.entries.iter();
    let mut devices = trained
        .filter(|entry| entry.description.trained)
        .map(|entry| entry.device.clone().without_autodiff());
    let first = devices.next()?;
    devices.all(|device| device == first).then_some(first)
}

#[cfg(feature = "cuda")]
mod own {
    //! This rank's device, if it is one that can add up with others.

    use crate::ddp::device_reduce::{DeviceLease, DeviceReduce, Nccl, SingleDevice};
    use burn::backend::{CubeDevice, DispatchDevice};

    /// The number of a CUDA device.
    pub(super) fn number(device: &burn::tensor::Device) -> Option<usize> {
        match device.as_dispatch() {
            DispatchDevice::Cube(CubeDevice::Cuda(cuda)) => Some(cuda.index),
            _ => None,
        }
    }

    pub(super) struct OwnDevice(DeviceLease);

    impl OwnDevice {
        /// Takes a CUDA device for one model.
        pub(super) fn take(number: usize) -> Result<Self, String> {
            let device = burn::tensor::Device::cuda(number);
            let DispatchDevice::Cube(cube) = device.as_dispatch() else {
                return Err("its device is none of CUDA's".to_owned());
            };
            if !cube.client().has_device_transport() {
                return Err(
                    "libnccl.so was not found; install NCCL and its development package, or put the \
                     folder of libnccl.so into LD_LIBRARY_PATH"
                        .to_owned(),
                );
            }
            let taken = DeviceLease::new(number);
            taken
                .map(Self)
                .ok_or_else(|| "its GPU adds up another model's gradients".to_owned())
        }

        /// Returns its end of the sum over the devices with these numbers, of which it is one.
        pub(super) fn device_reduce(self, numbers: &[usize]) -> Box<dyn DeviceReduce> {
            if let [_] = numbers {
                return Box::new(SingleDevice);
            }
            let devices = numbers
                .iter()
                .map(|&number| burn::tensor::Device::cuda(number));
            Box::new(Nccl::new(devices.collect(), self.0))
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod own {
    //! No device of this build can add up with others.

    use crate::ddp::device_reduce::DeviceReduce;
    use std::convert::Infallible;

    pub(super) fn number(_device: &burn::tensor::Device) -> Option<usize> {
        None
    }

    pub(super) struct OwnDevice(Infallible);

    impl OwnDevice {
        pub(super) fn take(_number: usize) -> Result<Self, String> {
            Err("this program was built without the feature `cuda`".to_owned())
        }

        pub(super) fn device_reduce(self, _numbers: &[usize]) -> Box<dyn DeviceReduce> {
            match self.0 {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(device: usize) -> DeviceReport {
        DeviceReport {
            process: 3,
            joins: true,
            number: Some(device),
            unable: None,
        }
    }

    #[test]
    fn devices_add_up_in_the_order_of_their_ranks() {
        let numbers = vec![2, 0];
        let hierarchy = false;
        assert_eq!(
            decide(&[report(2), report(0)], 3),
            Ok(DevicePlan { numbers, hierarchy })
        );
    }

    #[test]
    fn devices_of_each_process_add_up_by_themselves() {
        let other = |device| DeviceReport {
            process: 4,
            ..report(device)
        };
        let reports = [report(1), report(0), other(0)];
        for (process, numbers) in [(3, vec![1, 0]), (4, vec![0])] {
            let hierarchy = true;
            assert_eq!(
                decide(&reports, process),
                Ok(DevicePlan { numbers, hierarchy })
            );
        }
        let why = decide(&[report(1), other(1)], 3).unwrap_err();
        assert!(why.contains("no process has several"), "{why}");
    }

    #[test]
    fn what_keeps_devices_from_adding_up_is_named() {
        let unable = DeviceReport {
            unable: Some("no NCCL".to_owned()),
            ..report(1)
        };
        let second = DeviceReport {
            unable: Some("its GPU adds up another model's gradients".to_owned()),
            ..report(0)
        };
        for (other, part) in [
            (unable, "rank 1 of the group: no NCCL"),
            (second, "ranks 0 and 1 of the group share GPU 0"),
        ] {
            let why = decide(&[report(0), other], 3).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
