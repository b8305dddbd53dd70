//! Signals that ask a program to end: its loop ends after the step, on all ranks.
//!
//! - `unix`, `other`: where signals come from.
//!
//! Threads: `burn-dist-signals`, started by the first [`Interrupt::listen`]. It is never joined: a signal has
//! to have an effect as long as the process lives.

#[cfg_attr(unix, path = "interrupt/unix.rs")]
#[cfg_attr(not(unix), path = "interrupt/other.rs")]
mod signals;

use parking_lot::Mutex;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use signals::SIGINT;

/// The shortest time between two Ctrl-C of a person. Launchers pass a signal on that the terminal has sent
/// already, so that it comes twice at once.
const SECOND_THOUGHT: Duration = Duration::from_millis(500);

/// Signals that ask this process to end in good order: SIGTERM, SIGINT (Ctrl-C), SIGHUP, and SIGUSR1, SIGUSR2
/// and SIGXCPU, with which batch systems say that a job's time is nearly over.
///
/// The library handles no signal unless a program calls [`Interrupt::listen`]. Until the first
/// [`watch`](Self::watch), each signal ends the process at once, as it does without this. From then on it is
/// noted, and the loop of every rank ends after the same step: also of ranks in processes without a signal.
/// Further signals change nothing, for launchers send several; a second Ctrl-C, half a second or more after the
/// first, ends the process at once.
///
/// A signal that was ignored when the program began stays ignored, as SIGHUP under `nohup`. SIGINT is an
/// exception, for shells ignore it for the background commands of scripts.
///
/// ```no_run
/// use burn_dist::launch::{Interrupt, launch};
/// # use burn::tensor::Device;
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
/// #   let devices = vec![Device::flex().autodiff(); 2];
///     let interrupt = match Interrupt::listen() {
///         Ok(interrupt) => interrupt,
///         Err(error) => {
///             eprintln!("error: {error}");
///             return ExitCode::FAILURE;
///         }
///     };
///     let ended = launch(devices, |worker| {
///         let interrupt = interrupt.watch(worker.group());
///         for step in 1..=1000 {
///             // forward, backward, synchronize, optimizer
///             if let Some(why) = interrupt.requested()? {
///                 // save a checkpoint
///                 return Ok(format!("interrupted at step {step} of 1000: {why}"));
///             }
///         }
///         Ok::<_, burn_dist::Error>(String::new())
///     });
///     match ended {
///         Ok(ended) if ended[0].is_empty() => ExitCode::SUCCESS,
///         Ok(ended) => {
///             eprintln!("{}", ended[0]);
///             interrupt.exit_code() // 143 after SIGTERM
///         }
///         Err(error) => {
///             eprintln!("error: {error}");
///             interrupt.exit_code() // 1 without a signal
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Interrupt {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// True once a loop looks at what is noted here.
    watched: bool,
    /// The first signal that came since.
    first: Option<i32>,
    /// Time of the first Ctrl-C.
    ctrl_c: Option<Instant>,
}

/// The effect of a signal.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// The system's own: the process ends at once.
    Default,
    /// All loops end after their step.
    Stop,
    /// It has been asked for already.
    None,
}

impl State {
    fn take(&mut self, signal: i32, now: Instant) -> Effect {
        if !self.watched {
            return Effect::Default;
        }
        let second = signal == SIGINT
            && now.duration_since(*self.ctrl_c.get_or_insert(now)) >= SECOND_THOUGHT;
        match self.first {
            _ if second => Effect::Default,
            Some(_) => Effect::None,
            None => {
                self.first = Some(signal);
                Effect::Stop
            }
        }
    }
}

/// Listener of the process, which all calls share.
static LISTENING: Mutex<Option<Interrupt>> = Mutex::new(None);

impl Interrupt {
    /// Handles the signals of this process from now on. Later calls give the same.
    ///
    /// # Errors
    ///
    /// [`Error::System`] if the system refuses handlers or a thread.
    pub fn listen() -> Result<Self> {
        let mut listening = LISTENING.lock();
        if let Some(interrupt) = &*listening {
            return Ok(interrupt.clone());
        }
        let interrupt = Self::deaf();
        let hears = interrupt.clone();
        let started = signals::listen(move |signal| hears.hear(signal));
        started.map_err(|error| Error::System {
            rank: 0,
            what: "handlers of signals",
            message: error.to_string(),
        })?;
        Ok(listening.insert(interrupt).clone())
    }

    fn deaf() -> Self {
        Self {
            state: Arc::default(),
        }
    }

    fn hear(&self, signal: i32) {
        // The lock is not held while others may write to the log.
        let effect = self.state.lock().take(signal, Instant::now());
        let name = signals::name(signal);
        match effect {
            Effect::Default => signals::default_effect(signal),
            Effect::Stop if signal == SIGINT => tracing::warn!(
                "{name}: training ends after this step, in good order; Ctrl-C once more ends it at once"
            ),
            Effect::Stop => tracing::warn!("{name}: training ends after this step, in good order"),
            Effect::None => tracing::debug!("{name}: training ends already"),
        }
    }

