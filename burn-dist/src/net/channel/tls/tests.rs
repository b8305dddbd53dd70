//! Two ends of a connection on one machine, and (`handshakes`) what else comes to the accepting one.

mod handshakes;

use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::thread;

use proptest::prelude::*;
use socket2::SockRef;

use super::super::Channel;
use super::*;
use crate::net::auth::authenticate;
use crate::net::secret::Secret;
use crate::net::tls::Tls;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_mins(1);

fn soon() -> Instant {
    Instant::now() + LONG
}

fn member() -> Tls {
    Tls::of_tests("member", "ca")
}

/// Returns both ends of a connection: the connecting, then the accepting one.
fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connects = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepts = listener.accept().unwrap().0;
    for socket in [&connects, &accepts] {
        socket.set_nodelay(true).unwrap();
    }
    (connects, accepts)
}

/// Returns the results of both sides of a handshake with these certificates.
fn open(connects: Option<Tls>, accepts: Option<Tls>) -> [Result<Channel, HandshakeError>; 2] {
    let (client, server) = sockets();
    let join = |socket, tls: Option<Tls>, role| {
        let secret = Secret::new(b"the same for both");
        let stream = Channel::open(socket, tls.as_ref(), role, soon())?;
        authenticate(&stream, &secret, role, b"test", b"", soon())?;
        Ok(stream)
    };
    thread::scope(|scope| {
        let client = scope.spawn(move || join(client, connects, Role::Connects));
        let server = join(server, accepts, Role::Accepts);
        [client.join().unwrap(), server]
    })
}

/// Returns both ends of an encrypted connection.
fn channels() -> [Channel; 2] {
    open(Some(member()), Some(member())).map(|side| {
        let channel = side.unwrap();
        channel.socket().set_read_timeout(Some(LONG)).unwrap();
        channel.socket().set_write_timeout(Some(LONG)).unwrap();
        channel
    })
}

fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(97)) as u8)
        .collect()
}

fn session(channel: &Channel) -> &Session {
    match channel {
        Channel::Tls(session) => session,
        Channel::Plain(_) => panic!("not encrypted"),
    }
}

#[test]
fn large_streams_cross_both_ways_while_keys_change() {
    const LENGTH: usize = 8 << 20;
    let channels = channels();
    thread::scope(|scope| {
        for (side, channel) in channels.iter().enumerate() {
            scope.spawn(move || {
                let sent = bytes(side, LENGTH);
                for (at, part) in sent.chunks(100_003).enumerate() {
                    timed::write(channel, part, soon()).unwrap();
                    if at % 16 == 3 {
                        let session = session(channel);
                        session.state.lock().tls.refresh_traffic_keys().unwrap();
                    }
                }
            });
            scope.spawn(move || {
                let mut came = vec![0; LENGTH];
                timed::read(channel, &mut came, soon()).unwrap();
                assert!(came == bytes(1 - side, LENGTH));
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_cut_of_a_stream_gives_the_same_stream(
        writes in prop::collection::vec(1_usize..70_000, 1..12),
        read in 1_usize..40_000,
    ) {
        let [connects, accepts] = channels();
        let sent = bytes(3, writes.iter().sum());
        let came = thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = &sent[..];
                for length in writes {
                    let (part, after) = rest.split_at(length);
                    let (first, second) = part.split_at(length / 3);
                    let mut slices = [IoSlice::new(first), IoSlice::new(second)];
                    let mut slices = &mut slices[..];
                    while slices.iter().any(|slice| !slice.is_empty()) {
                        let taken = (&connects).write_vectored(slices).unwrap();
                        IoSlice::advance_slices(&mut slices, taken);
                    }
                    rest = after;
                }
                connects.shutdown(Shutdown::Write).unwrap();
            });
            let (mut came, mut buffer) = (Vec::new(), vec![0; read]);
            loop {
                match accepts.read_some(&mut buffer) {
                    Ok(0) => break came,
                    Ok(count) => came.extend_from_slice(&buffer[..count]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}"),
                }
            }
        });
        prop_assert!(came == sent);
    }
}

#[test]
fn a_write_that_ran_out_of_time_goes_on_whole() {
    let [connects, accepts] = channels();
    // Buffers of a fixed size, so that a full one stays full.
    let (from, to) = (connects.socket(), accepts.socket());
    SockRef::from(from).set_send_buffer_size(1 << 16).unwrap();
    SockRef::from(to).set_recv_buffer_size(1 << 16).unwrap();
    from.set_write_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    // Nobody reads: at some point the socket takes no more.
    let sent = bytes(5, 64 << 20);
    let mut taken = 0;
    loop {
        match connects.write_some(&sent[taken..]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(taken < sent.len());
    // What is kept for the socket is bounded, however often one tries.
    let held = || {
        let state = session(&connects).state.lock();
        state.unsent.as_ref().unwrap().bytes.len()
    };
    let mut failures = 0;
    while failures < 3 {
        match connects.write_some(&sent[taken..]) {
            Ok(count) => (taken, failures) = (taken + count, 0),
            Err(_) => failures += 1,
        }
        assert!(held() < MAX_WRITE + (1 << 10), "{}", held());
    }
    assert!(held() > 0);
    assert!(connects.flush().is_err());
    thread::scope(|scope| {
        scope.spawn(|| timed::write(&connects, &sent[taken..], soon()).unwrap());
        let mut came = vec![0; sent.len()];
        timed::read(&accepts, &mut came, soon()).unwrap();
        assert!(came == sent);
    });
}

#[test]
fn an_end_is_an_end_with_and_without_its_word() {
    for shut in [true, false] {
        let [connects, accepts] = channels();
        timed::write(&connects, b"last", soon()).unwrap();
        if shut {
            connects.shutdown(Shutdown::Write).unwrap();
            let more = connects.write_some(b"more").unwrap_err();
            assert_eq!(more.kind(), ErrorKind::BrokenPipe);
        } else {
            drop(connects);
        }
        let mut last = [0; 4];
        timed::read(&accepts, &mut last, soon()).unwrap();
        let end = timed::read(&accepts, &mut last, soon());
        assert!(matches!(end, Err(Broken::Closed)), "{end:?}");
    }
}

#[test]
fn a_byte_that_was_changed_on_the_way_breaks_the_connection() {
    let [connects, accepts] = channels();
    // A whole record that was never encrypted with the session's keys.
    let forged = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    connects.socket().write_some(&forged).unwrap();
    let error = timed::read(&accepts, &mut [0; 1], soon()).unwrap_err();
    assert!(matches!(error, Broken::System(_)), "{error:?}");
    // And it stays broken, though the genuine stream goes on.
    timed::write(&connects, b"genuine", soon()).unwrap();
    let error = timed::read(&accepts, &mut [0; 1], soon()).unwrap_err();
    assert!(matches!(error, Broken::System(_)), "{error:?}");
}
