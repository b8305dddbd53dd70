//! Answers `GET /metrics`, and nothing else, one client after the other.
//!
//! Threads: `burn-dist-metrics`, started by [`Endpoint::start`], joined when the endpoint is dropped. It
//! reads at most [`LONGEST`] bytes of a request, and gives each client [`PATIENCE`] in all.
//!
//! Callers: `outputs`.

use super::Metrics;
use crate::error::{Error, Result};
use crate::rendezvous::timed;
use mio::{Events, Interest, Poll, Token, Waker};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The most bytes of a request. Prometheus sends a few hundred.
const LONGEST: usize = 8 << 10;

/// The most headers of a request.
const HEADERS: usize = 64;

/// How long one client is attended to.
const PATIENCE: Duration = Duration::from_secs(2);

/// When to look again after the system refused to accept.
const PAUSE: Duration = Duration::from_millis(100);

/// The type of Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The port, its thread, and what is served there.
pub(in crate::observe) struct Endpoint {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

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
        let mut listener = mio::net::TcpListener::bind(found).map_err(system)?;
        let address = listener.local_addr().map_err(system)?;
        let poll = Poll::new().map_err(system)?;
        let registry = poll.registry();
        let registered = registry.register(&mut listener, Token(0), Interest::READABLE);
        registered.map_err(system)?;
        let waker = Waker::new(registry, Token(1)).map_err(system)?;
        let (metrics, stopping) = (Arc::<Metrics>::default(), Arc::<AtomicBool>::default());
        let reception = Reception {
            listener,
            poll,
            metrics: Arc::clone(&metrics),
            stopping: Arc::clone(&stopping),
        };
        let thread = thread::Builder::new()
            .name("burn-dist-metrics".to_owned())
            .spawn(move || reception.run())
            .map_err(system)?;
        Ok(Self {
            address,
            metrics,
            stopping,
            waker,
            thread: Some(thread),
        })
    }

    pub(in crate::observe) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::observe) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            // A thread that can't be told can't be joined either.
            tracing::error!("the metrics' endpoint could not be stopped: {error}");
        } else if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metrics' endpoint ended with a panic");
        }
    }
}

/// The address that a text names; of a port alone, this machine's own.
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

/// What the thread owns.
struct Reception {
    listener: mio::net::TcpListener,
    poll: Poll,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
}

impl Reception {
    fn run(mut self) {
        let mut events = Events::with_capacity(4);
        let mut pause = None;
        while !self.stopping.load(Ordering::Acquire) {
            if let Err(error) = self.poll.poll(&mut events, pause)
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!("metrics are served no more: {error}");
                return;
            }
            pause = self.accept_all();
        }
    }

    /// Attends to all who wait; gives the time after which to look again where that is not known.
    fn accept_all(&self) -> Option<Duration> {
        while !self.stopping.load(Ordering::Acquire) {
            match self.listener.accept() {
                // A client that goes away or is too slow gets nothing, and is its own loss.
                Ok((stream, _)) => drop(self.attend(&stream.into())),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return None,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => return Some(PAUSE),
                },
            }
        }
        None
    }

    fn attend(&self, stream: &TcpStream) -> Result<(), timed::Broken> {
        stream.set_nonblocking(false)?;
        let deadline = Instant::now() + PATIENCE;
        let reply = match read_request(stream, deadline)? {
            Request::Metrics => reply("200 OK", EXPOSITION, &self.metrics.text()),
            Request::Elsewhere => refusal("404 Not Found", "there is only /metrics"),
            Request::OtherMethod => refusal("405 Method Not Allowed", "only GET is answered"),
            Request::Malformed => refusal("400 Bad Request", "that is no HTTP request"),
            Request::TooLong => refusal("431 Request Header Fields Too Large", "it is too long"),
        };
        timed::write(stream, reply.as_bytes(), deadline)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        timed::drain(stream, deadline);
        Ok(())
    }
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Metrics,
    Elsewhere,
    OtherMethod,
    Malformed,
    TooLong,
}

/// Reads the head of a request. A body is of no interest.
fn read_request(stream: &TcpStream, deadline: Instant) -> Result<Request, timed::Broken> {
    let mut head = [0; LONGEST];
    let mut length = 0;
    while length < LONGEST {
        length += timed::read_some(stream, &mut head[length..], deadline)?;
        if let Some(request) = parse(&head[..length]) {
            return Ok(request);
        }
    }
    Ok(Request::TooLong)
}

/// What these bytes ask for; nothing if there is more to come.
fn parse(head: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Request::TooLong),
        Err(_) => return Some(Request::Malformed),
    }
    let path = request.path.and_then(|path| path.split('?').next());
    Some(match (request.method, path) {
        (Some("GET"), Some("/metrics")) => Request::Metrics,
        (Some("GET"), _) => Request::Elsewhere,
        _ => Request::OtherMethod,
    })
}

fn reply(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

fn refusal(status: &str, reason: &str) -> String {
    reply(status, "text/plain; charset=utf-8", &format!("{reason}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};

    fn ask(endpoint: &Endpoint, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(endpoint.address()).unwrap();
        stream.write_all(request).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
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
            (&[b'a'; LONGEST], "431"),
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
    fn a_client_in_the_middle_of_its_request_does_not_outlive_the_endpoint() {
        let endpoint = Endpoint::start("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(endpoint.address()).unwrap();
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
        #[test]
        fn any_bytes_are_some_request_or_the_beginning_of_one(bytes: Vec<u8>) {
            prop_assert_ne!(parse(&bytes), Some(Request::Metrics));
        }
    }
}
