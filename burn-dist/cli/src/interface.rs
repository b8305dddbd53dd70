//! The network interfaces of this machine, by name or address.

use crate::error::Error;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The addresses of each interface that others could reach; none where the system refuses the list.
pub(crate) fn all() -> BTreeMap<String, Vec<IpAddr>> {
    let mut all = BTreeMap::<String, Vec<IpAddr>>::new();
    for one in if_addrs::get_if_addrs().unwrap_or_default() {
        // Link-local ones are of use only together with an interface of the other side.
        if !matches!(one.ip(), IpAddr::V6(address) if address.is_unicast_link_local()) {
            all.entry(one.name.clone()).or_default().push(one.ip());
        }
    }
    all
}

/// The address of the interface that has this name or address: IPv4 before IPv6.
///
/// # Errors
///
/// When there is none; it lists those that there are.
pub(crate) fn find(name: &str) -> Result<IpAddr, Error> {
    choose(name, &all())
}

fn choose(name: &str, all: &BTreeMap<String, Vec<IpAddr>>) -> Result<IpAddr, Error> {
    let by_name = all
        .get(name)
        .into_iter()
        .flatten()
        .min_by_key(|one| one.is_ipv6());
    let given = name.parse::<IpAddr>().ok();
    let by_address = given
        .as_ref()
        .filter(|given| all.values().flatten().any(|one| one == *given));
    by_name
        .or(by_address)
        .copied()
        .ok_or_else(|| Error::Interface {
            name: name.to_owned(),
            known: described(all),
        })
}

/// `eth0 (10.0.0.1, fd00::1), lo (127.0.0.1)`.
pub(crate) fn described(all: &BTreeMap<String, Vec<IpAddr>>) -> String {
    let each = all.iter().map(|(name, addresses)| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        format!("{name} ({})", addresses.join(", "))
    });
    let each: Vec<_> = each.collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> BTreeMap<String, Vec<IpAddr>> {
        let addresses = |list: &[&str]| list.iter().map(|one| one.parse().unwrap()).collect();
        BTreeMap::from([
            ("eth0".to_owned(), addresses(&["fd00::1", "10.0.0.1"])),
            ("ib0".to_owned(), addresses(&["fd00::2"])),
        ])
    }

    #[test]
    fn an_interface_is_found_by_name_or_address() {
        for (name, expected) in [
            ("eth0", "10.0.0.1"),
            ("ib0", "fd00::2"),
            ("10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(
                choose(name, &machine()).unwrap().to_string(),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn one_that_is_not_there_is_answered_with_those_that_are() {
        for name in ["nosuch", "10.0.0.2", ""] {
            let error = choose(name, &machine()).unwrap_err().to_string();
            let list = "eth0 (fd00::1, 10.0.0.1), ib0 (fd00::2)";
            assert!(error.contains(name) && error.contains(list), "{error}");
        }
    }
}
