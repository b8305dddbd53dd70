//! Who is turned away, and why, before a connection is one.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::*;

#[test]
fn a_certificate_that_is_not_the_jobs_is_named_on_both_sides() {
    let refused = |what: &str| HandshakeError::CertificateRefused(what.to_owned());
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
        Some(misnamed.with_name("another-job").unwrap())
    };
    assert!(open(renamed(), renamed()).iter().all(Result::is_ok));
}

/// A client of rustls that has no certificate, or another idea of what is spoken.
fn bare_client() -> rustls::ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pem = include_bytes!("../../../../../tests/certificates/ca.pem");
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

/// Returns the error of the accepting side for a peer that does `act`, and the time that it took.
fn accept(time: Duration, act: impl FnOnce(&TcpStream)) -> (HandshakeError, Duration) {
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
    let expected = HandshakeError::Certificate("is missing: it presented none".to_owned());
    assert_eq!(rejected, expected);
}

#[test]
fn one_side_without_tls_is_named_on_both_at_once() {
    let start = Instant::now();
    let outcome = open(None, Some(member())).map(Result::unwrap_err);
    assert_eq!(
        outcome,
        [HandshakeError::TlsPeer, HandshakeError::PlainPeer]
    );
    let outcome = open(Some(member()), None).map(Result::unwrap_err);
    assert_eq!(
        outcome,
        [HandshakeError::PlainPeer, HandshakeError::TlsPeer]
    );
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
        assert_eq!(rejected, HandshakeError::NotAPeer(words.to_owned()));
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
        assert_eq!(rejected, HandshakeError::TooSlow);
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
    assert!(matches!(rejected, HandshakeError::Tls(_)), "{rejected:?}");
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
        assert_eq!(
            client.join().unwrap().unwrap_err(),
            HandshakeError::WrongSecret
        );
        assert_eq!(
            server.join().unwrap().unwrap_err(),
            HandshakeError::WrongSecret
        );
    });
}
