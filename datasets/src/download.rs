//! The full MNIST, fetched over HTTPS into the user's cache directory.
//!
//! Invariants: a file has its final name only when it is complete and its SHA-256 is right, because it
//! is written under a name of its own in the same directory, synced and then renamed. So an interrupted
//! download leaves nothing that looks finished, and any number of threads and processes may download at
//! once: each writes its own temporary file, and the last rename wins with the same bytes. Each request
//! has deadlines, and no more is read than the file is long.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use ureq::{Agent, Proxy};

use crate::{Error, Result};

/// Addresses of the files, in the order in which they are tried: the mirrors that PyTorch and TensorFlow keep.
const MIRRORS: [&str; 2] = [
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
];

/// The four files of MNIST as its authors published them.
const FILES: [RemoteFile; 4] = [
    RemoteFile {
        name: "train-images-idx3-ubyte.gz",
        length: 9_912_422,
        sha256: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    },
    RemoteFile {
        name: "train-labels-idx1-ubyte.gz",
        length: 28_881,
        sha256: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    },
    RemoteFile {
        name: "t10k-images-idx3-ubyte.gz",
        length: 1_648_877,
        sha256: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    },
    RemoteFile {
        name: "t10k-labels-idx1-ubyte.gz",
        length: 4_542,
        sha256: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
];

/// Longest time of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of the other side.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for one file in all: 10 MB at 33 KB/s.
const FILE_TIMEOUT: Duration = Duration::from_mins(5);

/// Number of passes over the list of mirrors.
const ROUNDS: usize = 2;

/// Suffix of the names of temporary files.
const TEMPORARY: &str = ".part";
/// A temporary file this old was left by a process that was killed: a live one gives up much earlier.
const STALE: Duration = Duration::from_hours(24);

/// Makes sure that the full MNIST (60,000 digits to train on, 10,000 to test with; 12 MB) is in the
/// user's cache directory, and returns the directory for [`MnistDataset::from_dir`].
///
/// Only what is missing or damaged is fetched, so this works without a network once it has succeeded.
/// The cache is `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS and
/// `%LOCALAPPDATA%` on Windows; the files lie in `burn-dist/mnist` inside it.
///
/// The digits are by Y. LeCun and C. Cortes, licensed CC BY-SA 3.0.
///
/// # Errors
/// [`Error::Download`] when no mirror gives a good copy of a file, [`Error::NoCacheDirectory`], or
/// [`Error::Io`] when the directory can't be written.
///
/// # Example
/// ```no_run
/// use datasets::{MnistDataset, MnistSplit, download};
///
/// let train = MnistDataset::from_dir(download::mnist()?, MnistSplit::Train)?;
/// # Ok::<(), datasets::Error>(())
/// ```
///
/// [`MnistDataset::from_dir`]: crate::MnistDataset::from_dir
pub fn mnist() -> Result<PathBuf> {
    let cache = dirs::cache_dir().ok_or(Error::NoCacheDirectory)?;
    let directory = cache.join("burn-dist").join("mnist");
    mnist_into(&directory)?;
    Ok(directory)
}

/// The same as [`mnist`], into a directory of the caller's choice, which is made if need be.
///
/// # Errors
/// [`Error::Download`] or [`Error::Io`], as for [`mnist`].
pub fn mnist_into(directory: impl AsRef<Path>) -> Result<()> {
    let client = Client {
        mirrors: MIRRORS.map(String::from).to_vec(),
        agent: agent(
            [CONNECT_TIMEOUT, READ_TIMEOUT, FILE_TIMEOUT],
            Proxy::try_from_env(),
        ),
    };
    client.fetch_all(directory.as_ref(), &FILES)
}

/// Description of a file before it is fetched.
struct RemoteFile {
    name: &'static str,
    /// In bytes.
    length: u64,
    /// In lower-case hexadecimal digits.
    sha256: &'static str,
}

impl RemoteFile {
    /// Says what is wrong with bytes of this length and digest, if anything is.
    fn check(&self, length: u64, digest: &Sha256) -> Result<(), String> {
        if length != self.length {
            let more = if length > self.length {
                "more than "
            } else {
                ""
            };
            let found = length.min(self.length);
            return Err(format!(
                "it sent {more}{found} bytes, where {} belong",
                self.length
            ));
        }
        let found = format!("{:x}", digest.clone().finalize());
        if found != self.sha256 {
            return Err(format!(
                "its SHA-256 is {found}, where {} belongs",
                self.sha256
            ));
        }
        Ok(())
    }

    /// True if a good copy lies at `path`.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        let mut digest = Sha256::new();
        let length = io::copy(&mut file.take(self.length + 1), &mut digest)?;
        Ok(self.check(length, &digest).is_ok())
    }
}

/// HTTP agent and mirrors to fetch from.
struct Client {
    /// Addresses that a slash and a file's name are put after.
    mirrors: Vec<String>,
    agent: Agent,
}

