//! Which devices replicas run on.
//!
//! Looking for GPUs must not crash where there is no driver, so each backend is only asked where the
//! system shows signs of one, and whatever it panics with counts as "none".
//!
//! Callers: training programs, before [`launch`](super::launch()).

use crate::error::{Error, Result};
use burn::tensor::Device;
use std::fmt;

/// A kind of device to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// What was chosen; never [`Backend::Auto`].
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
        match backend {
            Backend::Auto => automatic(count, oversubscribe),
            Backend::Cpu => cpu(count, None),
            Backend::Cuda | Backend::Wgpu => {
                let found = gpus(backend, true).ok_or_else(|| Error::Devices {
                    message: format!(
                        "this program was built without the {backend} backend; build it with \
                         burn-dist's feature `{backend}`"
                    ),
                })?;
                assign(backend, &found, count, oversubscribe)
                    .ok_or_else(|| too_few(backend, found.len(), count))
            }
        }
    }
}

fn automatic(count: usize, oversubscribe: bool) -> Result<Devices> {
    let mut seen = Vec::new();
    for backend in [Backend::Cuda, Backend::Wgpu] {
        let found = gpus(backend, false).unwrap_or_default();
        if let Some(devices) = assign(backend, &found, count, oversubscribe) {
            return Ok(devices);
        }
        if !found.is_empty() {
            seen.push(format!("{} {backend} GPU(s)", found.len()));
        }
    }
    let why = if seen.is_empty() {
        "no GPU found".to_owned()
    } else {
        format!(
            "found {} for {count} replicas (oversubscribe to share)",
            seen.join(" and ")
        )
    };
    cpu(
        count,
        Some(format!("{why}: training {count} replica(s) on the CPU")),
    )
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
    count: usize,
    oversubscribe: bool,
) -> Option<Devices> {
    let enough = found.len() >= count || (oversubscribe && !found.is_empty());
    enough.then(|| Devices {
        devices: found
            .iter()
            .cycle()
            .take(count)
            .map(|device| device.clone().autodiff())
            .collect(),
        backend,
        note: (found.len() < count)
            .then(|| format!("{count} replicas share {} {backend} GPU(s)", found.len())),
    })
}

fn too_few(backend: Backend, found: usize, count: usize) -> Error {
    let instead = if found == 0 {
        "check the GPU's driver, or train on the CPU backend".to_owned()
    } else {
        format!(
            "train {found} replica(s), let replicas share GPUs (oversubscribe), or train on the \
                 CPU backend"
        )
    };
    Error::Devices {
        message: format!("found {found} {backend} GPU(s) for {count} replicas; {instead}"),
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

/// Whether the system shows an NVIDIA driver. Where it can't be seen, the driver is asked.
#[cfg(feature = "cuda")]
fn nvidia_driver() -> bool {
    use std::path::Path;
    !cfg!(target_os = "linux")
        || ["/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg"]
            .iter()
            .any(|path| Path::new(path).exists())
}

/// Whether a device is a software renderer, or one that wgpu can't tell from it.
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
        assert!(assign(Backend::Cuda, &devices, 2, false).is_none());
        assert!(assign(Backend::Cuda, &[], 1, true).is_none());
        let shared = assign(Backend::Cuda, &devices, 2, true).unwrap();
        assert_eq!(shared.devices.len(), 2);
        assert!(shared.note.unwrap().contains("share 1 cuda GPU"));
        let error = too_few(Backend::Cuda, 1, 2).to_string();
        assert!(
            error.contains("found 1 cuda GPU(s) for 2 replicas"),
            "{error}"
        );
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
