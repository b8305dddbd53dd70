//! Faults on purpose: a network that breaks as a plan says, and a plan that a seed makes.
//!
//! Whatever is built on networks must end, under every plan, in the right result or in an error
//! before the deadline. A plan that fails is printed, and its seed makes it again. A fault happens
//! at a count of messages, not at a time, so that it happens at the same place again, as far as the
//! order of sends of one process is the same.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::network::{Cancel, Incoming, Lost, Network, Outgoing, Tag, Watcher};

/// A network that can be broken on purpose.
pub(crate) trait Breakable: Network {
    /// Cuts this process off from another one; both find out at once.
    fn cut(&self, peer: usize);

    /// From now on nothing of this process reaches the others, nor the other way round; all find out
    /// after a heartbeat.
    fn freeze(&self);

    /// Cuts this process off from all others at once, as its death would.
    fn die(&self);
}

/// Faults of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FaultPlan {
    seed: u64,
    faults: Vec<Fault>,
}

/// One fault: it happens when a process is about to send its message of this number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) process: usize,
    pub(crate) message: u64,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Delay(Duration),
    Cut {
        peer: usize,
    },
    Freeze,
    Death,
    /// A rank of the process aborts the group.
    Abort,
}

/// Function that aborts the group of a process.
pub(crate) type Aborts = Arc<dyn Fn() + Send + Sync>;

impl FaultPlan {
    /// The latest message at which something happens: tests need not send more for most plans to
    /// take effect.
    const MESSAGES: u64 = 32;

    /// The plan that a seed makes for so many processes: some delays, and mostly one or two breaks.
    pub(crate) fn from_seed(seed: u64, processes: usize) -> Self {
        let mut random = SplitMix64::seed_from_u64(seed);
        let mut below = |limit: u64| random.next_u64() % limit;
        let (delays, breaks) = (below(5), below(3));
        let mut faults = Vec::new();
        for number in 0..delays + breaks {
            let process = below(processes as u64) as usize;
            let message = below(Self::MESSAGES);
            let kind = if number < delays {
                FaultKind::Delay(Duration::from_micros(below(3000)))
            } else {
                match below(4) {
                    0 if processes > 1 => {
                        let step = 1 + below(processes as u64 - 1) as usize;
                        let peer = (process + step) % processes;
                        FaultKind::Cut { peer }
                    }
                    1 => FaultKind::Freeze,
                    2 => FaultKind::Abort,
                    _ => FaultKind::Death,
                }
            };
            faults.push(Fault {
                process,
                message,
                kind,
            });
        }
        Self { seed, faults }
    }

    /// True if it holds more than delays.
    pub(crate) fn breaks(&self) -> bool {
        let delays = |fault: &Fault| matches!(fault.kind, FaultKind::Delay(_));
        !self.faults.iter().all(delays)
    }

    /// True if a rank aborts the group.
    pub(crate) fn aborts(&self) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|fault| fault.kind == FaultKind::Abort)
    }

    /// The network of one process, with the plan's faults in it.
    pub(crate) fn apply<N: Breakable>(&self, inner: Arc<N>) -> Faulty<N> {
        let process = inner.process();
        let faults = self.faults.iter().filter(|fault| fault.process == process);
        Faulty {
            faults: faults.copied().collect(),
            aborts: OnceLock::new(),
            inner,
            sent: AtomicU64::new(0),
        }
    }
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}:", self.seed)?;
        if self.faults.is_empty() {
            f.write_str(" no faults")?;
        }
        for fault in &self.faults {
            write!(
                f,
                " [process {}, message {}: ",
                fault.process, fault.message
            )?;
            match fault.kind {
                FaultKind::Delay(time) => write!(f, "delay {time:?}]")?,
                FaultKind::Cut { peer } => write!(f, "cut off from {peer}]")?,
                FaultKind::Freeze => f.write_str("freeze]")?,
                FaultKind::Death => f.write_str("death]")?,
                FaultKind::Abort => f.write_str("abort]")?,
            }
        }
        Ok(())
    }
}

/// A network with faults.
pub(crate) struct Faulty<N> {
    inner: Arc<N>,
    faults: Vec<Fault>,
    aborts: OnceLock<Aborts>,
    sent: AtomicU64,
}

impl<N: Breakable> Faulty<N> {
    /// Sets the function that an abort calls. Without it nothing is aborted.
    pub(crate) fn set_aborts(&self, aborts: Aborts) {
        let _ = self.aborts.set(aborts);
    }

    /// Does what the plan has for the next message.
    fn strike(&self, deadline: Instant) {
        let number = self.sent.fetch_add(1, Relaxed);
        for fault in self.faults.iter().filter(|fault| fault.message == number) {
            match fault.kind {
                FaultKind::Delay(time) => {
                    thread::sleep(time.min(deadline.saturating_duration_since(Instant::now())));
                }
                FaultKind::Cut { peer } => self.inner.cut(peer),
                FaultKind::Freeze => self.inner.freeze(),
                FaultKind::Death => self.inner.die(),
                FaultKind::Abort => {
                    if let Some(aborts) = self.aborts.get() {
                        aborts();
                    }
                }
            }
        }
    }
}

impl<N: Breakable> fmt::Debug for Faulty<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("inner", &self.inner)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl<N: Breakable> Network for Faulty<N> {
    fn process(&self) -> usize {
        self.inner.process()
    }

    fn processes(&self) -> usize {
        self.inner.processes()
    }

    fn send(
        &self,
        to: usize,
        tag: Tag,
        head: &[u8],
        body: &[u8],
        deadline: Instant,
    ) -> Result<(), Lost> {
        self.strike(deadline);
        self.inner.send(to, tag, head, body, deadline)
    }

    fn exchange(
        &self,
        sends: &[Outgoing<'_>],
        receives: &mut [Incoming<'_>],
        deadline: Instant,
        cancel: &dyn Cancel,
    ) -> Result<bool, Lost> {
        for _ in sends {
            self.strike(deadline);
        }
        self.inner.exchange(sends, receives, deadline, cancel)
    }

    fn receive(
        &self,
        from: usize,
        tag: Tag,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Vec<u8>), Lost> {
        self.inner.receive(from, tag, deadline)
    }

    fn sent(&self) -> u64 {
        self.inner.sent()
    }

    fn messages(&self) -> u64 {
        self.inner.messages()
    }

    fn connections(&self) -> usize {
        self.inner.connections()
    }

    fn check(&self, process: usize) -> Result<(), Lost> {
        self.inner.check(process)
    }

    fn notify_some(&self, notice: &[u8], chosen: &dyn Fn(usize) -> bool) {
        self.inner.notify_some(notice, chosen);
    }

    fn forget(&self, groups: &[u64]) {
        self.inner.forget(groups);
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.inner.watch(watcher);
    }

    fn close(&self) {
        self.inner.close();
    }
}

#[cfg(test)]
pub(crate) mod tests;
