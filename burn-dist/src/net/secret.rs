//! The secret that the processes of a job share.
//!
//! Invariants: it is never shown (`Debug` only says if there is one), and its memory is cleared when it is dropped.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use super::files;
use crate::error::{Error, JoinFailure, Result};

/// Variable with the secret.
pub(crate) const SECRET: &str = "BURN_DIST_SECRET";
/// Variable that names a file with the secret.
pub(crate) const SECRET_FILE: &str = "BURN_DIST_SECRET_FILE";

/// Fewest bytes that protect a port which other machines reach. A stranger who connects gets a value keyed with the
/// secret, and could guess a short one offline.
const MIN_SAFE_BYTES: usize = 16;
/// Most bytes of a secret.
const MAX_SECRET_BYTES: usize = 4096;

/// The secret that the processes of a job share, and by which they recognise one another.
///
/// It proves membership. It does not encrypt the connections, as [`Tls`](super::Tls) does.
///
/// # Example
///
/// ```
/// use burn_dist::Secret;
///
/// let made = Secret::generate()?; // print it once, give it to every process
/// let secret = Secret::new(made.as_bytes());
/// assert_eq!(format!("{secret:?}"), "Secret(hidden)");
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Creates a secret from its bytes, without white space around them, such as a file's last line end. No bytes
    /// mean "no secret", which only jobs on one machine may have.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.trim_ascii().to_vec()))
    }

    /// Reads the secret from the variable `BURN_DIST_SECRET`, or from the file that `BURN_DIST_SECRET_FILE` names;
    /// no secret if neither is set.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`] if both are set, one is empty, or the file can't be used.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// Reads the secret like [`from_env`](Self::from_env), from the variables of `lookup`.
    pub(crate) fn from_variables(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        match (lookup(SECRET), lookup(SECRET_FILE)) {
            (None, None) => Ok(Self::default()),
            (Some(_), Some(_)) => Err(fault(format!(
                "{SECRET} and {SECRET_FILE} are both set; unset one of them"
            ))),
            (None, Some(path)) => Self::from_file(path),
            (Some(value), None) => {
                let value = Zeroizing::new(value.into_encoded_bytes());
                Self::checked(&value).map_err(|what| fault(format!("{SECRET} {what}")))
            }
        }
    }

    /// Reads the secret from a regular file. Logs a warning if every user of the machine can read it.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`] if the file can't be read, is empty or too large, not a regular file, or other users can
    /// write it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = |what: String| fault(format!("the secret's file {}: {what}", path.display()));
        let bytes = files::read_private(path, MAX_SECRET_BYTES).map_err(named)?;
        Self::checked(&bytes).map_err(named)
    }

    /// Generates a secret: 32 random bytes in hexadecimal, as `openssl rand -hex 32` does.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`] if the operating system has no random numbers.
    pub fn generate() -> Result<String> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *bytes)
            .map_err(|error| fault(format!("no random numbers from the system: {error}")))?;
        let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
        Ok(bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
            .collect())
    }

    /// Returns true if there is no secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if the secret is long enough for a port that other machines can reach.
    pub(crate) fn is_safe(&self) -> bool {
        self.0.len() >= MIN_SAFE_BYTES
    }

    /// Returns its bytes, as the key of a keyed hash.
    pub(super) fn key(&self) -> &[u8] {
        &self.0
    }

    fn checked(bytes: &[u8]) -> Result<Self, String> {
        let secret = Self::new(bytes);
        if secret.is_empty() {
            Err("is empty; `openssl rand -hex 32` makes a secret".to_owned())
        } else if bytes.len() > MAX_SECRET_BYTES {
            Err(format!(
                "has more than {MAX_SECRET_BYTES} bytes; 32 are plenty"
            ))
        } else {
            Ok(secret)
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() {
            "Secret(none)"
        } else {
            "Secret(hidden)"
        })
    }
}

fn fault(message: String) -> Error {
    JoinFailure::Configuration(message).unplaced()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Secret> {
        let variables: Vec<(String, OsString)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.into()))
            .collect();
        Secret::from_variables(&move |name| {
            let found = variables.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn it_is_never_shown() {
        let secret = Secret::new(b"correct horse battery staple");
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
        assert_eq!(format!("{:?}", Secret::default()), "Secret(none)");
    }

    #[test]
    fn a_made_secret_is_long_enough_and_new_each_time() {
        let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_eq!(one.len(), 64);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, other);
        assert!(Secret::new(one.as_bytes()).is_safe());
    }

    #[test]
    fn the_environment_gives_it_or_says_what_is_wrong() {
        assert!(from(&[]).unwrap().is_empty());
        assert_eq!(from(&[(SECRET, "abc\n")]).unwrap().key(), b"abc");
        let error = from(&[(SECRET, " ")]).unwrap_err().to_string();
        assert!(
            error.contains(SECRET) && error.contains("openssl rand -hex 32"),
            "{error}"
        );
        let error = from(&[(SECRET, "abc"), (SECRET_FILE, "x")]).unwrap_err();
        assert!(error.to_string().contains("both set"), "{error}");
        let error = from(&[(SECRET_FILE, "/no/such/file")]).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
        let error = from(&[(SECRET, &"x".repeat(MAX_SECRET_BYTES + 1))]).unwrap_err();
        assert!(error.to_string().contains("more than 4096"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_change_is_refused() {
        use std::fs::File;
        use std::os::unix::fs::PermissionsExt;

        use super::files::{Exposure, exposure};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        for (mode, exposed) in [
            (0o600, Exposure::Private),
            (0o640, Exposure::Private),
            (0o644, Exposure::Readable),
            (0o620, Exposure::Writable),
            (0o660, Exposure::Writable),
            (0o666, Exposure::Writable),
        ] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).unwrap();
            assert_eq!(exposure(&File::open(&path).unwrap()).unwrap(), exposed);
            let read = Secret::from_file(&path);
            if exposed == Exposure::Writable {
                assert!(read.unwrap_err().to_string().contains("chmod 600"));
            } else {
                assert_eq!(read.unwrap().key(), b"0123456789abcdef");
            }
        }
        std::fs::write(&path, "\n").unwrap();
        let permissions = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, permissions).unwrap();
        let error = Secret::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("is empty"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("secret");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            let path = path.to_owned();
            let (sender, read) = std::sync::mpsc::channel();
            // Left behind if it waits.
            std::thread::spawn(move || sender.send(Secret::from_file(path)));
            let read = read
                .recv_timeout(std::time::Duration::from_secs(20))
                .unwrap();
            let error = read.unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
    }
}
