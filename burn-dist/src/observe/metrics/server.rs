//! Answers `GET /metrics`, and nothing else, to several clients at once.
//!
//! Threads: `burn-dist-metrics` accepts; `burn-dist-metrics-N` answers client N. All end when the endpoint is dropped.
//! Of more than [`MAX_CLIENTS`], the oldest is closed.

use super::Metrics;
use super::client;
use crate::error::{Error, Result};
use crate::net::acceptor::{Acceptor, PortLimits, Service};
use crate::net::rejects::Reject;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most clients at once.
const MAX_CLIENTS: usize = 32;

/// Time of one client in all.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The port of the metrics, and the metrics.
#[derive(Debug)]
pub(in crate::observe) struct Endpoint(Acceptor<Scrapes>);

impl Endpoint {
    /// Listens on `PORT` of this machine alone, or on `HOST:PORT`.
    pub(in crate::observe) fn start(address: &str) -> Result<Self> {
        let wrong = |message: String| Error::Observe {
            what: "metrics can't be served at",
            place: address.into(),
            message,
        };
        let found = resolve(address).map_err(wrong)?;
        let system = |error: io::Error| wrong(format!("{error}; choose another port or address"));
        let listener = TcpListener::bind(found).map_err(system)?;
        let limits = PortLimits {
            pending: MAX_CLIENTS,
            live: MAX_CLIENTS,
            handshake: CLIENT_TIMEOUT,
        };
        let name = "burn-dist-metrics".to_owned();
        let scrapes = Scrapes(Arc::default());
        Acceptor::start(listener, name, "the metrics endpoint", limits, scrapes)
            .map(Self)
            .map_err(system)
    }

    pub(in crate::observe) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    pub(in crate::observe) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.0.service().0)
    }
}

/// Answers clients. Their whole connection counts as the handshake, so that a newer one can evict any of them.
struct Scrapes(Arc<Metrics>);

impl Service for Scrapes {
    type Session = ();

    fn handshake(&self, socket: Arc<TcpStream>, deadline: Instant) -> Result<(), Reject> {
        // A client that breaks off, or is too slow, gets nothing, and disturbs nobody.
        let _ = client::answer(&socket, &self.0, deadline);
        Ok(())
    }

    fn serve(&self, (): ()) -> Result<(), Reject> {
        Ok(())
    }
}

/// Returns the address that a text names; of a port alone, this machine's own.
fn resolve(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.trim_start_matches(':').parse() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let advice = "give a port, as 9090, or an address with one, as 10.0.0.1:9090";
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; {advice}"))?;
    found
        .next()
        .ok_or_else(|| format!("it has no address; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::super::client::MAX_REQUEST_BYTES;
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn connect(endpoint: &Endpoint) -> TcpStream {
        let stream = TcpStream::connect(endpoint.address()).unwrap();
        let timeout = Some(Duration::from_mins(1));
        stream.set_read_timeout(timeout).unwrap();
        stream
    }

    fn ask(endpoint: &Endpoint, request: &[u8]) -> String {
        let mut stream = connect(endpoint);
        stream.write_all(request).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    fn assert_serves(endpoint: &Endpoint) {
        let reply = ask(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains("burn_dist_steps_total 0"), "{reply}");
    }

    #[test]
    fn only_metrics_are_served() {
        let endpoint = Endpoint::start("0").unwrap();
        assert!(endpoint.address().ip().is_loopback());
        for (request, status) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], "200"),
            (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", "200"),
            (b"GET / HTTP/1.1\r\n\r\n", "404"),
            (
                b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
                "405",
            ),
            (b"\x16\x03\x01\x02\x00", "400"),
            (&[b'a'; MAX_REQUEST_BYTES], "431"),
        ] {
            let reply = ask(&endpoint, request);
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("Content-Length: {}", body.len())),
                "{reply}"
            );
            assert_eq!(
                status == "200",
                body.contains("burn_dist_steps_total 0"),
                "{reply}"
            );
        }
    }

    #[test]
    fn idle_clients_hold_nobody_up_and_are_bounded() {
        let endpoint = Endpoint::start("0").unwrap();
        let mut idle: Vec<_> = (0..3 * MAX_CLIENTS).map(|_| connect(&endpoint)).collect();
        idle[0].write_all(b"GET /met").unwrap();
        // One that waits for others in turn would answer only after all of them were given up.
        assert_serves(&endpoint);
        // The oldest were closed for the others, before their time was over.
        for stream in &mut idle[..2 * MAX_CLIENTS] {
            let mut reply = Vec::new();
            let _ = stream.read_to_end(&mut reply);
            assert!(reply.is_empty());
        }
        assert_serves(&endpoint);
    }

    #[test]
    fn a_request_in_pieces_among_others_is_answered() {
        let endpoint = Endpoint::start("0").unwrap();
        let mut slow = connect(&endpoint);
        for piece in [&b"GET /met"[..], b"rics HTTP/1.1\r\nHos", b"t: x\r\n\r\n"] {
            slow.write_all(piece).unwrap();
            assert_serves(&endpoint);
        }
        let mut reply = String::new();
        slow.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    }

    #[test]
    fn a_client_in_the_middle_of_its_request_does_not_outlive_the_endpoint() {
        let endpoint = Endpoint::start("127.0.0.1:0").unwrap();
        let mut stream = connect(&endpoint);
        stream.write_all(b"GET /met").unwrap();
        drop(endpoint);
        // An end or a reset, where it was attended to or not.
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        assert!(reply.is_empty());
    }

    #[test]
    fn a_bad_address_is_named_with_what_would_be_right() {
        for (address, expected) in [
            ("here", "as 9090"),
            ("1.2.3.4:x", "as 9090"),
            ("70000", "as 9090"),
        ] {
            let error = Endpoint::start(address).unwrap_err().to_string();
            assert!(
                error.contains(address) && error.contains(expected),
                "{error}"
            );
        }
        let taken = Endpoint::start("0").unwrap();
        let port = taken.address().port().to_string();
        let error = Endpoint::start(&port).unwrap_err().to_string();
        assert!(
            error.contains(&port) && error.contains("choose another"),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn random_bytes_get_an_error_or_nothing_and_the_endpoint_goes_on(bytes: Vec<u8>) {
            let endpoint = Endpoint::start("0").unwrap();
            let mut stream = connect(&endpoint);
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).unwrap();
            prop_assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 4"), "{:?}", reply);
            assert_serves(&endpoint);
        }
    }
}
