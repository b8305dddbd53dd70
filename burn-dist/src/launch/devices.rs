//! Which devices replicas run on.
//!
//! Looking for GPUs must not crash where there is no driver, so each backend is only asked where the
//! system shows signs of one, and whatever it panics with counts as "none".

use crate::error::{Error, Result};
use crate::rendezvous::{JobConfig, VisibleGpus};
use burn::tensor::Device;
use std::fmt;
#[cfg(feature = "cube")]
use std::panic::AssertUnwindSafe;
use std::path::Path;

/// A kind of device to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Backend {
    /// CUDA GPUs if there are enough of them, else other GPUs, else the CPU.
    Auto,
    /// NVIDIA GPUs (feature `cuda`).
    Cuda,
    /// GPUs through Vulkan, Metal or Direct3D (feature `wgpu`).
    Wgpu,
    /// The CPU (feature `flex`): any number of replicas, each with its share of the cores.
    Cpu,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Cpu => "cpu",
        })
    }
}

/// The devices chosen for a job's replicas on this machine, with autodiff turned on.
#[derive(Clone, Debug)]
pub struct Devices {
    /// One for each replica.
    pub devices: Vec<Device>,
    /// The chosen backend; never [`Backend::Auto`].
    pub backend: Backend,
    /// One line for the user where `Auto` did not take a GPU, or not all is as it seems.
    pub note: Option<String>,
}

impl Devices {
    /// Chooses `count` devices. With `oversubscribe`, replicas share GPUs where there are too few.
    ///
    /// `Auto` falls back to the CPU where this build or this machine has too few GPUs, and says so in
    /// the note.
    ///
    /// # Errors
    ///
    /// [`Error::Devices`] if a backend that was asked for by name has too few devices, or is not in
    /// this build.
    pub fn select(backend: Backend, count: usize, oversubscribe: bool) -> Result<Self> {
        Self::share(backend, DeviceShare::alone(count), oversubscribe)
    }

    /// As [`select`](Self::select), for a process that has this machine's GPUs together with other
    /// processes of its job, as the launcher told [`JobConfig::from_env`]: each takes `count` of its own,
    /// in the order of [`JobConfig::local_process`]. Where a launcher shows every process other GPUs (by
    /// `CUDA_VISIBLE_DEVICES`, or in a container of its own), it takes those it sees.
    ///
    /// # Errors
    ///
    /// As [`select`](Self::select); there are too few devices if there are not enough for all processes
    /// of this machine.
    pub fn select_for(
        job: Option<&JobConfig>,
        backend: Backend,
        count: usize,
        oversubscribe: bool,
    ) -> Result<Self> {
        Self::share(backend, DeviceShare::of(job, count), oversubscribe)
    }

    fn share(backend: Backend, share: DeviceShare, oversubscribe: bool) -> Result<Self> {
        match backend {
            Backend::Auto => automatic(share, oversubscribe),
            Backend::Cpu => cpu(share.count, None),
            Backend::Cuda | Backend::Wgpu => {
                let found = gpus(backend, true).ok_or_else(|| Error::Devices {
                    message: format!(
                        "this program was built without the {backend} backend; build it with \
                         burn-dist's feature `{backend}`"
                    ),
                })?;
                assign(backend, &found, share, oversubscribe)
                    .ok_or_else(|| too_few(backend, found.len(), share.needed(found.len())))
            }
        }
    }
}

/// A process's part of its machine's devices.
#[derive(Clone, Copy, Debug)]
struct DeviceShare {
    /// Number of devices it takes.
    count: usize,
    /// Number of devices taken by the processes that choose before it.
    before: usize,
    /// Number of devices that all processes of the machine take, if known.
    whole: Option<usize>,
    /// True if the launcher shows this process so many CUDA GPUs, and other GPUs to the other processes.
    shown: bool,
}

impl DeviceShare {
    fn alone(count: usize) -> Self {
        let (before, whole) = (0, Some(count));
        Self {
            count,
            before,
            whole,
            shown: false,
        }
    }

    fn of(job: Option<&JobConfig>, count: usize) -> Self {
        let place = job.and_then(JobConfig::local_process).unwrap_or(0);
        let processes = job.and_then(JobConfig::local_processes);
        let share = Self {
            count,
            before: place.saturating_mul(count),
            whole: processes.map(|processes| processes.saturating_mul(count)),
            shown: false,
        };
        let shown = job.is_some_and(|job| share.is_shown(job.visible_gpus()));
        Self { shown, ..share }
    }

