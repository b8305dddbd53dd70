//! Two ends of a connection on one machine, and what else comes to the accepting one.

use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use socket2::SockRef;

use super::super::Channel;
use super::*;
use crate::rendezvous::auth::authenticate;
use crate::rendezvous::secret::Secret;
use crate::rendezvous::tls::Tls;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_mins(1);

fn soon() -> Instant {
    Instant::now() + LONG
}

fn member() -> Tls {
    Tls::of_tests("member", "ca")
}

/// Who connected, who accepted.
fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connects = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepts = listener.accept().unwrap().0;
    for socket in [&connects, &accepts] {
        socket.set_nodelay(true).unwrap();
    }
    (connects, accepts)
}

/// What both sides make of a handshake with these certificates.
fn open(connects: Option<Tls>, accepts: Option<Tls>) -> [Result<Channel, Rejected>; 2] {
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

/// Both ends of an encrypted connection.
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
                        session.lock().tls.refresh_traffic_keys().unwrap();
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
        let state = session(&connects).lock();
        state.unsent.as_ref().unwrap().bytes.len()
    };
    let mut failures = 0;
    while failures < 3 {
        match connects.write_some(&sent[taken..]) {
            Ok(count) => (taken, failures) = (taken + count, 0),
            Err(_) => failures += 1,
        }
        assert!(held() < AT_ONCE + (1 << 10), "{}", held());
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

#[test]
fn a_certificate_that_is_not_the_jobs_is_named_on_both_sides() {
    let refused = |what: &str| Rejected::CertificateRefused(what.to_owned());
    let of_ca = "was not signed by the job's CA";
    let by_ca = refused("was not signed by the CA that it knows");
    let by_clock = refused("has expired by its clock, or is not valid yet");
    let by_name = refused("is not for the job's name");
    let by_use = refused("may not be used by this side");
    // The first is wrong: with another CA's certificate, and the job's CA for the others'.
    for (name, words, told) in [
        ("stranger", of_ca, &by_ca),
        ("expired", "has expired", &by_clock),
        ("misnamed", "\"burn-dist\"", &by_name),
    ] {
        let wrong = || Some(Tls::of_tests(name, "ca"));
        for (sides, judge) in [
            ((wrong(), Some(member())), 1),
            ((Some(member()), wrong()), 0),
        ] {
            let outcome = open(sides.0, sides.1).map(Result::unwrap_err);
            let judged = outcome[judge].to_string();
            assert!(
                judged.starts_with("the other side's certificate ") && judged.contains(words),
                "{name}: {outcome:?}"
            );
            assert_eq!(&outcome[1 - judge], told, "{name}");
        }
    }
    // Only for the side that connects.
    let [connects, accepts] = open(Some(member()), Some(Tls::of_tests("half", "ca")));
    let judged = connects.unwrap_err().to_string();
    assert!(judged.contains("serverAuth and clientAuth"), "{judged}");
    assert_eq!(accepts.unwrap_err(), by_use);
    // Another CA on this side: it is the other that seems wrong.
    let [connects, accepts] = open(Some(Tls::of_tests("member", "other-ca")), Some(member()));
    let judged = connects.unwrap_err().to_string();
    assert!(judged.contains(of_ca), "{judged}");
    assert_eq!(accepts.unwrap_err(), by_ca);
    // Another name, for the whole job.
    let renamed = || {
        let misnamed = Tls::of_tests("misnamed", "ca");
        Some(misnamed.name("another-job").unwrap())
    };
    assert!(open(renamed(), renamed()).iter().all(Result::is_ok));
}

/// A client of rustls that has no certificate, or another idea of what is spoken.
fn bare_client() -> rustls::ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pem = include_bytes!("../../../../tests/certificates/ca.pem");
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(pem).unwrap();
    roots.add(ca).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("burn-dist").unwrap();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap()
}

/// What the accepting side says to a peer that does `act`, and how long it took.
fn accept(time: Duration, act: impl FnOnce(&TcpStream)) -> (Rejected, Duration) {
    let (peer, accepts) = sockets();
    peer.set_read_timeout(Some(LONG)).unwrap();
    thread::scope(|scope| {
        let accepting = scope.spawn(move || {
            let start = Instant::now();
            let opened = Channel::open(accepts, Some(&member()), Role::Accepts, start + time);
            (opened.unwrap_err(), start.elapsed())
        });
        act(&peer);
        accepting.join().unwrap()
    })
}

#[test]
fn a_client_without_a_certificate_is_turned_away() {
    let (rejected, _) = accept(LONG, |peer| {
        let mut tls = Connection::Client(bare_client());
        shake_hands(peer, &mut tls, soon()).unwrap();
        // It believes that all is well until it reads.
        let mut chunk = [0; 4096];
        let count = timed::read_some(peer, &mut chunk, soon()).unwrap();
        tls.read_tls(&mut &chunk[..count]).unwrap();
        let told = tls.process_new_packets().unwrap_err();
        let expected = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(told, expected);
    });
    let expected = Rejected::Certificate("is missing: it presented none".to_owned());
    assert_eq!(rejected, expected);
}

