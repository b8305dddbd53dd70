//! One split of a data set in MNIST's format, in memory: a single buffer of pixels, one of labels.
//!
//! Invariant: there are [`PIXELS`] bytes of pixels for every label, and every label is a class.
//! Clones share the buffers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::data::dataset::{Dataset, DatasetError};

use crate::idx::{self, DecodeError};
use crate::{Error, Fault, PIXELS, Result};

/// One image and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MnistItem {
    /// The grey values, row by row from the top left: 0 is the background, 255 full ink.
    pub image: [u8; PIXELS],
    /// The class, from 0 to 9.
    pub label: u8,
}

/// Part of a data set: for training, or for evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MnistSplit {
    /// The images to train on (`train-*`).
    Train,
    /// The images held out for the test (`t10k-*`).
    Test,
}

impl MnistSplit {
    /// Returns the prefix of the names of its files.
    fn prefix(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "t10k",
        }
    }
}

impl fmt::Display for MnistSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// Images in MNIST's format, held in memory; clones are cheap and share them.
///
/// As a Burn [`Dataset`], `get` and `get_many` panic for an index that is not below `len()`, which is
/// what that trait asks for; nothing else fails once the data set exists.
#[derive(Clone)]
pub struct MnistDataset {
    data: Arc<Data>,
}

struct Data {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

/// Both splits of a data set in MNIST's format.
#[derive(Clone, Debug)]
pub struct Mnist {
    /// The images to train on.
    pub train: MnistDataset,
    /// The images held out for the test.
    pub test: MnistDataset,
}

impl Mnist {
    /// Reads a directory as [`MnistDataset::from_dir`]; without one, the digits inside this crate.
    ///
    /// # Errors
    /// As [`MnistDataset::from_dir`].
    pub fn open(directory: Option<&Path>) -> Result<Self> {
        let split = |split| match directory {
            Some(directory) => MnistDataset::from_dir(directory, split),
            None => MnistDataset::embedded(split),
        };
        Ok(Self {
            train: split(MnistSplit::Train)?,
            test: split(MnistSplit::Test)?,
        })
    }

    /// Reads the full MNIST from the user's cache directory, and downloads what is missing there.
    ///
    /// # Errors
    /// [`Error::NoDownload`] without the feature `download`; otherwise as `download::mnist` and [`open`](Self::open).
    pub fn download() -> Result<Self> {
        #[cfg(feature = "download")]
        return Self::open(Some(&crate::download::mnist()?));
        #[cfg(not(feature = "download"))]
        Err(Error::NoDownload)
    }
}

impl MnistDataset {
    /// The digits inside this crate: 8,000 to train on or 2,000 to test with, of the full MNIST's
    /// training set. By Y. LeCun and C. Cortes, licensed CC BY-SA 3.0.
    ///
    /// # Errors
    /// [`Error::BadFile`] if the crate was built from damaged files.
    pub fn embedded(split: MnistSplit) -> Result<Self> {
        let files = match split {
            MnistSplit::Train => (
                include_bytes!("../data/mnist-10k/train-images-idx3-ubyte.gz").as_slice(),
                include_bytes!("../data/mnist-10k/train-labels-idx1-ubyte.gz").as_slice(),
            ),
            MnistSplit::Test => (
                include_bytes!("../data/mnist-10k/t10k-images-idx3-ubyte.gz").as_slice(),
                include_bytes!("../data/mnist-10k/t10k-labels-idx1-ubyte.gz").as_slice(),
            ),
        };
        let path =
            |kind: &str| PathBuf::from(format!("(embedded) {}-{kind}-ubyte.gz", split.prefix()));
        Self::read(
            (path("images-idx3"), files.0),
            (path("labels-idx1"), files.1),
        )
    }

    /// Reads one split from a directory with the files of MNIST, of Fashion-MNIST or of any data set
    /// in that format: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, or `t10k-images-…`
    /// and `t10k-labels-…`, plain or gzipped, with or without the ending `.gz`. A dot in place of the
    /// second hyphen (`train-images.idx3-ubyte`) is taken too.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::BadFile`], [`Error::CountMismatch`] or [`Error::Io`], each
    /// with the path it is about.
    ///
    /// # Example
    /// ```no_run
    /// use datasets::{MnistDataset, MnistSplit};
    ///
    /// let train = MnistDataset::from_dir("data/fashion-mnist", MnistSplit::Train)?;
    /// # Ok::<(), datasets::Error>(())
    /// ```
    pub fn from_dir(directory: impl AsRef<Path>, split: MnistSplit) -> Result<Self> {
        let directory = directory.as_ref();
        std::fs::read_dir(directory).map_err(io_error("read", directory))?;
        let images = open(
            directory,
            &format!("{}-images", split.prefix()),
            "idx3-ubyte",
        )?;
        let labels = open(
            directory,
            &format!("{}-labels", split.prefix()),
            "idx1-ubyte",
        )?;
        Self::read(images, labels)
    }

    /// Returns FNV-1a of all pixels and labels. It tells data sets apart, and is no proof against forgers.
    pub fn checksum(&self) -> u64 {
        let bytes = self.data.pixels.iter().chain(&self.data.labels);
        bytes.fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        })
    }

    fn read(images: (PathBuf, impl Read), labels: (PathBuf, impl Read)) -> Result<Self> {
        let pixels = idx::images(images.1).map_err(in_file(&images.0))?;
        let classes = idx::labels(labels.1).map_err(in_file(&labels.0))?;
        let image_count = pixels.len() / PIXELS;
        if image_count != classes.len() {
            return Err(Error::CountMismatch {
                images: images.0,
                image_count,
                labels: labels.0,
                label_count: classes.len(),
            });
        }
        Ok(Self {
            data: Arc::new(Data {
                pixels,
                labels: classes,
            }),
        })
    }
}

/// Opens the file of a directory that has one of the usual names.
fn open(directory: &Path, stem: &str, format: &str) -> Result<(PathBuf, File)> {
    let names = ["-", "."].map(|mark| format!("{stem}{mark}{format}"));
    let names: Vec<String> = names
        .into_iter()
        .flat_map(|name| [name.clone(), name + ".gz"])
        .collect();
    for name in &names {
        let path = directory.join(name);
        // Looked at before it is opened: opening a pipe would wait for its writer.
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read", &path)(error)),
            Ok(found) if !found.is_file() => {
                return Err(Error::BadFile {
                    path,
                    fault: Fault::NotAFile,
                });
            }
            Ok(_) => {
                let file = File::open(&path).map_err(io_error("read", &path))?;
                return Ok((path, file));
            }
        }
    }
    Err(Error::MissingFile {
        directory: directory.to_owned(),
        names,
    })
}

fn in_file(path: &Path) -> impl FnOnce(DecodeError) -> Error {
    move |error| match error {
        DecodeError::Fault(fault) => Error::BadFile {
            path: path.to_owned(),
            fault,
        },
        DecodeError::Io(source) => io_error("read", path)(source),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

impl fmt::Debug for MnistDataset {
    /// Says how many images there are, and spares the reader their pixels.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MnistDataset")
            .field("len", &self.data.labels.len())
            .finish()
    }
}

impl Dataset<MnistItem> for MnistDataset {
    fn get(&self, index: usize) -> Result<MnistItem, DatasetError> {
        let label = self.data.labels[index];
        let mut image = [0; PIXELS];
        image.copy_from_slice(&self.data.pixels[index * PIXELS..][..PIXELS]);
        Ok(MnistItem { image, label })
    }

    fn len(&self) -> usize {
        self.data.labels.len()
    }
}