/// An HTTP client with deadlines for the connection, each read and the whole.
fn agent([connect, read, whole]: [Duration; 3], proxy: Option<Proxy>) -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(connect))
        .timeout_resolve(Some(connect))
        .timeout_per_read(Some(read))
        .timeout_global(Some(whole))
        .proxy(proxy)
        .user_agent(concat!("burn-dist-datasets/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

impl Client {
    fn fetch_all(&self, directory: &Path, files: &[RemoteFile]) -> Result<()> {
        fs::create_dir_all(directory).map_err(not_written(directory))?;
        sweep(directory, files, SystemTime::now());
        files
            .iter()
            .try_for_each(|file| self.fetch(directory, file))
    }

    /// Puts one file into the directory, unless a good copy is there.
    fn fetch(&self, directory: &Path, file: &RemoteFile) -> Result<()> {
        let path = directory.join(file.name);
        let mut failures = Vec::new();
        // The mirrors that are worth another try.
        let mut mirrors: Vec<&String> = self.mirrors.iter().collect();
        for _ in 0..ROUNDS {
            let mut again = Vec::new();
            for mirror in mirrors {
                // Looked at before each try: another process may have finished it by now.
                if file.is_at(&path).map_err(not_written(&path))? {
                    return Ok(());
                }
                let url = format!("{mirror}/{}", file.name);
                let mut copy = tempfile::Builder::new()
                    .prefix(&temporary_prefix(file))
                    .suffix(TEMPORARY)
                    .tempfile_in(directory)
                    .map_err(not_written(directory))?;
                match self.receive(&url, file, &mut copy) {
                    Ok(()) => return keep(copy, &path, file),
                    Err(Failure::Local(source)) => return Err(not_written(copy.path())(source)),
                    Err(Failure::Refused(reason)) => failures.push(format!("{url}: {reason}")),
                    Err(Failure::Interrupted(reason)) => {
                        failures.push(format!("{url}: {reason}"));
                        again.push(mirror);
                    }
                }
            }
            mirrors = again;
        }
        Err(Error::Download {
            file: file.name,
            failures,
        })
    }

    /// Writes what a server sends into `copy`, and checks it.
    fn receive(
        &self,
        url: &str,
        file: &RemoteFile,
        copy: &mut NamedTempFile,
    ) -> Result<(), Failure> {
        let response = self.agent.get(url).call().map_err(Failure::of_request)?;
        let mut body = response.into_body().into_reader().take(file.length + 1);
        let (mut length, mut digest) = (0, Sha256::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failure::of_body(&error, length, file.length));
                }
            };
            copy.write_all(&buffer[..count]).map_err(Failure::Local)?;
            digest.update(&buffer[..count]);
            length += count as u64;
        }
        file.check(length, &digest).map_err(|reason| {
            // A shorter body may be a connection that broke; another body won't change.
            if length < file.length {
                Failure::Interrupted(reason)
            } else {
                Failure::Refused(reason)
            }
        })?;
        copy.as_file().sync_all().map_err(Failure::Local)
    }
}

/// Reason why one attempt brought no file.
enum Failure {
    /// This machine could not write it: no mirror can help.
    Local(io::Error),
    /// The mirror can't be reached, is too slow or has not got the file: another try would meet the
    /// same.
    Refused(String),
    /// It broke off, which may not happen again.
    Interrupted(String),
}

impl Failure {
    fn of_request(error: ureq::Error) -> Self {
        let reason = error.to_string();
        match error {
            // The server's trouble, or it asks for patience.
            ureq::Error::StatusCode(429 | 500..) => Self::Interrupted(reason),
            ureq::Error::Io(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
                Self::Interrupted(reason)
            }
            _ => Self::Refused(reason),
        }
    }

    fn of_body(error: &io::Error, received: u64, length: u64) -> Self {
        let reason = format!("{error} after {received} bytes of {length}");
        match error.kind() {
            // It has had its time.
            io::ErrorKind::TimedOut => Self::Refused(reason),
            _ => Self::Interrupted(reason),
        }
    }
}

/// Gives a complete copy its final name.
fn keep(copy: NamedTempFile, path: &Path, file: &RemoteFile) -> Result<()> {
    match copy.persist(path) {
        Ok(_) => Ok(()),
        // Windows refuses to replace a file that another process is reading: then it is a good one.
        Err(_) if file.is_at(path).unwrap_or(false) => Ok(()),
        Err(error) => Err(not_written(path)(error.error)),
    }
}

/// Returns the prefix of the names of a file's temporary copies.
fn temporary_prefix(file: &RemoteFile) -> String {
    format!(".{}-", file.name)
}

/// Removes what killed downloads left. Files that can't be looked at or removed stay: they do no harm
/// but take room.
fn sweep(directory: &Path, files: &[RemoteFile], now: SystemTime) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = entry.metadata().and_then(|found| found.modified());
        let age = age
            .ok()
            .and_then(|modified| now.duration_since(modified).ok());
        let ours = files
            .iter()
            .any(|file| name.starts_with(&temporary_prefix(file)))
            && name.ends_with(TEMPORARY);
        if ours && age.is_some_and(|age| age > STALE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn not_written(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        action: "write to",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
