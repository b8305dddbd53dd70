//! Answers `GET /metrics`, and nothing else, to several clients at once.
//!
//! Threads: `burn-dist-metrics`, started by [`Endpoint::start`], joined when the endpoint is dropped. It never waits for
//! one client alone. It holds [`MAX_CLIENTS`] at most: one more has the oldest closed, first of those that have not
//! asked for anything.

use super::Metrics;
use super::client::{Attended, Client};
use crate::error::{Error, Result};
use mio::{Events, Interest, Poll, Token, Waker};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The most clients at once.
const MAX_CLIENTS: usize = 32;

/// When to accept again after the system refused to.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// The token of the first client.
const CLIENTS: usize = 2;

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
        let registered = registry.register(&mut listener, LISTENER, Interest::READABLE);
        registered.map_err(system)?;
        let waker = Waker::new(registry, WAKER).map_err(system)?;
        let (metrics, stopping) = (Arc::<Metrics>::default(), Arc::<AtomicBool>::default());
        let reception = Reception {
            listener,
            poll,
            metrics: Arc::clone(&metrics),
            stopping: Arc::clone(&stopping),
            clients: (0..MAX_CLIENTS).map(|_| None).collect(),
            accept_again: None,
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
            tracing::error!("metrics endpoint could not be stopped: {error}");
        } else if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("metrics endpoint ended with a panic");
        }
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

/// The state of the thread.
struct Reception {
    listener: mio::net::TcpListener,
    poll: Poll,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    /// Each in a seat of its own.
    clients: Vec<Option<Client>>,
    /// When to accept again, where nothing will tell.
    accept_again: Option<Instant>,
}

impl Reception {
    fn run(mut self) {
        let mut events = Events::with_capacity(2 * MAX_CLIENTS);
        while !self.stopping.load(Ordering::Acquire) {
            let patience = self.patience();
            if let Err(error) = self.poll.poll(&mut events, patience)
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!("metrics endpoint stopped: {error}");
                return;
            }
            let now = Instant::now();
            let mut accept = self.accept_again.is_some_and(|again| again <= now);
            for event in &events {
                match event.token() {
                    LISTENER => accept = true,
                    WAKER => {}
                    Token(token) => self.attend(token - CLIENTS),
                }
            }
            for seat in &mut self.clients {
                seat.take_if(|client| client.deadline <= now);
            }
            if accept {
                self.accept();
            }
        }
    }

    /// Returns how long nothing needs to be done unless a socket is ready.
    fn patience(&self) -> Option<Duration> {
        let deadlines = self.clients.iter().flatten().map(|client| client.deadline);
        let next = deadlines.chain(self.accept_again).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Accepts those who wait; as many as there are seats, so that whoever has one is attended to in between.
    fn accept(&mut self) {
        self.accept_again = None;
        for _ in 0..MAX_CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) => self.seat(Client::new(stream)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.accept_again = Some(Instant::now() + ACCEPT_BACKOFF);
                        return;
                    }
                },
            }
        }
        self.accept_again = Some(Instant::now());
    }

    fn seat(&mut self, mut client: Client) {
        let seats = self.clients.iter().enumerate();
        // A free one; else of those who ask for nothing the oldest; else the oldest.
        let place = |seat: &Option<Client>| {
            let taken = seat.as_ref();
            taken.map(|client| (client.has_asked(), client.deadline))
        };
        let Some((seat, _)) = seats.min_by_key(|(_, seat)| place(seat)) else {
            return;
        };
        // Closed before the new one is registered.
        self.clients[seat] = None;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(seat + CLIENTS);
        let registry = self.poll.registry();
        if registry
            .register(&mut client.stream, token, interest)
            .is_ok()
        {
            self.clients[seat] = Some(client);
            self.attend(seat);
        }
    }

    /// Attends to the client of a seat, if it has one: an event may be of one that is gone.
    fn attend(&mut self, seat: usize) {
        if let Some(place) = self.clients.get_mut(seat)
            && let Some(client) = place
            && client.attend(&self.metrics) == Attended::Done
        {
            *place = None;
        }
    }
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