#[test]
fn one_side_without_tls_is_named_on_both_at_once() {
    let start = Instant::now();
    let outcome = open(None, Some(member())).map(Result::unwrap_err);
    assert_eq!(outcome, [Rejected::TlsPeer, Rejected::PlainPeer]);
    let outcome = open(Some(member()), None).map(Result::unwrap_err);
    assert_eq!(outcome, [Rejected::PlainPeer, Rejected::TlsPeer]);
    // Both have a minute, and need none of it.
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_is_no_tls_is_turned_away_at_its_first_bytes() {
    for (bytes, words) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "GET / HT"),
        (b"\x00", "\\x00"),
        (b"burndust and so on", "burndust"),
    ] {
        let (rejected, took) = accept(LONG, |mut peer| {
            peer.write_all(bytes).unwrap();
            // The peer stays; the other side closes.
            let _ = peer.read_to_end(&mut Vec::new());
        });
        assert_eq!(rejected, Rejected::NotAPeer(words.to_owned()));
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

#[test]
fn a_slow_or_idle_peer_has_the_deadlines_time_in_all() {
    let time = Duration::from_millis(300);
    let mut hello = Vec::new();
    bare_client().write_tls(&mut hello).unwrap();
    for idle in [true, false] {
        let (rejected, took) = accept(time, |mut peer| {
            for byte in hello.iter().filter(|_| !idle) {
                if peer.write_all(&[*byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _ = peer.read_to_end(&mut Vec::new());
        });
        assert_eq!(rejected, Rejected::TooSlow);
        assert!(
            took >= time && took < time + Duration::from_secs(5),
            "{took:?}"
        );
    }
}

#[test]
fn a_handshake_without_end_is_cut_off() {
    let (rejected, _) = accept(LONG, |mut peer| {
        // A client's hello of 16 MiB, in records of 16 KiB.
        let mut record = vec![22, 3, 1, 0x40, 0];
        record.resize(5 + 0x4000, 0);
        record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        while peer.write_all(&record).is_ok() {
            record[5..9].fill(0);
        }
    });
    assert!(matches!(rejected, Rejected::Tls(_)), "{rejected:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_do_more_than_be_turned_away(
        start in 0_u8..4,
        mut noise in prop::collection::vec(any::<u8>(), 0..600),
        at in 0_usize..600,
        with in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        match start {
            0 => {}
            1 => bytes.extend_from_slice(&[22, 3, 1, 2, 0]),
            2 => bytes.extend_from_slice(&[22, 3, 3, 0, 200, 1, 0, 0, 196, 3, 3]),
            _ => {
                // A genuine hello with one byte changed.
                bare_client().write_tls(&mut bytes).unwrap();
                let at = at % bytes.len();
                bytes[at] = bytes[at].wrapping_add(with.max(1));
                noise.truncate(5);
            }
        }
        bytes.extend_from_slice(&noise);
        let (_, took) = accept(LONG, |mut peer| {
            let _ = peer.write_all(&bytes);
            let _ = peer.shutdown(Shutdown::Write);
            let _ = peer.read_to_end(&mut Vec::new());
        });
        prop_assert!(took < Duration::from_secs(20));
    }
}

#[test]
fn who_stands_between_two_members_learns_nothing_and_joins_nothing() {
    // It has a certificate of the job's, but not the secret: it decrypts and passes on.
    let (client, towards_client) = sockets();
    let (towards_server, server) = sockets();
    let secret = Secret::new(b"the secret of this job");
    let join = |socket, role| {
        let stream = Channel::open(socket, Some(&member()), role, soon())?;
        authenticate(&stream, &secret, role, b"test", b"", soon())
    };
    let between = |socket, role| Channel::open(socket, Some(&member()), role, soon()).unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| join(client, Role::Connects));
        let server = scope.spawn(|| join(server, Role::Accepts));
        let from = between(towards_client, Role::Accepts);
        let to = between(towards_server, Role::Connects);
        let mut preamble = [0; 64];
        timed::read(&from, &mut preamble, soon()).unwrap();
        timed::write(&to, &preamble, soon()).unwrap();
        let mut answer = [0; 96];
        timed::read(&to, &mut answer, soon()).unwrap();
        timed::write(&from, &answer, soon()).unwrap();
        let mut verdict = [7];
        timed::read(&from, &mut verdict, soon()).unwrap();
        timed::write(&to, &verdict, soon()).unwrap();
        assert_eq!(client.join().unwrap().unwrap_err(), Rejected::WrongSecret);
        assert_eq!(server.join().unwrap().unwrap_err(), Rejected::WrongSecret);
    });
}
