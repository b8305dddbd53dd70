//! Process 0's part: it serves the store, and is the last to leave when joining fails.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::register;
use super::{Attempt, persist, system};
use crate::error::{JoinFailure, Result};
use crate::net::files;
use crate::net::rejects::RejectCounts;
use crate::rendezvous::address;
use crate::rendezvous::config::JobConfig;
use crate::rendezvous::store::{Limits, StoreClient, StoreServer};

/// Most bytes of a file with an address.
const MAX_ADDRESS_BYTES: usize = 256;

/// The store's server, and the file that tells where it is, if there is one.
#[derive(Debug)]
pub(crate) struct Host {
    server: StoreServer,
    file: Option<PathBuf>,
    reached_at: IpAddr,
}

impl Host {
    /// Listens at the master's address and serves the store there.
    pub(super) fn start(
        config: &JobConfig,
        (name, port): (&str, u16),
        started: Instant,
        deadline: Instant,
    ) -> Result<Self> {
        let named = |failure| config.fault(config.master().to_owned(), failure);
        // A machine's own name may be known only a while after it is up, as a Pod's is.
        let master = persist(config, started, deadline, || {
            address::resolve(name, port)
                .map_err(|failure| (config.master().to_owned(), Attempt::Again(failure)))
        })?;
        let secret = config.secret();
        let listener = match config.take_listener() {
            Some(listener) => listener,
            None => listen(config, &master, port)?,
        };
        let address = listener
            .local_addr()
            .map_err(|error| named(system("an address", &error)))?;
        let fault = |failure| config.fault(address.to_string(), failure);
        address::check_open(address.ip(), secret).map_err(fault)?;
        warn_of_loopback(config, name, address);
        tracing::info!(%address, "the job's store listens");
        let tls = config.tls().cloned();
        let name = config.job_name();
        let server = StoreServer::start(listener, secret.clone(), tls, &name, Limits::default())
            .map_err(|error| fault(system("the job's store", &error)))?;
        let reached_at = if address.ip().is_unspecified() {
            master[0].ip() // it listens on all, but is reached at one
        } else {
            address.ip()
        };
        let mut host = Self {
            server,
            file: None,
            reached_at,
        };
        if let Some(file) = config.address_file() {
            write_address(file, SocketAddr::new(reached_at, address.port())).map_err(fault)?;
            host.file = Some(file.to_owned());
        }
        Ok(host)
    }

    /// Process 0's own connection to its store.
    pub(super) fn connect(&self, config: &JobConfig, deadline: Instant) -> Result<StoreClient> {
        let mut address = self.server.address();
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let client = StoreClient::connect(
            address,
            config.secret(),
            config.tls(),
            &config.job_name(),
            deadline,
        );
        client.map_err(|error| {
            config.fault(
                address.to_string(),
                JoinFailure::Lost(error.to_string().into()),
            )
        })
    }

    /// Closes the store, and returns the number of connections that it turned away.
    pub(crate) fn close(self) -> RejectCounts {
        self.server.stop();
        self.server.rejects()
    }

    /// Returns the address of the store.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns the address by which others reach this machine.
    pub(super) fn reached_at(&self) -> IpAddr {
        self.reached_at
    }

    /// Waits until the others have read why joining failed, and adds what only process 0 knows.
    pub(super) fn last_words(
        &self,
        store: &mut StoreClient,
        processes: usize,
        mut failure: JoinFailure,
    ) -> JoinFailure {
        // They may be gone already; then there is nobody left to wait for.
        let _ = register::linger(store, &failure, processes);
        if let JoinFailure::Missing { turned_away, .. } = &mut failure {
            *turned_away = self.server.rejects().total();
        }
        failure
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // So that the next job finds none; a folder that is gone took it along.
            let _ = fs::remove_file(file);
        }
    }
}

/// Listens where the configuration says.
fn listen(config: &JobConfig, master: &[SocketAddr], port: u16) -> Result<TcpListener> {
    let interface = match config.interface() {
        Some(interface) => {
            let found = address::of_interface(interface, master[0].ip());
            Some(found.map_err(|failure| config.fault(interface.to_owned(), failure))?)
        }
        None => None,
    };
    let listening = address::listen_as_master(master, interface, port, config.secret());
    listening.map_err(|(address, failure)| {
        let failure = match failure {
            JoinFailure::Listen(error) if config.torchrun_listens() => {
                JoinFailure::Listen(format!(
                    "{error}; torchrun's rendezvous may have put RANK 0 on another machine than its own \
                     store: give torchrun TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or --master-addr and \
                     --node-rank in place of a rendezvous"
                ))
            }
            other => other,
        };
        config.fault(address.to_string(), failure)
    })
}

/// Warns of an address that leads processes on other machines to themselves, as a name does that means a
/// machine to itself alone (Debian's 127.0.1.1).
fn warn_of_loopback(config: &JobConfig, name: &str, address: SocketAddr) {
    if is_loopback_in_doubt(config, name, address.ip()) {
        tracing::warn!(
            %address,
            "process 0's machine is given as {name}, which only processes on this machine reach; if some run \
             elsewhere, set MASTER_ADDR to an address of this machine, or tell process 0 its interface \
             (BURN_DIST_INTERFACE)"
        );
    }
}

/// True if process 0 is reached from its own machine alone, and nobody has said that all processes are there:
/// the launcher by the number of those on this machine, or a person who writes 127.0.0.1.
pub(super) fn is_loopback_in_doubt(config: &JobConfig, name: &str, address: IpAddr) -> bool {
    let others = config.processes() > config.local_processes().unwrap_or(1);
    let elsewhere = others && config.local_processes().is_some();
    let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
    let explicit = matches!(name.parse::<IpAddr>(), Ok(ip) if ip == loopback || ip.is_ipv6());
    address.is_loopback() && others && (elsewhere || !explicit)
}

/// Writes the address where no file is yet, whole or not at all.
fn write_address(file: &Path, address: SocketAddr) -> Result<(), JoinFailure> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    // What an earlier process with this number has left, if not somebody's link to another file.
    let _ = fs::remove_file(&draft);
    let written = fs::File::create_new(&draft)
        .and_then(|mut draft| writeln!(draft, "{address}"))
        .and_then(|()| fs::hard_link(&draft, file));
    // It has its name now, or is of no use.
    let _ = fs::remove_file(&draft);
    written.map_err(|error| {
        JoinFailure::Configuration(format!(
            "the file for process 0's address, {}, can't be made ({error}); give every job a new one",
            file.display()
        ))
    })
}

/// Reads the address, once process 0 has written it.
pub(super) fn read_address(file: &Path) -> Result<SocketAddr, JoinFailure> {
    let unreachable = |what: String| JoinFailure::Unreachable {
        after: Duration::ZERO, // whoever goes on trying knows
        detail: format!(
            "the file by which it tells its address, {}: {what}",
            file.display()
        ),
    };
    let bytes = files::read(file, MAX_ADDRESS_BYTES).map_err(unreachable)?;
    let text = std::str::from_utf8(&bytes).ok();
    let address = text.and_then(|text| text.trim().parse().ok());
    address.ok_or_else(|| unreachable("it holds no address".to_owned()))
}