    /// True if what the launcher shows is this process's alone. A list that somebody has exported for all
    /// processes of the machine is not.
    fn is_shown(self, gpus: &VisibleGpus) -> bool {
        let Some(list) = &gpus.list else {
            return false;
        };
        let entries: Vec<&str> = list.split(',').map(str::trim).collect();
        if entries.len() != self.count {
            return false;
        }
        if gpus.by_slurm {
            // It renumbers them from 0 for each task.
            return gpus.on_node.is_none_or(|all| Some(all) >= self.whole);
        }
        let numbers: Option<Vec<usize>> = entries.iter().map(|entry| entry.parse().ok()).collect();
        let own = self.before..self.before.saturating_add(self.count);
        numbers.is_some_and(|numbers| numbers.into_iter().eq(own))
    }

    /// True if the devices found are this process's alone, because the launcher shows other devices to the
    /// other processes.
    fn is_all_of(self, found: usize) -> bool {
        (self.whole.is_none() || self.shown) && found == self.count
    }

    /// Returns the number of devices there must be.
    fn needed(self, found: usize) -> usize {
        if self.is_all_of(found) {
            return found;
        }
        self.whole.unwrap_or(self.before.saturating_add(self.count))
    }

    /// The first of its devices.
    fn first(self, found: usize) -> usize {
        if self.is_all_of(found) {
            0
        } else {
            self.before % found.max(1)
        }
    }
}

fn automatic(share: DeviceShare, oversubscribe: bool) -> Result<Devices> {
    let count = share.count;
    let (mut seen, mut needed) = (Vec::new(), count);
    for backend in [Backend::Cuda, Backend::Wgpu] {
        let found = gpus(backend, false).unwrap_or_default();
        if let Some(devices) = assign(backend, &found, share, oversubscribe) {
            return Ok(devices);
        }
        if !found.is_empty() {
            needed = share.needed(found.len());
            seen.push(format!("{} {backend} GPU(s)", found.len()));
        }
    }
    let unused = !seen.is_empty() || nvidia_device();
    let why = if !seen.is_empty() {
        format!(
            "found {} for {needed} replicas on this machine (oversubscribe to share)",
            seen.join(" and ")
        )
    } else if cfg!(feature = "cube") {
        "no GPU found".to_owned()
    } else {
        "this program was built without a GPU backend (burn-dist's features `cuda` and `wgpu`)"
            .to_owned()
    };
    let note = format!("{why}: training {count} replica(s) on the CPU");
    if unused {
        // In every process: each sees other GPUs, and all wait for the slowest.
        tracing::warn!("{note}, although there are GPUs");
    }
    cpu(count, Some(note))
}

#[cfg(feature = "flex")]
#[expect(
    clippy::unnecessary_wraps,
    reason = "fails in builds without the CPU backend"
)]
fn cpu(count: usize, note: Option<String>) -> Result<Devices> {
    Ok(Devices {
        devices: vec![Device::flex().autodiff(); count],
        backend: Backend::Cpu,
        note,
    })
}

#[cfg(not(feature = "flex"))]
fn cpu(_count: usize, note: Option<String>) -> Result<Devices> {
    let note = note.map(|note| format!("{note}, but ")).unwrap_or_default();
    Err(Error::Devices {
        message: format!(
            "{note}this program was built without the CPU backend; build it with burn-dist's \
             feature `flex`"
        ),
    })
}

/// Gives each replica a device; `None` if there are too few.
fn assign(
    backend: Backend,
    found: &[Device],
    share: DeviceShare,
    oversubscribe: bool,
) -> Option<Devices> {
    // What CUDA is shown says nothing of other backends.
    let shown = share.shown && backend == Backend::Cuda;
    let share = DeviceShare { shown, ..share };
    let needed = share.needed(found.len());
    let enough = found.len() >= needed || (oversubscribe && !found.is_empty());
    enough.then(|| Devices {
        devices: found
            .iter()
            .cycle()
            .skip(share.first(found.len()))
            .take(share.count)
            .map(|device| device.clone().autodiff())
            .collect(),
        backend,
        note: (found.len() < needed)
            .then(|| format!("{needed} replicas share {} {backend} GPU(s)", found.len())),
    })
}

fn too_few(backend: Backend, found: usize, count: usize) -> Error {
    let instead = if found == 0 {
        "check the GPU's driver, or train on the CPU backend".to_owned()
    } else {
        format!(
            "train {found} replica(s), let replicas share GPUs (oversubscribe: also where the launcher \
             shows each process GPUs of its own, in another way than 0, 1, 2 in CUDA_VISIBLE_DEVICES), or \
             train on the CPU backend"
        )
    };
    Error::Devices {
        message: format!(
            "found {found} {backend} GPU(s) for {count} replicas on this machine; {instead}"
        ),
    }
}

