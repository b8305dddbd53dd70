//! Processes that read late, and peers that are silent.

use std::io::{Read, Write};
use std::sync::mpsc;

use super::exchange::all_to_all;
use super::*;
use crate::transport::tcp::frame::{HEADER, Kind, NewsFrame};

const HEARTBEAT: Duration = Duration::from_millis(300);

#[test]
fn a_peer_that_is_given_up_is_told_so_first() {
    let (network, sockets) = among_sockets(1, HEARTBEAT);
    let mut sent = Vec::new();
    (&sockets[0]).read_to_end(&mut sent).unwrap();
    let last = sent.chunks(HEADER).map_while(|bytes| {
        let header = Header::decode(bytes.try_into().ok()?).ok()?;
        Some((header.kind, header.tag.group))
    });
    assert_eq!(last.last(), Some((Kind::Loss, 1)));
    network.close();
}

/// Waits, when it is told something, until it may go on.
struct Stalled(Mutex<mpsc::Receiver<()>>);

impl Watcher for Stalled {
    fn lost(&self, _: &Lost) {}

    fn notice(&self, _: usize, _: &[u8]) {
        let _ = self.0.lock().recv_timeout(LONG);
    }
}

#[test]
fn a_process_that_reads_late_takes_nobody_for_silent() {
    let networks = job(2, HEARTBEAT);
    let (go_on, over) = mpsc::channel();
    networks[0].watch(Arc::new(Stalled(Mutex::new(over))));
    networks[1].notify(b"wait");
    let until = Instant::now() + 4 * HEARTBEAT;
    let waited = networks[1].receive(0, tag(9), until).unwrap_err();
    assert!(matches!(waited.cause, Cause::Deadline(_)), "{waited}");
    networks[0].check(1).unwrap();
    go_on.send(()).unwrap();
    all_to_all(&networks, 10, 1);
    close_all(&networks);
}

#[test]
fn more_news_than_are_told_at_a_time_are_told_without_more_bytes() {
    let (network, sockets) = among_sockets(1, CALM);
    let record = Record::of(&network);
    let connection = network.mesh.connection(1).unwrap();
    let end = soon();
    while !connection.state.lock().is_drained {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
    let all = (1..=300).flat_map(|number| {
        let notice = NewsFrame::Notice {
            origin: 1,
            number,
            to: Vec::new(),
            content: b"one of many".to_vec(),
        };
        notice.encode().unwrap()
    });
    let all: Vec<u8> = all.collect();
    (&sockets[0]).write_all(&all).unwrap();
    let told = record.wait_for(300);
    assert!(told.iter().all(|told| matches!(told, Told::Notice(1, _))));
    drop(sockets);
    network.close();
}
