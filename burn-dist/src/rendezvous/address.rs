//! Addresses of process 0 and of this machine, and the check that no port is open to strangers without a secret.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

use crate::error::JoinFailure;
use crate::net::secret::Secret;

/// The addresses of a host. The system's resolver has a deadline of its own.
pub(super) fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, JoinFailure> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| JoinFailure::Unresolved(error.to_string()))?
        .collect();
    if addresses.is_empty() {
        return Err(JoinFailure::Unresolved("it has no address".to_owned()));
    }
    Ok(addresses)
}

/// The address by which others reach an interface, given by its name or by an address; of several the
/// first of the same kind (IPv4 or IPv6) as `like`.
pub(super) fn of_interface(interface: &str, like: IpAddr) -> Result<IpAddr, JoinFailure> {
    if let Ok(address) = interface.parse() {
        return Ok(address);
    }
    let all = if_addrs::get_if_addrs().map_err(|error| JoinFailure::System {
        what: "the list of its network interfaces",
        detail: error.to_string(),
    })?;
    choose(
        interface,
        like,
        all.into_iter().map(|one| (one.name.clone(), one.ip())),
    )
}

fn choose(
    interface: &str,
    like: IpAddr,
    all: impl IntoIterator<Item = (String, IpAddr)>,
) -> Result<IpAddr, JoinFailure> {
    let mut by_name = BTreeMap::<String, Vec<IpAddr>>::new();
    for (name, address) in all {
        let addresses = by_name.entry(name).or_default();
        // Those are of use only together with an interface of the other side.
        if !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            addresses.push(address);
        }
    }
    let addresses = by_name.get(interface).into_iter().flatten();
    let other_kind = |address: &&IpAddr| address.is_ipv6() != like.is_ipv6();
    // The first of the right kind, else the first.
    if let Some(address) = addresses.min_by_key(other_kind) {
        return Ok(*address);
    }
    let described = by_name.iter().map(|(name, addresses)| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        format!("{name} ({})", addresses.join(", "))
    });
    let described: Vec<_> = described.collect();
    let problem = if by_name.contains_key(interface) {
        "the network interface has no address that others could reach"
    } else {
        "this is no address, and no network interface of this machine has this name"
    };
    Err(JoinFailure::Configuration(format!(
        "{problem}; there are: {}",
        described.join(", ")
    )))
}

/// Listens on an address, where that is safe.
pub(super) fn listen(address: SocketAddr, secret: &Secret) -> Result<TcpListener, JoinFailure> {
    check_open(address.ip(), secret)?;
    // On Unix the standard library lets a port be used again at once after its last owner ended.
    TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => JoinFailure::PortTaken,
        _ => JoinFailure::Listen(error.to_string()),
    })
}

/// Refuses an address that other machines reach, where the secret is none or a short one.
pub(super) fn check_open(address: IpAddr, secret: &Secret) -> Result<(), JoinFailure> {
    if address.to_canonical().is_loopback() || secret.is_safe() {
        return Ok(());
    }
    Err(JoinFailure::NoSecret {
        short: !secret.is_empty(),
    })
}

