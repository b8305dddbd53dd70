//! The name of a job, and the port that follows from it.

use super::JobConfig;
use crate::error::{JoinFailure, Result};

/// Port of a job without a name whose launcher sets none: the one of `PyTorch`.
const PORT: u16 = 29_500;
/// Most bytes of a job's name.
const MAX_NAME: usize = 256;

impl JobConfig {
    /// Sets a name that only this job has (default: none). Processes of jobs with different names never join one
    /// another, even if they share a secret and a port. The launcher's name of the job (a Slurm job and step,
    /// torchrun's run id) counts as well.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`](crate::Error::Rendezvous) if it is empty, or has more than 256 bytes or a control character.
    pub fn with_name(mut self, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        check_name(&name).map_err(|what| {
            let message = format!("the job's name {name:?} {what}");
            self.fault(self.master.clone(), JoinFailure::Configuration(message))
        })?;
        self.name = Some(name);
        Ok(self.with_named_port())
    }

    /// Returns the name by which the job's processes recognise one another; empty if it has none.
    pub(in crate::rendezvous) fn job_name(&self) -> String {
        let parts = [&self.launcher_job, &self.name];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        parts.join("/")
    }

    /// Sets the launcher's own name of the job.
    pub(in crate::rendezvous) fn launched(mut self, name: Option<String>) -> Self {
        self.launcher_job = name.map(|name| match check_name(&name) {
            Ok(()) => name,
            Err(_) => format!("{:016x}", hash(&name)),
        });
        self
    }

    /// Sets the address of process 0 to a port of a host.
    pub(in crate::rendezvous) fn at(mut self, host: &str, port: u16) -> Self {
        self.master = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}") // an IPv6 address
        } else {
            format!("{host}:{port}")
        };
        self
    }

    /// Sets the address of process 0 to a host, with the port that follows from the job's name and the
    /// launcher's number of it.
    pub(in crate::rendezvous) fn at_port_of(mut self, host: &str, number: Option<u64>) -> Self {
        self.named_port = Some((host.to_owned(), number));
        self.with_named_port()
    }

    fn with_named_port(self) -> Self {
        let Some((host, number)) = &self.named_port else {
            return self;
        };
        let named = match number {
            // The launcher's name adds nothing to its number.
            Some(number) => Some(number.wrapping_add(self.name.as_deref().map_or(0, hash))),
            None => Some(self.job_name())
                .filter(|name| !name.is_empty())
                .map(|name| hash(&name)),
        };
        // Below the ports that systems assign to connections, and rarely equal for two jobs.
        let port = named.map_or(PORT, |number| 10_000 + (number % 20_000) as u16);
        let host = host.clone();
        self.at(&host, port)
    }
}

/// Checks a job's name. The error is its defect.
pub(in crate::rendezvous) fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        Err("is empty".to_owned())
    } else if name.len() > MAX_NAME {
        Err(format!("has more than {MAX_NAME} bytes"))
    } else if name.contains(char::is_control) {
        Err("has a control character".to_owned())
    } else {
        Ok(())
    }
}

/// FNV-1a: the same on all machines and in all versions.
fn hash(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}
