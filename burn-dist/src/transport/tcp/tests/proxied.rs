//! Networks whose connections go through proxies.

use std::fmt::Write as _;

use socket2::SockRef;

use super::*;
use crate::net::proxy::{Proxy, Weather};

/// The most bytes that a system takes of a connection before its writes are short.
const NARROW: usize = 2048;
/// Within how many bytes of a connection a harm lies: few runs exchange less.
const REACH: usize = 20_000;

/// Result of connecting the processes of a job.
pub(crate) struct Connected {
    /// Of the processes that were connected, in their order.
    pub(crate) networks: Vec<Arc<TcpNetwork>>,
    /// Errors of the others.
    pub(crate) failures: Vec<String>,
    pub(crate) weather: String,
    /// They must live as long as the networks.
    pub(crate) proxies: Vec<Proxy>,
}

/// Connects processes, each pair through a proxy of its own; one of them has a harm, if `harmful`.
pub(crate) fn connect_through(
    seed: u64,
    processes: usize,
    harmful: bool,
    heartbeat: Duration,
    deadline: Instant,
) -> Connected {
    let mut places = places(Ipv4Addr::LOCALHOST.into(), processes, heartbeat);
    let (mut proxies, mut weather) = (Vec::new(), String::new());
    let pairs = processes * (processes - 1) / 2;
    let addresses = places[0].addresses.clone();
    for place in &mut places {
        for (called, address) in addresses.iter().enumerate().take(place.process) {
            let number = proxies.len();
            let harmed = harmful && number == (seed / 2) as usize % pairs;
            let of_pair = Weather::from_seed(seed * 100 + number as u64, harmed, REACH);
            let _ = write!(weather, "\n  {} to {called}: {of_pair}", place.process);
            let proxy = Proxy::new(*address, of_pair);
            place.addresses[called] = proxy.address;
            proxies.push(proxy);
        }
    }
    let joining: Vec<_> = places
        .into_iter()
        .map(|place| thread::spawn(move || connect(place, deadline, &mut || None)))
        .collect();
    let (mut networks, mut failures) = (Vec::new(), Vec::new());
    for thread in joining {
        match thread.join().unwrap() {
            Ok(network) => {
                for connection in network.mesh.all() {
                    let socket = SockRef::from(connection.stream.socket());
                    socket.set_send_buffer_size(NARROW).unwrap();
                }
                networks.push(network);
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    Connected {
        networks,
        failures,
        weather,
        proxies,
    }
}

#[test]
fn large_messages_arrive_in_pieces() {
    let deadline = Instant::now() + LONG;
    for seed in [0, 2, 4] {
        let connected = connect_through(seed, 2, false, CALM, deadline);
        let [first, second] = &connected.networks[..] else {
            panic!("{:?}", connected.failures)
        };
        thread::scope(|scope| {
            for (from, to) in [(first, second), (second, first)] {
                scope.spawn(move || {
                    let body = bytes(from.process(), 300_001);
                    from.send(to.process(), tag(0), b"head", &body, deadline)
                        .unwrap();
                });
                scope.spawn(move || {
                    let (head, body) = to.receive(from.process(), tag(0), deadline).unwrap();
                    assert_eq!(head, b"head");
                    assert!(body == bytes(from.process(), 300_001));
                });
            }
        });
        close_all(&connected.networks);
    }
}
