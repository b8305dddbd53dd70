//! A plain TCP stream between two processes that carries bytes both ways while a step runs: what the
//! system itself takes for as many bytes as an all_reduce of two ranks moves.
//!
//! Each direction has a thread at each end that does nothing but hand its bytes to the system, and sleeps while
//! that has no room or no bytes. They end when this is dropped.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use burn_dist::{ProcessGroup, ReduceOp};

use crate::processes::{Ranked, Result};

/// This process's ends of both streams.
pub(crate) struct Streams {
    /// Kept to wake the thread that reads.
    stream: TcpStream,
    ends: Vec<End>,
}

/// A thread that moves the bytes of one direction each time it is told.
struct End {
    go: Sender<()>,
    moved: Receiver<io::Result<()>>,
    thread: JoinHandle<()>,
}

impl Streams {
    /// Joins the ranks of a group, if they are two processes.
    pub(crate) fn join(
        group: &ProcessGroup,
        ranked: &Ranked,
        bytes: usize,
    ) -> Result<Option<Self>> {
        let Some(host) = ranked.host().filter(|_| group.world_size() == 2) else {
            return Ok(None);
        };
        let host = host.as_str();
        let listener = (group.rank() == 0)
            .then(|| TcpListener::bind((host, 0)))
            .transpose()?;
        let port = match &listener {
            Some(listener) => listener.local_addr()?.port(),
            None => 0,
        };
        let mut port = [f64::from(port)];
        group.all_reduce(&mut port, ReduceOp::Max)?;
        let stream = match listener {
            Some(listener) => listener.accept()?.0,
            None => TcpStream::connect((host, port[0] as u16))?,
        };
        stream.set_nodelay(true)?;
        let (out, mut into) = (vec![1; bytes], vec![0; bytes]);
        let (mut to, mut from) = (stream.try_clone()?, stream.try_clone()?);
        let ends = vec![
            End::start(move || to.write_all(&out))?,
            End::start(move || from.read_exact(&mut into))?,
        ];
        Ok(Some(Self { stream, ends }))
    }

    /// Begins to send and to receive.
    pub(crate) fn begin(&self) {
        for end in &self.ends {
            // A thread that has ended has said why.
            let _ = end.go.send(());
        }
    }

    /// Waits until all has been sent and received.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.ends.iter().try_for_each(|end| {
            let moved = end.moved.recv();
            moved.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
        })
    }
}

impl End {
    fn start(mut bytes: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (go, told) = channel();
        let (tell, moved) = channel();
        let thread = thread::Builder::new().spawn(move || {
            while told.recv().is_ok() && tell.send(bytes()).is_ok() {}
        })?;
        Ok(Self { go, moved, thread })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        for End { go, moved, thread } in self.ends.drain(..) {
            drop((go, moved));
            let _ = thread.join();
        }
    }
}
