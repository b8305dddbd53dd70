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
    /// They are joined on their device, which adds the buckets up with those of other ranks.
    OnDevice(Devices),
}

/// What adds up on devices.
#[derive(Debug)]
pub(super) struct Devices {
    /// The devices of this process.
    pub(super) fabric: Box<dyn Fabric>,
    /// What adds up the sums of several processes.
    pub(super) beyond: Option<Beyond>,
}

/// One rank of each process, the leader, reads the sum of its process's devices, adds it up with the other
/// leaders over the network, and gives the result to the ranks of its process.
#[derive(Debug)]
pub(super) struct Beyond {
    /// The ranks of this process; the first leads.
    pub(super) process: ProcessGroup,
    /// The leaders, on a leader.
    pub(super) leaders: Option<ProcessGroup>,
}

impl Route {
    /// Whether the gradients of a bucket are joined on their device.
    pub(super) fn joins(&self) -> bool {
        !matches!(self, Self::OneByOne)
    }

    /// The groups that are used beside the model's own.
    pub(super) fn beside(&self) -> Vec<ProcessGroup> {
        match self {
            Self::OnDevice(Devices {
                beyond: Some(beyond),
                ..
            }) => {
                let leaders = beyond.leaders.iter().cloned();
                leaders.chain([beyond.process.clone()]).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Where buckets are averaged.
    pub(super) fn reduce_on(&self) -> ReduceOn {
        match self {
            Self::OneByOne | Self::Joined => ReduceOn::Host,
            Self::OnDevice(_) => ReduceOn::Device,
        }
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
    let queued = device.filter(|device| is_queued(device.as_dispatch()));
    let through_host = match &queued {
        Some(_) => Route::Joined,
        None => Route::OneByOne,
    };
    let wanted = config.reduce_on == ReduceOn::Device;
    if group.world_size() == 1 {
        return Ok(match queued {
            Some(_) if wanted => Route::OnDevice(Devices {
                fabric: Box::new(Alone),
                beyond: None,
            }),
            _ => through_host,
        });
    }
    let own = match &queued {
        Some(device) => own::Device::take(device),
        None => Err("its model is in host memory, or on several devices".to_owned()),
    };
    let report = Report {
        wanted,
        process: group.process(),
        device: own.as_ref().map(own::Device::number).map_err(Clone::clone),
    };
    let reports = exchange(group, &report)?;
    match (decide(&reports, report.process), own) {
        (Ok(plan), Ok(own)) => {
            tracing::info!(devices = ?plan.numbers, "gradients are added up by their devices");
            let fabric = own.fabric(&plan.numbers);
            let beyond = plan.beyond.then(|| Beyond::new(group, report.process));
            let beyond = beyond.transpose()?;
            return Ok(Route::OnDevice(Devices { fabric, beyond }));
        }
        (Err(why), _) if wanted && reports.iter().any(|report| report.device.is_ok()) => {
            tracing::info!(why, "gradients are averaged in host memory");
        }
        _ => {}
    }
    Ok(through_host)
}

impl Beyond {
    /// Every rank of the group calls it, with its process.
    pub(super) fn new(group: &ProcessGroup, process: usize) -> Result<Self> {
        let whole = |part: Option<ProcessGroup>| part.ok_or_else(|| no_part(group));
        let process = whole(group.split(Some(process as u64), 0)?)?;
        let leads = process.rank() == 0;
        let leaders = group.split(leads.then_some(0), 0)?;
        // Its ranks wait for the leader, which waits for other leaders.
        let process = process.with_timeout(group.timeout().saturating_mul(2));
        Ok(Self { process, leaders })
    }
}

fn no_part(group: &ProcessGroup) -> Error {
    Error::Order {
        rank: group.global_rank(),
        message: "the ranks of this process could not be told apart".to_owned(),
    }
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

/// How the devices of a process add up.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// The numbers of the devices of the process's ranks.
    numbers: Vec<usize>,
    /// Whether there are other processes.
    beyond: bool,
}

/// How devices add up, for the ranks of one process, or why they can't.
fn decide(reports: &[Report], process: usize) -> std::result::Result<Plan, String> {
    let mut taken: Vec<(usize, usize)> = Vec::with_capacity(reports.len());
    for (rank, report) in reports.iter().enumerate() {
        if !report.wanted {
            return Err(format!("rank {rank} of the group is configured so"));
        }
        let device = match &report.device {
            Ok(number) => (report.process, *number),
            Err(why) => return Err(format!("rank {rank} of the group: {why}")),
        };
        if let Some(other) = taken.iter().position(|taken| *taken == device) {
            let number = device.1;
            return Err(format!(
                "ranks {other} and {rank} of the group share GPU {number}"
            ));
        }
        taken.push(device);
    }
    let own = |of: usize| taken.iter().filter(move |device| device.0 == of);
    if reports
        .iter()
        .all(|report| own(report.process).count() == 1)
    {
        return Err("no process has several GPUs".to_owned());
    }
    Ok(Plan {
        numbers: own(process).map(|device| device.1).collect(),
        beyond: reports.iter().any(|report| report.process != process),
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
    //! This rank's device, if it is one that can average.

    use crate::ddp::fabric::{Alone, Fabric, Nccl, Taken};
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
            if let [_] = numbers {
                return Box::new(Alone);
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
    fn devices_add_up_in_the_order_of_their_ranks() {
        let numbers = vec![2, 0];
        let beyond = false;
        assert_eq!(
            decide(&[report(2), report(0)], 3),
            Ok(Plan { numbers, beyond })
        );
    }

    #[test]
    fn devices_of_each_process_add_up_by_themselves() {
        let other = |device| Report {
            process: 4,
            ..report(device)
        };
        let reports = [report(1), report(0), other(0)];
        for (process, numbers) in [(3, vec![1, 0]), (4, vec![0])] {
            let beyond = true;
            assert_eq!(decide(&reports, process), Ok(Plan { numbers, beyond }));
        }
        let why = decide(&[report(1), other(1)], 3).unwrap_err();
        assert!(why.contains("no process has several"), "{why}");
    }

    #[test]
    fn what_keeps_devices_from_adding_up_is_named() {
        let unwanted = Report {
            wanted: false,
            ..report(1)
        };
        let unable = Report {
            device: Err("no NCCL".to_owned()),
            ..report(1)
        };
        for (other, part) in [
            (unwanted, "rank 1 of the group is configured so"),
            (unable, "rank 1 of the group: no NCCL"),
            (report(0), "ranks 0 and 1 of the group share GPU 0"),
        ] {
            let why = decide(&[report(0), other], 3).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
