use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc;

use super::*;
use crate::net::handshake_error::HandshakeError;
use crate::net::rejects::SECOND;
use crate::net::timed;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_mins(1);

/// Accepts who sends a `k`, and echoes one byte.
struct Echo;

impl Service for Echo {
    type Session = Arc<TcpStream>;

    fn handshake(
        &self,
        socket: Arc<TcpStream>,
        deadline: Instant,
    ) -> Result<Arc<TcpStream>, Reject> {
        let mut byte = [0];
        let read = timed::read(&*socket, &mut byte, deadline);
        read.map_err(|broken| Reject::Unproved(broken.into()))?;
        if byte != *b"k" {
            return Err(Reject::Unproved(HandshakeError::WrongSecret));
        }
        Ok(socket)
    }

    fn serve(&self, socket: Arc<TcpStream>) -> Result<(), Reject> {
        let mut byte = [0];
        let deadline = Instant::now() + LONG;
        timed::read(&*socket, &mut byte, deadline)
            .and_then(|()| timed::write(&*socket, &byte, deadline))
            .map_err(|broken| Reject::Malformed(broken.to_string()))
    }
}

fn acceptor<S: Service>(service: S, pending: usize, live: usize) -> Acceptor<S> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let limits = PortLimits {
        pending,
        live,
        handshake: LONG,
    };
    Acceptor::start(
        listener,
        "test".to_owned(),
        "a test's port",
        limits,
        service,
    )
    .unwrap()
}

fn connect<S: Service>(acceptor: &Acceptor<S>, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(acceptor.address()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Reads until the other side has closed the connection.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
    bytes
}

/// Waits until something holds that another thread brings about.
fn eventually(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come about");
        thread::yield_now();
    }
}

#[test]
fn a_new_connection_evicts_the_oldest_pending_one_and_no_live_one() {
    let acceptor = acceptor(Echo, 2, 9);
    let mut live = connect(&acceptor, b"k");
    eventually(|| acceptor.census().live == 1);
    let idle = [(); 5].map(|()| connect(&acceptor, b""));
    for evicted in &idle[..3] {
        assert_eq!(rest(evicted), b"");
    }
    eventually(|| acceptor.rejects().crowded == 3);
    (&idle[4]).write_all(b"k4").unwrap();
    live.write_all(b"0").unwrap();
    assert_eq!(
        (rest(&idle[4]), rest(&live)),
        (b"4".to_vec(), b"0".to_vec())
    );
    assert!(acceptor.census().most_pending <= 2);
    acceptor.stop();
    assert_eq!(rest(&idle[3]), b"");
    let rejects = acceptor.rejects();
    assert_eq!((rejects.unfinished, rejects.total()), (1, 4), "{rejects}");
}

#[test]
fn one_live_connection_too_many_is_refused() {
    let acceptor = acceptor(Echo, 9, 1);
    let mut live = connect(&acceptor, b"k");
    eventually(|| acceptor.census().live == 1);
    assert_eq!(rest(&connect(&acceptor, b"k1")), b"");
    assert_eq!(acceptor.rejects().full, 1);
    live.write_all(b"0").unwrap();
    assert_eq!(rest(&live), b"0");
}

#[test]
fn after_too_many_rejects_in_a_second_new_connections_wait() {
    let acceptor = acceptor(Echo, 9, 9);
    let rejects = &acceptor.shared.rejects;
    // A second that does not end before the test says so.
    rejects.set_second(Instant::now() + Duration::from_hours(1));
    for _ in 0..MAX_REJECTS_PER_SECOND {
        rejects.record(None, &Reject::Full);
    }
    let mut waits = connect(&acceptor, b"k1");
    waits.set_read_timeout(Some(ACCEPT_BACKOFF)).unwrap();
    let waited = waits.read(&mut [0]).unwrap_err();
    assert!(
        matches!(
            waited.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ),
        "{waited}"
    );
    let start = Instant::now().checked_sub(SECOND).unwrap();
    rejects.set_second(start);
    waits.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(rest(&waits), b"1");
}

/// Never ends a handshake before it is told to, whatever becomes of the socket.
struct Stuck(Mutex<mpsc::Receiver<()>>);

impl Service for Stuck {
    type Session = ();

    fn handshake(&self, _: Arc<TcpStream>, _: Instant) -> Result<(), Reject> {
        let _ = self.0.lock().recv();
        Ok(())
    }

    fn serve(&self, (): ()) -> Result<(), Reject> {
        Ok(())
    }
}

#[test]
fn a_thread_that_does_not_end_is_left_behind() {
    let (end, ended) = mpsc::channel();
    let acceptor = acceptor(Stuck(Mutex::new(ended)), 2, 2);
    let _connection = connect(&acceptor, b"");
    eventually(|| acceptor.census().pending == 1);
    assert!(acceptor.stop());
    assert!(!acceptor.stop(), "it was stopped before");
    assert_eq!(acceptor.census().pending, 1);
    drop(end);
}

#[test]
fn every_stranger_of_a_flood_is_counted_once() {
    let acceptor = acceptor(Echo, 8, 8);
    let address = acceptor.address();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for _ in 0..100 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    let _ = stream.write_all(b"x");
                    let _ = rest(&stream);
                }
            });
        }
    });
    acceptor.stop();
    let rejects = acceptor.rejects();
    assert_eq!(rejects.total(), 400, "{rejects}");
}
