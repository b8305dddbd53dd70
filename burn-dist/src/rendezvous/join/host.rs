//! Process 0's part: it serves the store, and is the last to leave when joining fails.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::register;
use super::{Attempt, persist, system};
use crate::error::{JoinFailure, Result};
use crate::rendezvous::address;
use crate::rendezvous::config::JobConfig;
use crate::rendezvous::rejects::Rejects;
use crate::rendezvous::store::{Limits, StoreClient, StoreServer};

/// How long process 0 stays for the others to read why joining failed.
const LINGER: Duration = Duration::from_secs(2);

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
        let secret = config.get_secret();
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
        let tls = config.get_tls().cloned();
        let server = StoreServer::start(listener, secret.clone(), tls, Limits::default())
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
        if let Some(file) = config.get_address_file() {
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
        let client = StoreClient::connect(address, config.get_secret(), config.get_tls(), deadline);
        client.map_err(|error| {
            config.fault(
                address.to_string(),
                JoinFailure::Lost(error.to_string().into()),
            )
        })
    }

    /// Closes the store; says what it turned away while it was open.
    pub(crate) fn close(mut self) -> Rejects {
        self.server.shutdown();
        self.server.rejected()
    }

    /// Where the store listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The address of this machine that others use.
    pub(super) fn reached_at(&self) -> IpAddr {
        self.reached_at
    }

    /// Waits until the others have read why joining failed, and adds what only process 0 knows.
    pub(super) fn last_words(
        &self,
        store: &mut StoreClient,
        mut failure: JoinFailure,
    ) -> JoinFailure {
        // They may be gone already; then there is nobody left to wait for.
        let _ = register::wait_until_read(store, Instant::now() + LINGER);
        if let JoinFailure::Missing { turned_away, .. } = &mut failure {
            *turned_away = self.server.rejected().total();
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
    let interface = match config.get_interface() {
        Some(interface) => {
            let found = address::of_interface(interface, master[0].ip());
            Some(found.map_err(|failure| config.fault(interface.to_owned(), failure))?)
        }
        None => None,
    };
    address::listen_as_master(master, interface, port, config.get_secret())
        .map_err(|(address, failure)| config.fault(address.to_string(), failure))
}

/// A name that means this machine to itself (as Debian's 127.0.1.1) leads the others to themselves.
fn warn_of_loopback(config: &JobConfig, name: &str, address: SocketAddr) {
    let by_name = name != "localhost" && name.parse::<IpAddr>().is_err();
    if by_name && address.ip().is_loopback() && config.processes() > 1 {
        tracing::warn!(
            %address,
            "the name {name} is a loopback address on this machine: processes on other machines can't \
             reach it; use an address instead of the name, or set `interface`"
        );
    }
}

/// Writes the address where no file is yet, whole or not at all.
fn write_address(file: &Path, address: SocketAddr) -> Result<(), JoinFailure> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let written = fs::File::create(&draft)
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
    let text = fs::read_to_string(file).map_err(|error| unreachable(error.to_string()))?;
    let address = text.trim().parse();
    address.map_err(|_| unreachable("it holds no address".to_owned()))
}