/// Listens for process 0's store: on the interface it was given, else on the first of the master's
/// addresses that is one of this machine.
pub(super) fn listen_as_master(
    master: &[SocketAddr],
    interface: Option<IpAddr>,
    port: u16,
    secret: &Secret,
) -> Result<TcpListener, (SocketAddr, JoinFailure)> {
    let given = interface.map(|ip| SocketAddr::new(ip, port));
    let mut failed = None;
    for &address in given
        .as_slice()
        .iter()
        .chain(if given.is_some() { &[] } else { master })
    {
        match listen(address, secret) {
            Ok(listener) => return Ok(listener),
            // Only "not an address of this machine" lets the next one be right.
            Err(failure @ JoinFailure::Listen(_)) => failed = failed.or(Some((address, failure))),
            Err(failure) => return Err((address, failure)),
        }
    }
    Err(failed.unwrap_or_else(|| {
        let nowhere = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port);
        (
            nowhere,
            JoinFailure::Unresolved("it has no address".to_owned()),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn only_loopback_may_do_without_a_secret() {
        let open = [
            "10.0.0.1",
            "0.0.0.0",
            "::",
            "fe80::1",
            "::ffff:10.0.0.1",
            "192.168.1.1",
        ];
        for address in open {
            let ip: IpAddr = address.parse().unwrap();
            let refused = listen(SocketAddr::new(ip, 0), &Secret::default()).unwrap_err();
            assert_eq!(refused, JoinFailure::NoSecret { short: false });
            assert!(refused.to_string().contains("openssl rand -hex 32"));
            let refused = check_open(ip, &Secret::new(b"short")).unwrap_err();
            assert_eq!(refused, JoinFailure::NoSecret { short: true });
            check_open(ip, &Secret::new(b"0123456789abcdef")).unwrap();
        }
        for address in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            check_open(address.parse().unwrap(), &Secret::default()).unwrap();
        }
    }

    #[test]
    fn a_taken_port_and_a_foreign_address_have_their_own_errors() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen(address, &Secret::default()).unwrap_err();
        assert_eq!(error, JoinFailure::PortTaken);
        // 192.0.2.0/24 is for documentation: no machine has it.
        let foreign = "192.0.2.1:0".parse().unwrap();
        let error = listen(foreign, &Secret::new(b"0123456789abcdef")).unwrap_err();
        assert!(matches!(error, JoinFailure::Listen(_)), "{error}");
    }

    #[test]
    fn an_interface_is_found_by_its_name_or_address() {
        let all = || {
            [
                ("lo", "127.0.0.1"),
                ("lo", "::1"),
                ("eth0", "fe80::1"),
                ("eth0", "2001:db8::5"),
                ("eth0", "10.0.0.5"),
                ("eth0", "10.0.0.6"),
                ("ib0", "2001:db8::7"),
                ("down", "fe80::9"),
            ]
            .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
        };
        let [v4, v6]: [IpAddr; 2] = ["10.9.9.9", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        for (name, like, expected) in [
            ("lo", v4, "127.0.0.1"),
            ("lo", v6, "::1"),
            ("eth0", v4, "10.0.0.5"),
            ("eth0", v6, "2001:db8::5"),
            ("ib0", v4, "2001:db8::7"),
        ] {
            let found = choose(name, like, all()).unwrap();
            assert_eq!(found.to_string(), expected, "{name}");
        }
        let unknown = choose("eth9", v4, all()).unwrap_err().to_string();
        let listed =
            "eth0 (2001:db8::5, 10.0.0.5, 10.0.0.6), ib0 (2001:db8::7), lo (127.0.0.1, ::1)";
        assert!(unknown.contains("no network interface"), "{unknown}");
        assert!(unknown.contains(listed), "{unknown}");
        let none = choose("down", v4, all()).unwrap_err().to_string();
        assert!(none.contains("has no address"), "{none}");
        // An address is itself, whoever has it.
        assert_eq!(
            of_interface("192.0.2.1", v6).unwrap().to_string(),
            "192.0.2.1"
        );
    }

    #[test]
    fn the_system_tells_its_interfaces() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        let unknown = of_interface("no such thing", loopback).unwrap_err();
        assert!(unknown.to_string().contains("127.0.0.1"), "{unknown}");
        if cfg!(target_os = "linux") {
            assert_eq!(of_interface("lo", loopback).unwrap(), loopback);
        }
    }

    #[test]
    fn the_master_listens_on_the_first_address_of_its_own() {
        let secret = Secret::new(b"0123456789abcdef");
        let master: Vec<SocketAddr> = ["192.0.2.1:0", "127.0.0.1:0"]
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        let listener = listen_as_master(&master, None, 0, &secret).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        // An interface replaces them all.
        let interface = Some("192.0.2.7".parse().unwrap());
        let (address, failure) = listen_as_master(&master, interface, 0, &secret).unwrap_err();
        assert_eq!(address.to_string(), "192.0.2.7:0");
        assert!(matches!(failure, JoinFailure::Listen(_)));
    }

    #[test]
    fn a_name_without_an_address_is_an_error_of_its_own() {
        let error = resolve("no such host", 1).unwrap_err();
        assert!(matches!(error, JoinFailure::Unresolved(_)), "{error}");
        assert_eq!(resolve("::1", 7).unwrap()[0].to_string(), "[::1]:7");
    }
}
