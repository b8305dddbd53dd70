use super::*;

fn linux() -> Machine {
    Machine {
        system: System::Linux,
        cuda_library: false,
        nvidia_device: false,
        render_drivers: Vec::new(),
        vulkan_loader: false,
    }
}

fn on(system: System) -> Machine {
    Machine { system, ..linux() }
}

#[test]
fn cuda_needs_both_the_library_and_a_gpu() {
    let both = Machine {
        cuda_library: true,
        nvidia_device: true,
        ..linux()
    };
    assert_eq!(both.best_backend(), Backend::Cuda);
    let library = Machine {
        cuda_library: true,
        ..linux()
    };
    assert_eq!(library.best_backend(), Backend::Cpu);
    let gpu = Machine {
        nvidia_device: true,
        ..linux()
    };
    assert_eq!(gpu.best_backend(), Backend::Cpu);
}

#[test]
fn cuda_goes_before_another_gpu() {
    let both = Machine {
        cuda_library: true,
        nvidia_device: true,
        render_drivers: vec!["i915".into(), "nvidia".into()],
        vulkan_loader: true,
        ..linux()
    };
    assert_eq!(both.best_backend(), Backend::Cuda);
}

#[test]
fn another_gpu_needs_a_real_driver_and_vulkan() {
    let with = |drivers: &[&str], vulkan_loader| Machine {
        render_drivers: drivers.iter().map(ToString::to_string).collect(),
        vulkan_loader,
        ..linux()
    };
    for real in GPU_DRIVERS {
        assert_eq!(with(&[real], true).best_backend(), Backend::Wgpu, "{real}");
        assert_eq!(with(&[real], false).best_backend(), Backend::Cpu, "{real}");
    }
    for virtual_ in [
        "virtio_gpu",
        "virtio-pci",
        "vgem",
        "vkms",
        "simple-framebuffer",
    ] {
        assert_eq!(
            with(&[virtual_], true).best_backend(),
            Backend::Cpu,
            "{virtual_}"
        );
    }
    assert_eq!(
        with(&["vgem", "amdgpu"], true).best_backend(),
        Backend::Wgpu
    );
    assert_eq!(with(&[], true).best_backend(), Backend::Cpu);
}

#[test]
fn other_systems() {
    assert_eq!(on(System::MacOs).best_backend(), Backend::Wgpu);
    assert_eq!(on(System::Windows).best_backend(), Backend::Wgpu);
    let nvidia = Machine {
        cuda_library: true,
        ..on(System::Windows)
    };
    assert_eq!(nvidia.best_backend(), Backend::Cuda);
    assert_eq!(on(System::Other).best_backend(), Backend::Cpu);
}

/// A folder that stands for `/`, removed at the end.
#[cfg(unix)]
struct Root(tempfile::TempDir);

#[cfg(unix)]
impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn folder(&self, path: &str) -> PathBuf {
        let folder = self.path().join(path);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn file(&self, folder: &str, name: &str) {
        std::fs::write(self.folder(folder).join(name), "").unwrap();
    }
}

#[cfg(unix)]
#[test]
fn an_nvidia_gpu_is_seen_by_each_of_its_traces() {
    let root = Root::new();
    assert!(!has_nvidia_device(root.path()));
    root.folder("proc/driver/nvidia/gpus");
    for control in ["nvidiactl", "nvidia-uvm", "nvidia", "nvidia-modeset"] {
        root.file("dev", control);
    }
    assert!(!has_nvidia_device(root.path()), "a driver without a GPU");

    root.folder("proc/driver/nvidia/gpus/0000:01:00.0");
    assert!(has_nvidia_device(root.path()), "listed by the driver");

    for trace in ["nvidia0", "nvidia12", "dxg"] {
        let root = Root::new();
        root.file("dev", trace);
        assert!(has_nvidia_device(root.path()), "{trace}");
    }
}

#[cfg(unix)]
#[test]
fn render_devices_name_their_driver() {
    let root = Root::new();
    assert_eq!(render_drivers(root.path()), Vec::<String>::new());
    for (node, driver) in [
        ("renderD128", Some("amdgpu")),
        ("card0", Some("i915")),
        ("renderD129", None),
    ] {
        let device = root.folder(&format!("sys/class/drm/{node}/device"));
        if let Some(driver) = driver {
            let target = root.folder(&format!("sys/bus/pci/drivers/{driver}"));
            std::os::unix::fs::symlink(target, device.join("driver")).unwrap();
        }
    }
    assert_eq!(render_drivers(root.path()), ["amdgpu"]);
}

#[cfg(unix)]
#[test]
fn a_library_is_found_in_the_usual_folders() {
    let name = "libof-no-real-machine.so.1";
    for folder in LIBRARY_FOLDERS {
        let root = Root::new();
        assert!(!has_library(root.path(), name));
        root.file(folder, name);
        assert!(has_library(root.path(), name), "{folder}");
    }
}
