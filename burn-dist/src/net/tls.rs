//! The certificates of a process, if its job encrypts its connections.
//!
//! Both sides of every connection present a certificate, and each verifies the other's: it was signed by
//! the job's CA, is valid now, and carries the job's name. One name serves the whole job, because
//! processes are reached by addresses, which certificates rarely carry. The challenge–response inside the session
//! (`auth`), which is bound to it, proves which process is at the other end: a certificate alone makes nobody a
//! member, and its owner can't relay between two members.
//!
//! Without the feature `tls` there are no certificates, and asking for some is an error.

#[cfg_attr(feature = "tls", path = "tls/certificates.rs")]
#[cfg_attr(not(feature = "tls"), path = "tls/absent.rs")]
mod certificates;

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

pub(super) use certificates::Credentials;
#[cfg(feature = "tls")]
pub(super) use certificates::describe;

use crate::error::{Error, JoinFailure, Result};

/// Variables that name the files: the certificate, its key, the CA's certificate.
const FILES: [&str; 3] = [
    "BURN_DIST_TLS_CERT",
    "BURN_DIST_TLS_KEY",
    "BURN_DIST_TLS_CA",
];
/// Variable with the name in the job's certificates.
const NAME: &str = "BURN_DIST_TLS_NAME";

/// A process's certificate with its key, and the certificate of the job's CA: with it, all that the
/// processes of a job send one another is encrypted with TLS 1.3.
///
/// Every process has to have one. Each verifies that the other's certificate was signed by the CA, is
/// valid, and is for the job's [name](Self::with_name); after that the job's secret is proved inside the
/// encrypted connection, as it is without TLS.
///
/// It needs the feature `tls`; without it, making one is an error.
///
/// # Example
///
/// ```no_run
/// use burn_dist::{JobConfig, Secret, Tls};
///
/// let job = JobConfig::new(1, 2, "10.0.0.1:29500")
///     .with_secret(Secret::from_file("job.secret")?)
///     .with_tls(Tls::from_files("node1.pem", "node1.key", "ca.pem")?);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Clone)]
pub struct Tls(Credentials);

impl Tls {
    /// The certificate, with intermediate ones after it if it has any, its private key, and the
    /// certificates of the CA (one or several): files in PEM's format.
    ///
    /// The key must not be encrypted. A file with it that every user of the machine can read works, but
    /// is warned of; one that every user can write is refused.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`] if a file can't be read or holds something else, or the key is not the
    /// certificate's. Whether the certificate itself is right is seen when the job is joined.
    pub fn from_files(
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
        ca: impl AsRef<Path>,
    ) -> Result<Self> {
        let loaded = Credentials::load(certificate.as_ref(), key.as_ref(), ca.as_ref());
        loaded.map(Self).map_err(fault)
    }

    /// The name that the certificates of the job's processes are for: `burn-dist` unless it is given
    /// here. It is a DNS name or an address, which each of them carries as a subject alternative name.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`] if it can't be such a name.
    pub fn with_name(self, name: &str) -> Result<Self> {
        self.0.named(name).map(Self).map_err(fault)
    }

    /// The files that `BURN_DIST_TLS_CERT`, `BURN_DIST_TLS_KEY` and `BURN_DIST_TLS_CA` name, and the name
    /// in `BURN_DIST_TLS_NAME` if that is set; none if none of them is.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`] if only some are set, and as [`from_files`](Self::from_files) and
    /// [`name`](Self::with_name).
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// Reads the files like [`from_env`](Self::from_env), named by the variables of `lookup`.
    pub(crate) fn from_variables(
        lookup: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>> {
        let given = |name: &&&str| lookup(name).is_some();
        let Some(first) = FILES.iter().chain(&[NAME]).find(given) else {
            return Ok(None);
        };
        let file = |name: &'static str| {
            lookup(name).ok_or_else(|| {
                let expected = format!("a file in PEM's format, because {first} is set");
                JoinFailure::Variable {
                    name,
                    value: None,
                    expected,
                }
                .unplaced()
            })
        };
        let [certificate, key, ca] = FILES;
        let tls = Self::from_files(file(certificate)?, file(key)?, file(ca)?)?;
        match lookup(NAME) {
            Some(name) => tls.with_name(&name.to_string_lossy()).map(Some),
            None => Ok(Some(tls)),
        }
    }

    /// Checks, as far as this process can tell, that the other processes accept the certificate.
    pub(crate) fn check(&self) -> Result<(), JoinFailure> {
        self.0.check().map_err(JoinFailure::Configuration)
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.0
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(hidden)")
    }
}

fn fault(message: String) -> Error {
    JoinFailure::Configuration(message).unplaced()
}

#[cfg(test)]
mod tests;