    /// Begins to keep signals for a loop, which asks for them with [`InterruptWatch::requested`]. Every rank
    /// of the group calls it, before its first step.
    pub fn watch(&self, group: &ProcessGroup) -> InterruptWatch {
        self.state.lock().watched = true;
        InterruptWatch {
            interrupt: self.clone(),
            group: group.within("InterruptWatch::requested"),
        }
    }

    /// The first signal that this process got since the first [`watch`](Self::watch).
    pub fn signal(&self) -> Option<i32> {
        self.state.lock().first
    }

    /// The exit code of a program that did not do all its work: 128 and the number of the signal that this
    /// process got, as shells have it (143 after SIGTERM, 130 after Ctrl-C); 1 if it got none.
    pub fn exit_code(&self) -> ExitCode {
        let code = self.signal().map(|signal| 128 + signal);
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

/// One rank's view of [`Interrupt`]: whether any rank's process has been asked to end.
#[derive(Clone, Debug)]
pub struct InterruptWatch {
    interrupt: Interrupt,
    group: ProcessGroup,
}

impl InterruptWatch {
    /// Returns, on all ranks alike, which rank's process got a signal. Every rank of the group calls it after
    /// each step, or each few; it costs an all-reduce of 8 bytes.
    ///
    /// # Errors
    ///
    /// Those of the [group](ProcessGroup#errors-of-all-calls).
    pub fn requested(&self) -> Result<Option<Interruption>> {
        let signal = i64::from(self.interrupt.signal().unwrap_or_default());
        // The largest counts, so that one signal and one rank are named on all.
        let mut highest = [(signal << 32) | self.group.global_rank() as i64];
        self.group.all_reduce(&mut highest, ReduceOp::Max)?;
        let signal = (highest[0] >> 32) as i32;
        Ok((signal > 0).then_some(Interruption {
            signal,
            rank: (highest[0] & i64::from(u32::MAX)) as usize,
        }))
    }
}

/// A signal that has ended a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// The number of the signal.
    pub signal: i32,
    /// A rank of the process that got it.
    pub rank: usize,
}

/// Writes `the process of rank 1 got SIGTERM`.
impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signal, rank } = *self;
        write!(
            f,
            "the process of rank {rank} got {}",
            signals::name(signal)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGTERM: i32 = 15;

    fn watched() -> State {
        State {
            watched: true,
            ..State::default()
        }
    }

    #[test]
    fn before_a_loop_watches_a_signal_has_the_system_s_effect() {
        let mut state = State::default();
        assert_eq!(state.take(SIGTERM, Instant::now()), Effect::Default);
        assert_eq!(state.first, None);
    }

    #[test]
    fn a_launcher_s_repeated_signals_stop_once() {
        let (mut state, start) = (watched(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(state.take(SIGTERM, start), Effect::Stop);
        for (seconds, signal) in [(0, SIGTERM), (5, SIGTERM), (6, SIGINT), (6, SIGINT)] {
            assert_eq!(state.take(signal, after(seconds)), Effect::None, "{signal}");
        }
        assert_eq!(state.first, Some(SIGTERM));
    }

    #[test]
    fn only_a_person_s_second_ctrl_c_ends_at_once() {
        let (mut state, start) = (watched(), Instant::now());
        assert_eq!(state.take(SIGINT, start), Effect::Stop);
        let passed_on = start + Duration::from_millis(20);
        assert_eq!(state.take(SIGINT, passed_on), Effect::None);
        let second = start + Duration::from_secs(2);
        assert_eq!(state.take(SIGTERM, second), Effect::None);
        assert_eq!(state.take(SIGINT, second), Effect::Default);
    }

    #[test]
    fn a_signal_of_one_process_ends_all_loops_at_the_same_step() {
        // Each rank has an interrupt of its own, as in a process of its own.
        let groups = ProcessGroup::threads(3).unwrap();
        let stopped = std::thread::scope(|scope| {
            let ranks = groups.into_iter().map(|group| {
                scope.spawn(move || {
                    let interrupt = Interrupt::deaf();
                    let watch = interrupt.watch(&group);
                    for step in 1..10 {
                        if group.rank() == 1 && step == 4 {
                            interrupt.hear(SIGTERM);
                        }
                        if let Some(why) = watch.requested().unwrap() {
                            return (step, why, interrupt.signal());
                        }
                    }
                    panic!("it did not stop");
                })
            });
            let ranks: Vec<_> = ranks.collect();
            ranks
                .into_iter()
                .map(|rank| rank.join().unwrap())
                .collect::<Vec<_>>()
        });
        let why = Interruption {
            signal: SIGTERM,
            rank: 1,
        };
        let signals = [None, Some(SIGTERM), None];
        assert_eq!(stopped, signals.map(|signal| (4, why, signal)));
        assert!(why.to_string().starts_with("the process of rank 1 got "));
    }
}
