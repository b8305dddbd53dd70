//! Jobs that encrypt: what goes right, and who comes to their ports.

use std::io::Write;
use std::net::Shutdown;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::exchange::all_to_all;
use super::strangers::wait_for_close;
use super::*;
use crate::net::Tls;
use crate::net::auth::{Role, authenticate};
use crate::net::channel::Channel;

fn encrypted(processes: usize, heartbeat: Duration) -> Vec<NetworkConfig> {
    let places = places(Ipv4Addr::LOCALHOST.into(), processes, heartbeat);
    let tls = Some(Tls::of_tests("member", "ca"));
    let with = |place| NetworkConfig {
        tls: tls.clone(),
        ..place
    };
    places.into_iter().map(with).collect()
}

fn connect_all(places: Vec<NetworkConfig>) -> Vec<Arc<TcpNetwork>> {
    let joining: Vec<_> = places
        .into_iter()
        .map(|place| thread::spawn(move || connect(place, soon(), &mut || None).unwrap()))
        .collect();
    joining.into_iter().map(|t| t.join().unwrap()).collect()
}

#[test]
fn processes_exchange_messages_of_every_size_at_once() {
    for processes in [2, 3, 4] {
        let networks = connect_all(encrypted(processes, CALM));
        let records: Vec<_> = networks.iter().map(|network| Record::of(network)).collect();
        for (sequence, length) in [0, 1, 4097, 16_384, 1_000_003, 8 << 20]
            .into_iter()
            .enumerate()
        {
            all_to_all(&networks, length, sequence as u64);
        }
        close_all(&networks);
        for record in records {
            assert!(record.all().is_empty(), "{:?}", record.all());
        }
    }
}

#[test]
fn connections_made_when_needed_are_encrypted_too() {
    let networks = connect_all(encrypted(8, CALM));
    let record = Record::of(&networks[3]);
    all_to_all(&networks, 20_000, 0);
    assert!(networks.iter().all(|network| network.connections() == 7));
    networks[0].notify_some(b"why", &|process| process == 3);
    let told = record.wait_for(1);
    assert!(
        matches!(&told[..], [Told::Notice(0, text)] if text == b"why"),
        "{told:?}"
    );
    close_all(&networks);
}

#[test]
fn a_connection_is_idle_and_is_left_in_good_order() {
    let heartbeat = Duration::from_millis(300);
    let networks = connect_all(encrypted(2, heartbeat));
    let record = Record::of(&networks[0]);
    let waited = networks[0].receive(1, tag(0), Instant::now() + 4 * heartbeat);
    let waited = waited.unwrap_err();
    assert!(matches!(waited.cause, Cause::Deadline(_)), "{waited}");
    let last = bytes(1, 5_000_000);
    networks[1].send(0, tag(0), b"last", &last, soon()).unwrap();
    networks[1].notify(b"because");
    networks[1].close();
    assert!(networks[0].receive(1, tag(0), soon()).unwrap().1 == last);
    let lost = networks[0].receive(1, tag(1), soon()).unwrap_err();
    assert!(matches!(lost.cause, Cause::Left), "{lost}");
    let told = record.wait_for(1);
    assert!(
        matches!(&told[..], [Told::Notice(1, text)] if text == b"because"),
        "{told:?}"
    );
    networks[0].close();
}

#[test]
fn an_end_without_a_goodbye_is_a_broken_connection() {
    let networks = connect_all(encrypted(2, CALM));
    let record = Record::of(&networks[0]);
    // As somebody on the way would do it: below TLS.
    let connection = networks[1].mesh.connection(0).unwrap();
    connection.stream.socket().shutdown(Shutdown::Both).unwrap();
    let lost = networks[0].receive(1, tag(0), soon()).unwrap_err();
    assert!(matches!(lost.cause, Cause::Disconnected(_)), "{lost}");
    assert!(matches!(&record.wait_for(1)[..], [Told::Lost(_)]));
    close_all(&networks);
}

#[test]
fn strangers_are_turned_away_and_counted() {
    let mut places = encrypted(2, CALM);
    let second = places.pop().unwrap();
    let first = places.pop().unwrap();
    let port = first.addresses[0];
    let waiting = thread::spawn(move || connect(first, soon(), &mut || None).unwrap());
    let mut random = SplitMix64::seed_from_u64(1);
    let idle: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(port).unwrap())
        .collect();
    for at in 0..200 {
        let mut stream = TcpStream::connect(port).unwrap();
        let mut bytes = vec![0; 8 + random.next_u32() as usize % 300];
        random.fill_bytes(&mut bytes);
        if at % 2 == 0 {
            // The beginning of a genuine record.
            bytes[..5].copy_from_slice(&[22, 3, 1, 0, 200]);
        }
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        wait_for_close(&stream);
    }
    // One of the job's, but it does not encrypt.
    let plain = TcpStream::connect(port).unwrap();
    let secret = Secret::new(b"what only these tests know");
    let rejected = authenticate(&plain, &secret, Role::Connects, b"transport", b"", soon());
    let rejected = rejected.unwrap_err().to_string();
    assert!(rejected.contains("the other side uses TLS"), "{rejected}");
    // One with another CA's certificate.
    let stranger = Tls::of_tests("stranger", "ca");
    let stream = TcpStream::connect(port).unwrap();
    let rejected = Channel::open(stream, Some(&stranger), Role::Connects, soon());
    let rejected = rejected.unwrap_err().to_string();
    assert!(rejected.contains("was not signed"), "{rejected}");
    let second = connect(second, soon(), &mut || None).unwrap();
    let first = waiting.join().unwrap();
    second.send(0, tag(0), b"hello", &[], soon()).unwrap();
    assert_eq!(first.receive(1, tag(0), soon()).unwrap().0, b"hello");
    let networks = [first, second];
    close_all(&networks);
    // The idle ones too, which were there when the port closed, if not before.
    let rejected = networks[0].rejects();
    assert_eq!(rejected.total(), 302, "{rejected}");
    drop(idle);
}
