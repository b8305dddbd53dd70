//! What a machine says of itself: its name, its cores, its network interfaces.
//!
//! What can't be found out is absent, and no error: a preflight says what it can.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZero;
use std::path::Path;
use std::thread;

/// No machine has a core of a higher number.
const MOST_CPUS: u32 = 1 << 16;

/// A network interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// True if only this machine reaches it.
    pub loopback: bool,
    /// Rate of its link in megabits a second; only Linux tells it, and only of some.
    pub megabits: Option<u64>,
}

impl Interface {
    /// All interfaces of this machine that have an address and are up; none where the system refuses
    /// the list.
    pub(super) fn all() -> Vec<Self> {
        let mut by_name = BTreeMap::<String, Self>::new();
        for one in if_addrs::get_if_addrs().unwrap_or_default() {
            let (name, address, loopback) = (one.name.clone(), one.ip(), one.is_loopback());
            let interface = by_name.entry(name).or_insert_with_key(|name| Self {
                name: name.clone(),
                addresses: Vec::new(),
                loopback,
                megabits: megabits(Path::new("/sys/class/net"), name),
            });
            interface.addresses.push(address);
        }
        by_name.into_values().collect()
    }
}

/// Reads the rate of an interface's link from the kernel, for which a negative number means "unknown".
fn megabits(folder: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join(name).join("speed")).ok()?;
    let speed: i64 = text.trim().parse().ok()?;
    u64::try_from(speed).ok().filter(|&speed| speed > 0)
}

/// The machine's name; a container has its own.
pub(super) fn name() -> String {
    let file = |path| std::fs::read_to_string(path).ok();
    let variable = || std::env::var("COMPUTERNAME").ok();
    file("/proc/sys/kernel/hostname")
        .or_else(|| file("/etc/hostname"))
        .or_else(variable)
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Returns the number of cores this process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The numbers of the cores that this process may run on; none where the system doesn't tell. It may be
/// granted less of their time than all ([`cores`]).
pub(super) fn cpus() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.and_then(numbers).unwrap_or_default()
}

/// Reads `0-3,8`.
fn numbers(list: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > MOST_CPUS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_cores_and_a_loopback() {
        assert!(!name().is_empty());
        assert!(cores() > 0);
        let loopback = Interface::all().into_iter().find(|one| one.loopback);
        let addresses = loopback.unwrap().addresses;
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(numbers("\t0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(numbers("5"), Some(vec![5]));
        for odd in ["", "a", "1-", "0-4294967295", "1,,2"] {
            assert_eq!(numbers(odd), None, "{odd}");
        }
        #[cfg(target_os = "linux")]
        assert!(cpus().len() >= cores());
    }

    #[test]
    fn a_link_s_speed_is_what_the_kernel_says_or_unknown() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, expected) in [
            ("eth0", "1000\n", Some(1000)),
            ("wlan0", "-1\n", None),
            ("tun0", "0\n", None),
            ("odd0", "fast\n", None),
        ] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("speed"), text).unwrap();
            assert_eq!(megabits(folder.path(), name), expected, "{name}");
        }
        assert_eq!(megabits(folder.path(), "absent"), None);
    }
}