/// The GPUs of a backend; `None` if it is not in this build. Software renderers count only where the
/// backend was asked for by name.
fn gpus(backend: Backend, software: bool) -> Option<Vec<Device>> {
    match backend {
        #[cfg(feature = "cuda")]
        Backend::Cuda if !nvidia_driver() => Some(Vec::new()),
        #[cfg(feature = "cuda")]
        Backend::Cuda => Some(enumerate(burn::tensor::DeviceType::Cuda)),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => {
            let mut found = enumerate(burn::tensor::DeviceType::Wgpu);
            found.retain(|device| software || !is_software(device));
            Some(found)
        }
        _ => {
            let _ = software;
            None
        }
    }
}

#[cfg(feature = "cube")]
fn enumerate(kind: burn::tensor::DeviceType) -> Vec<Device> {
    std::panic::catch_unwind(|| Device::enumerate(kind).into_vec()).unwrap_or_default()
}

/// True if the system shows an NVIDIA driver. Where it can't be seen, the driver is asked.
#[cfg(feature = "cuda")]
fn nvidia_driver() -> bool {
    !cfg!(target_os = "linux") || nvidia_device()
}

/// True if the system's files show an NVIDIA GPU with its driver.
fn nvidia_device() -> bool {
    ["/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg"]
        .iter()
        .any(|path| Path::new(path).exists())
}

/// True if a device is a software renderer, or one that wgpu can't tell from it.
#[cfg(feature = "wgpu")]
fn is_software(device: &Device) -> bool {
    use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
    match device.as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Wgpu(device)) => {
            matches!(device.kind, WgpuDeviceKind::Cpu | WgpuDeviceKind::Other(_))
        }
        _ => false,
    }
}

/// True if the device is the CPU backend, which computes on the rayon pool it is called from.
#[cfg(feature = "flex")]
pub(super) fn on_flex(device: &Device) -> bool {
    use burn::backend::DispatchDevice;
    matches!(
        device.clone().without_autodiff().as_dispatch(),
        DispatchDevice::Flex(_)
    )
}

/// Without the CPU backend there are no such devices.
#[cfg(not(feature = "flex"))]
pub(super) fn on_flex(_device: &Device) -> bool {
    false
}

/// Description of a device for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its name; that of the backend where it has none.
    pub(crate) name: String,
    /// True for the CPU backend, which computes on the rayon pool it is called from.
    pub(crate) on_cpu: bool,
    /// True if it is known to be a software renderer.
    pub(crate) software: bool,
}

impl Kind {
    /// Asks a device that is in use.
    pub(crate) fn of(device: &Device) -> Self {
        let on_cpu = on_flex(device);
        let name = if on_cpu {
            "CPU".to_owned()
        } else {
            name(device).unwrap_or_else(|| format!("{:?}", device.clone().without_autodiff()))
        };
        let lower = name.to_lowercase();
        let software = [
            "llvmpipe",
            "lavapipe",
            "swiftshader",
            "softpipe",
            "basic render",
        ];
        Self {
            software: software.iter().any(|part| lower.contains(part)),
            on_cpu,
            name,
        }
    }
}

/// The name that the driver gives a GPU.
#[cfg(feature = "cube")]
fn name(device: &Device) -> Option<String> {
    // It is only asked; a driver that panics leaves nothing half done here.
    let identity = std::panic::catch_unwind(AssertUnwindSafe(|| device.identity()));
    let name = identity.ok().flatten()?.name;
    (!name.is_empty()).then_some(name)
}

