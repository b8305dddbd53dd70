//! The way that gradients take to their averages: decided once, when a model is attached.
//!
//! Whether devices average among themselves is decided by all ranks together, each from what all have said:
//! pure, and so the same everywhere.
//!
//! Callers: `attach`.

use super::config::{DdpConfig, ReduceOn};
use super::fabric::{Alone, Fabric};
use super::gradient::is_queued;
use super::parameters::Parameters;
use crate::control;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// How the gradients of one rank come to their averages.
#[derive(Debug)]
pub(super) enum Route {
    /// They lie in host memory, or on several devices: each is read and packed, and the buckets are averaged
    /// in host memory.
    OneByOne,
    /// They are joined on their device, and the buckets are read, averaged in host memory, and written back.
    Joined,
    /// They are joined on their device, which averages the buckets with those of the other ranks.
    OnDevice(Box<dyn Fabric>),
}

impl Route {
    /// Whether the gradients of a bucket are joined on their device.
    pub(super) fn joins(&self) -> bool {
        !matches!(self, Self::OneByOne)
    }
}

/// What a rank tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    /// Whether its configuration lets devices average.
    wanted: bool,
    /// Its process's number in the job.
    process: usize,
    /// The number of its device among those of its machine that can average, or why it can't.
    device: std::result::Result<usize, String>,
}

/// Chooses the way for a model with these parameters. Every rank of the group calls it.
pub(super) fn choose(
    config: &DdpConfig,
    group: &ProcessGroup,
    parameters: &Parameters,
) -> Result<Route> {
    let device = only_device(parameters);
    let queued = device
        .as_ref()
        .filter(|device| is_queued(device.as_dispatch()));
    let wanted = config.reduce_on == ReduceOn::Device;
    if group.world_size() == 1 {
        return Ok(match queued {
            Some(_) if wanted => Route::OnDevice(Box::new(Alone)),
            Some(_) => Route::Joined,
            None => Route::OneByOne,
        });
    }
    let own = match queued {
        Some(device) => own::Device::take(device),
        None => Err("its model is in host memory, or on several devices".to_owned()),
    };
    let report = Report {
        wanted,
        process: group.process(),
        device: own.as_ref().map(own::Device::number).map_err(Clone::clone),
    };
    let reports = exchange(group, &report)?;
    match (decide(&reports), own) {
        (Ok(numbers), Ok(own)) => {
            tracing::info!(devices = ?numbers, "gradients are averaged by their devices");
            return Ok(Route::OnDevice(own.fabric(&numbers)));
        }
        (Err(why), _) if wanted && reports.iter().any(|report| report.device.is_ok()) => {
            tracing::info!(why, "gradients are averaged in host memory");
        }
        _ => {}
    }
    Ok(match queued {
        Some(_) => Route::Joined,
        None => Route::OneByOne,
    })
}

fn exchange(group: &ProcessGroup, report: &Report) -> Result<Vec<Report>> {
    let rank = group.global_rank();
    let error = |peer, message| Error::Control {
        rank,
        peer,
        message,
    };
    let ours = control::encode(report).map_err(|message| error(rank, message))?;
    let all = group.all_gather_bytes(&ours)?;
    all.iter()
        .zip(group.ranks())
        .map(|(bytes, &peer)| control::decode(bytes).map_err(|message| error(peer, message)))
        .collect()
}

/// The numbers of the devices of all ranks if they can average among themselves, or why not.
fn decide(reports: &[Report]) -> std::result::Result<Vec<usize>, String> {
    let mut numbers = Vec::with_capacity(reports.len());
    for (rank, report) in reports.iter().enumerate() {
        if !report.wanted {
            return Err(format!("rank {rank} of the group is configured so"));
        }
        if report.process != reports[0].process {
            return Err("the ranks are in several processes".to_owned());
        }
        let number = match &report.device {
            Ok(number) => *number,
            Err(why) => return Err(format!("rank {rank} of the group: {why}")),
        };
        if let Some(other) = numbers.iter().position(|taken| *taken == number) {
            return Err(format!(
                "ranks {other} and {rank} of the group share GPU {number}"
            ));
        }
        numbers.push(number);
    }
    Ok(numbers)
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
    //! This rank's device, if it is one that can average.

    use crate::ddp::fabric::{Fabric, Nccl, Taken};
    use burn::backend::{CubeDevice, DispatchDevice};

    pub(super) struct Device(Taken);

    impl Device {
        /// Takes it for one model.
        pub(super) fn take(device: &burn::tensor::Device) -> Result<Self, String> {
            let DispatchDevice::Cube(device) = device.as_dispatch() else {
                return Err("its device is none of CUDA's".to_owned());
            };
            let CubeDevice::Cuda(cuda) = device else {
                return Err("its device is none of CUDA's".to_owned());
            };
            if !device.client().has_device_transport() {
                return Err(
                    "libnccl.so was not found; install NCCL and its development package, or put the \
                     folder of libnccl.so into LD_LIBRARY_PATH"
                        .to_owned(),
                );
            }
            let taken = Taken::new(cuda.index);
            taken.map(Self).ok_or_else(|| {
                "its GPU averages another model, or another replica of this one".to_owned()
            })
        }

        pub(super) fn number(&self) -> usize {
            self.0.number()
        }

        pub(super) fn fabric(self, numbers: &[usize]) -> Box<dyn Fabric> {
            let devices = numbers
                .iter()
                .map(|&number| burn::tensor::Device::cuda(number));
            Box::new(Nccl::new(devices.collect(), self.0))
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod own {
    //! No device of this build can average.

    use crate::ddp::fabric::Fabric;
    use std::convert::Infallible;

    pub(super) struct Device(Infallible);

    impl Device {
        pub(super) fn take(_device: &burn::tensor::Device) -> Result<Self, String> {
            Err(
                "its device is none of CUDA's, or this program is built without the feature"
                    .to_owned(),
            )
        }

        pub(super) fn number(&self) -> usize {
            match self.0 {}
        }

        pub(super) fn fabric(self, _numbers: &[usize]) -> Box<dyn Fabric> {
            match self.0 {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(device: usize) -> Report {
        Report {
            wanted: true,
            process: 3,
            device: Ok(device),
        }
    }

    #[test]
    fn devices_of_one_process_average_in_the_order_of_their_ranks() {
        assert_eq!(decide(&[report(2), report(0)]), Ok(vec![2, 0]));
    }

    #[test]
    fn what_keeps_devices_from_averaging_is_named() {
        let unwanted = Report {
            wanted: false,
            ..report(1)
        };
        let elsewhere = Report {
            process: 4,
            ..report(1)
        };
        let unable = Report {
            device: Err("no NCCL".to_owned()),
            ..report(1)
        };
        for (other, part) in [
            (unwanted, "rank 1 of the group is configured so"),
            (elsewhere, "several processes"),
            (unable, "rank 1 of the group: no NCCL"),
            (report(0), "ranks 0 and 1 of the group share GPU 0"),
        ] {
            let why = decide(&[report(0), other]).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
