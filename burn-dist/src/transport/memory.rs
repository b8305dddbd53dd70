//! A network for tests: its processes are threads of one process, its messages are kept in memory.
//!
//! It keeps every promise of [`Network`], and can be broken at will ([`Breakable`]), so what is built
//! on networks is tested without sockets, thousands of times a second.
//!
//! Threads: one for each process, which tells its watchers; it ends when its network is closed.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex};

use super::faults::Breakable;
use super::gone::Gone;
use super::network::{CANCEL_POLL, Cancel, Cause, Incoming, Lost, Network, Outgoing, Tag, Watcher};
use super::watchers::Watchers;

/// The networks of `processes` processes, which find a frozen one after `heartbeat`.
pub(crate) fn networks(processes: usize, heartbeat: Duration) -> Vec<Arc<MemoryNetwork>> {
    let (events, inboxes): (Vec<_>, Vec<_>) = (0..processes).map(|_| unbounded()).unzip();
    let hub = Arc::new(Hub {
        heartbeat,
        state: Mutex::new(State {
            mail: HashMap::new(),
            ends: vec![vec![None; processes]; processes],
            frozen: vec![false; processes],
            gone: (0..processes).map(|_| Gone::default()).collect(),
            closed: vec![false; processes],
        }),
        changed: Condvar::new(),
        events,
    });
    inboxes
        .into_iter()
        .enumerate()
        .map(|(process, inbox)| Arc::new(MemoryNetwork::new(process, hub.clone(), inbox)))
        .collect()
}

/// One process's part.
pub(crate) struct MemoryNetwork {
    process: usize,
    hub: Arc<Hub>,
    watchers: Arc<Watchers>,
    teller: Mutex<Option<JoinHandle<()>>>,
    sent: AtomicU64,
    sent_messages: AtomicU64,
}

struct Hub {
    heartbeat: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// To the thread of each process.
    events: Vec<Sender<Event>>,
}

struct State {
    mail: HashMap<Route, VecDeque<Message>>,
    /// `ends[a][b]`: why `a` can't reach `b`.
    ends: Vec<Vec<Option<Cause>>>,
    frozen: Vec<bool>,
    /// The groups of each process whose messages are dropped.
    gone: Vec<Gone>,
    closed: Vec<bool>,
}

/// Sender, receiver and tag.
type Route = (usize, usize, Tag);

/// Head and body.
type Message = (Vec<u8>, Vec<u8>);

enum Event {
    Lost(Lost),
    Notice(usize, Vec<u8>),
    Frozen,
    Stop,
}

impl Hub {
    fn processes(&self) -> usize {
        self.events.len()
    }

    fn lost(process: usize, cause: Cause) -> Lost {
        Lost {
            process,
            address: format!("memory:{process}"),
            cause,
        }
    }

    /// Ends the connection of two processes, as `process` sees it.
    fn end(&self, state: &mut State, process: usize, peer: usize, cause: Cause) {
        let end = &mut state.ends[process][peer];
        if process == peer || end.is_some() {
            return;
        }
        *end = Some(cause.clone());
        if !matches!(cause, Cause::Left) && !state.closed[process] {
            self.tell(process, Event::Lost(Self::lost(peer, cause)));
        }
        self.changed.notify_all();
    }

    /// Ends all connections of a process, on both sides.
    fn isolate(&self, process: usize, cause: &Cause) {
        let mut state = self.state.lock();
        for peer in 0..self.processes() {
            self.end(&mut state, process, peer, cause.clone());
            self.end(&mut state, peer, process, cause.clone());
        }
    }

    fn tell(&self, process: usize, event: Event) {
        // A process that has closed listens no more.
        let _ = self.events[process].send(event);
    }

    /// Tells a process's watchers what happens, until it is stopped.
    fn run_teller(&self, process: usize, inbox: &Receiver<Event>, watchers: &Watchers) {
        loop {
            match inbox.recv() {
                Ok(Event::Lost(lost)) => watchers.lost(lost),
                Ok(Event::Notice(from, notice)) => {
                    watchers.notice(from, notice);
                }
                Ok(Event::Frozen) => {
                    thread::sleep(self.heartbeat);
                    self.isolate(process, &Cause::Silent(self.heartbeat));
                }
                Ok(Event::Stop) | Err(_) => return,
            }
        }
    }
}

impl State {
    /// Fails if bytes of one process no longer reach the other.
    fn check(&self, process: usize, peer: usize) -> Result<(), Lost> {
        if self.closed[process] {
            return Err(Hub::lost(peer, Cause::Stopped));
        }
        match self.ends[process].get(peer) {
            Some(None) if process != peer => Ok(()),
            Some(Some(cause)) => Err(Hub::lost(peer, cause.clone())),
            _ => Err(Hub::lost(peer, Cause::Malformed("no such process".into()))),
        }
    }

    fn take(&mut self, route: &Route) -> Option<Message> {
        self.mail.get_mut(route)?.pop_front()
    }
}

impl MemoryNetwork {
    fn new(process: usize, hub: Arc<Hub>, inbox: Receiver<Event>) -> Self {
        let watchers = Arc::<Watchers>::default();
        let (told, teller) = (watchers.clone(), hub.clone());
        let teller = thread::spawn(move || teller.run_teller(process, &inbox, &told));
        Self {
            process,
            hub,
            watchers,
            teller: Mutex::new(Some(teller)),
            sent: AtomicU64::new(0),
            sent_messages: AtomicU64::new(0),
        }
    }
}

impl MemoryNetwork {
    /// Returns the number of messages with a body of this length that nobody has asked for.
    pub(crate) fn unasked(&self, length: usize) -> usize {
        let state = self.hub.state.lock();
        let messages = state.mail.values().flatten();
        messages.filter(|(_, body)| body.len() == length).count()
    }
}

