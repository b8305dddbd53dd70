//! The one error type of the crate: which file or address, what is wrong with it, what to do.

use std::io;
use std::path::PathBuf;

use burn::data::dataset::DatasetError;

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why a data set can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is not what MNIST's format says.
    #[error("{}: {fault}; a good file in MNIST's format is needed (28x28 grey \
         images, labels 0 to 9)", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Fault in the file.
        fault: Fault,
    },

    /// The two files of a split do not belong together.
    #[error(
        "{} holds {image_count} images but {} holds {label_count} labels; take both files from the \
         same copy of the data set",
        images.display(), labels.display()
    )]
    CountMismatch {
        /// The file of images.
        images: PathBuf,
        /// Number of images it holds.
        image_count: usize,
        /// The file of labels.
        labels: PathBuf,
        /// Number of labels it holds.
        label_count: usize,
    },

    /// A directory lacks a file of the data set.
    #[error(
        "{} has none of {}; give the directory that holds the four files of an MNIST-format data set",
        directory.display(), names.join(", ")
    )]
    MissingFile {
        /// Directory that was searched.
        directory: PathBuf,
        /// The names it may have.
        names: Vec<String>,
    },

    /// The operating system refused to read or write.
    #[error("could not {action} {}: {source}; check that it exists and may be used", path.display())]
    Io {
        /// Action that failed: "read", "write to".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },

    /// This build can't download.
    #[cfg(not(feature = "download"))]
    #[error(
        "this program was built without downloads; build it with the feature `download`, as \
         `cargo xtask train-mnist --download` does"
    )]
    NoDownload,

    /// This user has no cache directory to download into.
    #[cfg(feature = "download")]
    #[error(
        "found no cache directory for this user (is the home directory set?); name a directory to \
         download into, or use the embedded digits"
    )]
    NoCacheDirectory,

    /// No mirror gave a good copy of a file.
    #[cfg(feature = "download")]
    #[error(
        "could not download {file} ({}); without a network, put the four MNIST files into a \
         directory and open that (`--data-dir`), or use the embedded digits (neither `--data-dir` \
         nor `--download`)",
        failures.join("; ")
    )]
    Download {
        /// The file's name.
        file: &'static str,
        /// Address and error of each attempt, in order.
        failures: Vec<String>,
    },
}

/// Fault in a file of MNIST's format (IDX).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It is a directory, a device or a pipe.
    #[error("not a regular file")]
    NotAFile,

    /// The first bytes are those of another format, or of the other kind of IDX file.
    #[error(
        "not an IDX file of {expected_kind}: it starts with {}, where {} or gzip's 1f 8b belongs",
        hex(found),
        hex(expected)
    )]
    WrongMagic {
        /// Contents that the file should have: "images", "labels".
        expected_kind: &'static str,
        /// Its first bytes (after decompression), four of them where there are four.
        found: Vec<u8>,
        /// The first bytes of such a file.
        expected: [u8; 4],
    },

    /// The gzip stream can't be decompressed to its end.
    #[error("broken gzip data ({0})")]
    BrokenGzip(String),

    /// It ends inside its header.
    #[error("cut short inside its header: {found} bytes, where the header has {expected}")]
    ShortHeader {
        /// Bytes there (after decompression).
        found: usize,
        /// Bytes in the header.
        expected: usize,
    },

    /// Its images have another size.
    #[error("its images have {rows}x{columns} pixels, where 28x28 is needed")]
    WrongDimensions {
        /// Rows of an image.
        rows: u32,
        /// Columns of an image.
        columns: u32,
    },

    /// Its header speaks of no item.
    #[error("its header says that it holds nothing")]
    Empty,

    /// Its header speaks of more than this crate is ready to hold.
    #[error("its header speaks of {declared} bytes, where at most {limit} are read")]
    TooLarge {
        /// Bytes of data in the header's words.
        declared: u64,
        /// The limit, in bytes.
        limit: u64,
    },

    /// It holds less than its header says.
    #[error("cut short: {found} bytes of data, where its header speaks of {declared}")]
    Truncated {
        /// Bytes of data there (after decompression).
        found: u64,
        /// Bytes of data in the header's words.
        declared: u64,
    },

    /// It goes on after the last item.
    #[error("goes on after the {declared} bytes of data that its header speaks of")]
    TrailingBytes {
        /// Bytes of data in the header's words.
        declared: u64,
    },

    /// A label is not a class.
    #[error("label {label} of item {index} is not one of 0 to 9")]
    WrongLabel {
        /// The item, from 0.
        index: usize,
        /// Its label.
        label: u8,
    },
}

/// Bytes as a reader of a hex dump knows them.
fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

impl From<Error> for DatasetError {
    fn from(error: Error) -> Self {
        DatasetError::new(error)
    }
}
