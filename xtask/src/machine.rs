//! What this machine has for training, found without Burn, to choose which backend to build.
//!
//! [`Machine`] holds the facts and [`Machine::best_backend`] decides from them alone, so that every
//! kind of machine can be tested. A wrong guess costs a build and no more: the program that is built
//! looks at the devices it really finds, and falls back to CPU replicas.

use std::path::{Path, PathBuf};

/// A backend that a program can be built with, next to the CPU backend, which it always has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// NVIDIA GPUs.
    Cuda,
    /// GPUs through Vulkan, Metal or Direct3D.
    Wgpu,
    /// No GPU.
    Cpu,
}

/// Kind of operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Linux,
    /// Metal is part of the system.
    MacOs,
    /// Direct3D is part of the system.
    Windows,
    Other,
}

/// The facts that the choice rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) system: System,
    /// The library through which programs reach an NVIDIA driver is there.
    pub(crate) cuda_library: bool,
    /// The kernel shows an NVIDIA GPU. A machine without one may well have the library: images for
    /// GPU machines bring it. Only looked for on Linux.
    pub(crate) nvidia_device: bool,
    /// The kernel drivers of the render devices (Linux only), such as `amdgpu`.
    pub(crate) render_drivers: Vec<String>,
    /// The Vulkan loader is there. Only looked for on Linux.
    pub(crate) vulkan_loader: bool,
}

/// Kernel drivers of real GPUs with a Vulkan driver in user space. Virtual devices (`virtio_gpu`,
/// `vgem`, `vkms`) are left out: behind them, Vulkan is a slow software renderer.
const GPU_DRIVERS: [&str; 8] = [
    "amdgpu", "asahi", "i915", "nouveau", "nvidia", "panthor", "v3d", "xe",
];

impl Machine {
    /// The backend to build for `--backend auto`: CUDA if there is an NVIDIA GPU, else any other GPU,
    /// else the CPU.
    pub(crate) fn best_backend(&self) -> Backend {
        let (nvidia, other) = match self.system {
            System::Linux => (
                self.cuda_library && self.nvidia_device,
                self.vulkan_loader
                    && self
                        .render_drivers
                        .iter()
                        .any(|d| GPU_DRIVERS.contains(&d.as_str())),
            ),
            System::Windows => (self.cuda_library, true),
            System::MacOs => (false, true),
            System::Other => (false, false),
        };
        match (nvidia, other) {
            (true, _) => Backend::Cuda,
            (false, true) => Backend::Wgpu,
            (false, false) => Backend::Cpu,
        }
    }

    /// Looks at this machine. What cannot be read counts as absent.
    pub(crate) fn observe() -> Self {
        let system = match std::env::consts::OS {
            "linux" => System::Linux,
            "macos" => System::MacOs,
            "windows" => System::Windows,
            _ => System::Other,
        };
        let root = Path::new("/");
        let linux = system == System::Linux;
        Self {
            system,
            cuda_library: match system {
                System::Linux => has_library(root, "libcuda.so.1"),
                System::Windows => windows_system_folder().join("nvcuda.dll").is_file(),
                System::MacOs | System::Other => false,
            },
            nvidia_device: linux && has_nvidia_device(root),
            render_drivers: if linux {
                render_drivers(root)
            } else {
                Vec::new()
            },
            vulkan_loader: linux && has_library(root, "libvulkan.so.1"),
        }
    }
}

/// Folders in which the distributions, WSL 2 and NixOS keep shared libraries.
const LIBRARY_FOLDERS: [&str; 11] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
    "usr/local/lib",
    "usr/lib/wsl/lib",
    "run/opengl-driver/lib",
];

/// True if the dynamic linker would find the library, by the folders it searches by default and those
/// that `LD_LIBRARY_PATH` adds.
fn has_library(root: &Path, name: &str) -> bool {
    let added = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    LIBRARY_FOLDERS
        .iter()
        .map(|folder| root.join(folder))
        .chain(std::env::split_paths(&added).filter(|folder| folder.is_absolute()))
        .any(|folder| folder.join(name).is_file())
}

/// True if the NVIDIA driver lists a GPU, or a container was given one, or WSL 2 shares the host's.
fn has_nvidia_device(root: &Path) -> bool {
    let listed = entries(&root.join("proc/driver/nvidia/gpus"))
        .next()
        .is_some();
    let given = entries(&root.join("dev")).any(|path| {
        let name = name_of(&path);
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    listed || given || root.join("dev/dxg").exists()
}

/// The names of the kernel drivers behind the render devices.
fn render_drivers(root: &Path) -> Vec<String> {
    entries(&root.join("sys/class/drm"))
        .filter(|path| name_of(path).starts_with("renderD"))
        .filter_map(|path| path.join("device/driver").canonicalize().ok())
        .map(|driver| name_of(&driver))
        .collect()
}

fn windows_system_folder() -> PathBuf {
    let windows = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
    PathBuf::from(windows).join("System32")
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let listing = std::fs::read_dir(folder).into_iter().flatten();
    listing.filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