/// Without GPUs there is none.
#[cfg(not(feature = "cube"))]
fn name(_device: &Device) -> Option<String> {
    None
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_room_for_any_number() {
        let chosen = Devices::select(Backend::Cpu, 5, false).unwrap();
        assert_eq!((chosen.devices.len(), chosen.backend), (5, Backend::Cpu));
        assert!(chosen.devices.iter().all(Device::is_autodiff));
    }

    #[test]
    fn too_few_gpus_are_an_error_that_says_what_to_do() {
        let devices = [Device::flex()];
        assert!(assign(Backend::Cuda, &devices, DeviceShare::alone(2), false).is_none());
        assert!(assign(Backend::Cuda, &[], DeviceShare::alone(1), true).is_none());
        let shared = assign(Backend::Cuda, &devices, DeviceShare::alone(2), true).unwrap();
        assert_eq!(shared.devices.len(), 2);
        assert!(shared.note.unwrap().contains("share 1 cuda GPU"));
        let error = too_few(Backend::Cuda, 1, 2).to_string();
        assert!(
            error.contains("found 1 cuda GPU(s) for 2 replicas"),
            "{error}"
        );
    }

    #[test]
    fn processes_of_one_machine_take_gpus_of_their_own() {
        let share = |process: usize, processes, count| DeviceShare {
            count,
            before: process * count,
            whole: processes,
            shown: false,
        };
        // Where the process's devices begin among those found; none if they are too few.
        let first = |share: DeviceShare, found| {
            let enough = share.needed(found) <= found;
            enough.then(|| share.first(found))
        };
        for (process, begin) in [(0, 0), (1, 2), (2, 4)] {
            assert_eq!(first(share(process, Some(6), 2), 6), Some(begin));
            // All of them find it out alike.
            assert_eq!(first(share(process, Some(6), 2), 5), None);
        }
        // Where nobody tells the number of processes, the GPUs are the node's, or the process's own.
        assert_eq!(first(share(1, None, 2), 8), Some(2));
        assert_eq!(first(share(3, None, 2), 2), Some(0));
        assert_eq!(first(share(3, None, 2), 4), None);
        // Those that share go round.
        assert_eq!(share(3, Some(4), 1).first(2), 1);
        let two = vec![Device::flex(); 2];
        let chosen = assign(Backend::Cuda, &two, share(3, Some(4), 1), true).unwrap();
        assert_eq!(chosen.devices.len(), 1);
        assert!(chosen.note.unwrap().contains("4 replicas share 2 cuda"));
    }

    #[test]
    fn a_process_s_share_is_what_its_launcher_says() {
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "1"),
        ];
        let job = JobConfig::from_variables(&|name| {
            let found = torchrun.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        });
        let share = DeviceShare::of(job.unwrap().as_ref(), 3);
        assert_eq!((share.count, share.before, share.whole), (3, 3, Some(12)));
        let share = DeviceShare::of(None, 3);
        assert_eq!((share.count, share.before, share.whole), (3, 0, None));
    }

    /// The share of a process with one replica, whose launcher says this.
    fn share_of(variables: &[(&str, &str)]) -> DeviceShare {
        let job = JobConfig::from_variables(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        });
        DeviceShare::of(job.ok().flatten().as_ref(), 1)
    }

    #[test]
    fn one_visible_gpu_per_process_is_its_own() {
        let one = [Device::flex()];
        let taken = |share| assign(Backend::Cuda, &one, share, false).is_some();
        let torchrun = |local, list| {
            share_of(&[
                ("RANK", local),
                ("WORLD_SIZE", "4"),
                ("LOCAL_RANK", local),
                ("LOCAL_WORLD_SIZE", "4"),
                ("MASTER_ADDR", "node0"),
                ("MASTER_PORT", "1"),
                ("CUDA_VISIBLE_DEVICES", list),
            ])
        };
        assert!(taken(torchrun("0", "0")));
        assert!(taken(torchrun("2", "2")));
        // One list that was exported for all of them, or may have been, or one that shows more.
        assert!(!taken(torchrun("2", "0")));
        assert!(!taken(torchrun(
            "2",
            "MIG-8932f937-d72c-4106-c12f-20bd9faed9f6"
        )));
        assert!(!taken(torchrun("2", "2,3")));
        assert!(!taken(torchrun("2", "")));
        // Other backends do not heed it.
        let share = torchrun("2", "2");
        assert!(assign(Backend::Wgpu, &one, share, false).is_none());
    }

    #[test]
    fn slurm_renumbers_the_gpus_of_each_task() {
        let one = [Device::flex()];
        let taken = |on_node| {
            let share = share_of(&[
                ("SLURM_PROCID", "2"),
                ("SLURM_LOCALID", "2"),
                ("SLURM_STEP_NUM_TASKS", "4"),
                ("SLURM_STEP_TASKS_PER_NODE", "4"),
                ("SLURM_STEP_NODELIST", "gpu1"),
                ("SLURM_GPUS_ON_NODE", on_node),
                ("CUDA_VISIBLE_DEVICES", "0"),
            ]);
            assert_eq!(share.whole, Some(4));
            assign(Backend::Cuda, &one, share, false).is_some()
        };
        assert!(taken("4"));
        assert!(!taken("1"), "four tasks share it");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_that_was_not_built_is_named() {
        let error = Devices::select(Backend::Cuda, 1, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("feature `cuda`"), "{error}");
    }
}
