//! All processes of a job in one process group, so that a signal reaches them and what they started.
//!
//! The group's leader is a guard: this program again, as `launch-guard`, waiting for the end of a pipe
//! that the launcher alone holds open. Its pid, which names the group, stays taken until the launcher
//! has reaped it, so a signal never goes to strangers; and when the launcher dies in any way, also by
//! SIGKILL, the pipe ends and the guard kills the group. No child runs outside the group for a moment.
//!
//! A program that makes a group or session of its own leaves this one, and is then its own affair.

use crate::error::Error;
use rustix::process::{
    Pid, Signal, getpgrp, getpid, kill_current_process_group, kill_process_group,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Line that the guard writes once signals to the group can't end it any more.
const READY: &[u8] = b"ready\n";

/// The process group of one job; dropping it kills everything in it.
#[derive(Debug)]
pub(crate) struct Group {
    guard: Child,
}

impl Group {
    /// Starts the guard, and with it the group.
    ///
    /// # Errors
    ///
    /// When this program can't be started once more.
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = || Error::system("start the guard of the processes");
        let program = std::env::current_exe().map_err(failed())?;
        let guard = Command::new(program)
            .arg(super::GUARD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed())?;
        let mut group = Self { guard };
        let mut said = Vec::new();
        if let Some(stdout) = group.guard.stdout.take() {
            stdout
                .take(READY.len() as u64)
                .read_to_end(&mut said)
                .map_err(failed())?;
        }
        if said == READY {
            Ok(group)
        } else {
            Err(failed()(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    /// Makes the command start its program inside the group.
    pub(crate) fn enter(&self, command: &mut Command) {
        command.process_group(self.id().as_raw_nonzero().get());
    }

    /// Returns the wait for a child's end, to be called on a thread of its own.
    #[expect(clippy::unused_self, reason = "the other systems' group is needed")]
    pub(crate) fn waiter(
        &self,
        mut child: Child,
    ) -> impl FnOnce() -> io::Result<ExitStatus> + use<> {
        move || child.wait()
    }

    /// Asks all processes to end.
    pub(crate) fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// Passes on a signal that the launcher got.
    pub(crate) fn forward(&self, signal: i32) {
        self.send(Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
    }

    /// Ends all processes, the guard with them.
    pub(crate) fn kill(&self) {
        self.send(Signal::KILL);
    }

    fn send(&self, signal: Signal) {
        // It fails only when nobody is left to get the signal.
        let _ = kill_process_group(self.id(), signal);
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.guard)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        // The guard was just killed, so this takes no time; the group's name is free afterwards.
        let _ = self.guard.wait();
    }
}

/// The guard's own work: waits until the launcher is gone, then kills the group it leads.
///
/// # Errors
///
/// When it leads no group, or can't make signals harmless to itself.
pub fn guard() -> Result<Infallible, Error> {
    // Else it would kill the processes of a shell it was typed into.
    if getpgrp() != getpid() {
        return Err(Error::Guard);
    }
    let failed = || Error::system("guard the processes");
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).map_err(failed())?;
    }
    let mut stdout = io::stdout();
    stdout.write_all(READY).map_err(failed())?;
    stdout.flush().map_err(failed())?;

    // Nothing is ever written: the end of the pipe is the end of the launcher.
    let ended = io::copy(&mut io::stdin(), &mut io::sink()).map(drop);
    let killed = kill_current_process_group(Signal::KILL).map_err(io::Error::from);
    // Only a failure comes back from that.
    Err(failed()(
        ended
            .and(killed)
            .err()
            .unwrap_or(io::ErrorKind::Other.into()),
    ))
}