impl Network for MemoryNetwork {
    fn process(&self) -> usize {
        self.process
    }

    fn processes(&self) -> usize {
        self.hub.processes()
    }

    fn send(&self, to: usize, tag: Tag, head: &[u8], body: &[u8], _: Instant) -> Result<(), Lost> {
        let mut state = self.hub.state.lock();
        state.check(self.process, to)?;
        self.sent_messages.fetch_add(1, Relaxed);
        let dropped = state.gone[to].contains(tag.group);
        if !state.frozen[self.process] && !state.frozen[to] && !dropped {
            let messages = state.mail.entry((self.process, to, tag)).or_default();
            messages.push_back((head.to_vec(), body.to_vec()));
            let length = head.len() + body.len();
            self.sent.fetch_add(length as u64, Relaxed);
            self.hub.changed.notify_all();
        }
        Ok(())
    }

    fn receive(
        &self,
        from: usize,
        tag: Tag,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Vec<u8>), Lost> {
        let start = Instant::now();
        let mut state = self.hub.state.lock();
        loop {
            let reachable = state.check(self.process, from);
            if !state.closed[self.process]
                && let Some(message) = state.take(&(from, self.process, tag))
            {
                return Ok(message);
            }
            reachable?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Hub::lost(from, Cause::Deadline(start.elapsed())));
            }
            self.hub.changed.wait_for(&mut state, left);
        }
    }

    /// One message after the other: sending never waits here.
    fn exchange(
        &self,
        sends: &[Outgoing<'_>],
        receives: &mut [Incoming<'_>],
        deadline: Instant,
        cancel: &dyn Cancel,
    ) -> Result<bool, Lost> {
        for send in sends {
            self.send(send.to, send.tag, send.head, send.body, deadline)?;
        }
        // All are looked for, so that a deadline finds those missing that are.
        while receives.iter().any(|receive| receive.come.is_none()) {
            if cancel.is_cancelled() {
                return Ok(false);
            }
            let late = Instant::now() >= deadline;
            let mut missing = None;
            for number in 0..receives.len() {
                if receives[number].come.is_some() {
                    continue;
                }
                let (from, tag) = (receives[number].from, receives[number].tag);
                let now = Instant::now();
                let until = if missing.is_some() {
                    now
                } else {
                    now + CANCEL_POLL
                };
                match self.receive(from, tag, until.min(deadline)) {
                    Ok((head, body)) => {
                        receives[number].accept(head, body);
                        if receives[number].is_odd() {
                            return Ok(false);
                        }
                        let mut same = receives.iter().filter(|receive| receive.from == from);
                        if same.all(|receive| receive.come.is_some()) {
                            cancel.received_from(from);
                        }
                    }
                    Err(lost) if matches!(lost.cause, Cause::Deadline(_)) => {
                        missing.get_or_insert(lost);
                    }
                    Err(lost) => return Err(lost),
                }
            }
            if let (true, Some(missing)) = (late, missing) {
                return Err(missing);
            }
        }
        Ok(true)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    fn messages(&self) -> u64 {
        self.sent_messages.load(Relaxed)
    }

    fn connections(&self) -> usize {
        let state = self.hub.state.lock();
        let ends = state.ends[self.process].iter().enumerate();
        ends.filter(|(peer, end)| *peer != self.process && end.is_none())
            .count()
    }

    fn check(&self, process: usize) -> Result<(), Lost> {
        self.hub.state.lock().check(self.process, process)
    }

    fn notify_some(&self, notice: &[u8], chosen: &dyn Fn(usize) -> bool) {
        let state = self.hub.state.lock();
        for peer in (0..self.processes()).filter(|peer| chosen(*peer)) {
            if state.check(self.process, peer).is_ok()
                && !state.frozen[self.process]
                && !state.frozen[peer]
            {
                self.hub
                    .tell(peer, Event::Notice(self.process, notice.to_vec()));
            }
        }
    }

    fn forget(&self, groups: &[u64]) {
        let mut state = self.hub.state.lock();
        let gone = &mut state.gone[self.process];
        for group in groups {
            gone.add(*group);
        }
        state
            .mail
            .retain(|(_, to, tag), _| *to != self.process || !groups.contains(&tag.group));
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.watchers.add(&watcher);
    }

    fn close(&self) {
        {
            let mut state = self.hub.state.lock();
            state.closed[self.process] = true;
            if !state.frozen[self.process] {
                for peer in 0..self.processes() {
                    self.hub.end(&mut state, peer, self.process, Cause::Left);
                }
            }
        }
        self.hub.changed.notify_all();
        self.hub.tell(self.process, Event::Stop);
        self.watchers.clear();
        let teller = self.teller.lock().take();
        if let Some(teller) = teller
            && teller.thread().id() != thread::current().id()
        {
            teller.join().unwrap();
        }
    }
}

impl Breakable for MemoryNetwork {
    fn cut(&self, peer: usize) {
        let cause = Cause::Disconnected("cut off".into());
        let mut state = self.hub.state.lock();
        self.hub.end(&mut state, self.process, peer, cause.clone());
        self.hub.end(&mut state, peer, self.process, cause);
    }

    fn freeze(&self) {
        let mut state = self.hub.state.lock();
        if !std::mem::replace(&mut state.frozen[self.process], true) {
            self.hub.tell(self.process, Event::Frozen);
        }
    }

    fn die(&self) {
        self.hub
            .isolate(self.process, &Cause::Disconnected("died".into()));
    }
}

impl Drop for MemoryNetwork {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryNetwork({} of {})", self.process, self.processes())
    }
}
