//! MNIST's file format, IDX: a magic number, the dimensions (big-endian `u32`s), then one byte a value.
//! Plain or gzipped; the first bytes say which, never the file's name.
//!
//! Invariants: no input panics; memory grows with the bytes that really come, never with a header's
//! claim, and stays below [`LIMIT`]; a file is accepted only when it is exactly as long as its header
//! says and, where gzipped, its checksum holds.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::{CLASSES, Fault, PIXELS, SIDE};

/// The most data that one file may hold, in bytes: 342,000 images, five times the full MNIST.
pub(crate) const LIMIT: u64 = 256 << 20;

/// First bytes of every gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reason why bytes could not be decoded: their content, or the source they come from.
#[derive(Debug)]
pub(crate) enum DecodeError {
    Fault(Fault),
    Io(io::Error),
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for DecodeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Decodes a file of 28x28 images: their pixels, [`PIXELS`] bytes an image.
pub(crate) fn images(input: impl Read) -> Result<Vec<u8>> {
    let mut stream = Stream::open(input)?;
    let [count, rows, columns] = stream.header("images")?;
    if [rows, columns] != [SIDE as u32; 2] {
        return Err(Fault::WrongDimensions { rows, columns }.into());
    }
    stream.data(u64::from(count) * PIXELS as u64)
}

/// Decodes a file of labels, each below [`CLASSES`].
pub(crate) fn labels(input: impl Read) -> Result<Vec<u8>> {
    let mut stream = Stream::open(input)?;
    let [count] = stream.header("labels")?;
    let labels = stream.data(u64::from(count))?;
    match labels
        .iter()
        .position(|&label| usize::from(label) >= CLASSES)
    {
        Some(index) => Err(Fault::WrongLabel {
            index,
            label: labels[index],
        }
        .into()),
        None => Ok(labels),
    }
}

/// The decompressed bytes of a file, read from front to back.
struct Stream<'a> {
    reader: Box<dyn Read + 'a>,
    gzip: bool,
}

impl<'a> Stream<'a> {
    fn open(mut input: impl Read + 'a) -> Result<Self> {
        let mut start = Vec::new();
        input
            .by_ref()
            .take(GZIP_MAGIC.len() as u64)
            .read_to_end(&mut start)?;
        let gzip = start == GZIP_MAGIC;
        let whole = BufReader::new(Cursor::new(start).chain(input));
        // A gzip file may be several gzip streams one after the other; what follows the last of them
        // and is not another one is an error.
        let reader: Box<dyn Read + 'a> = if gzip {
            Box::new(MultiGzDecoder::new(whole))
        } else {
            Box::new(whole)
        };
        Ok(Self { reader, gzip })
    }

    /// Reads the magic number of a file with `N` dimensions, and the dimensions.
    fn header<const N: usize>(&mut self, expected_kind: &'static str) -> Result<[u32; N]> {
        // Two zeros, the element type (8: unsigned byte), the number of dimensions.
        let expected = [0, 0, 8, N as u8];
        let length = expected.len() + 4 * N;
        let header = self.read_up_to(length as u64)?;
        let magic = &header[..header.len().min(expected.len())];
        if !expected.starts_with(magic) {
            return Err(Fault::WrongMagic {
                expected_kind,
                found: magic.to_vec(),
                expected,
            }
            .into());
        }
        if header.len() < length {
            return Err(Fault::ShortHeader {
                found: header.len(),
                expected: length,
            }
            .into());
        }
        let mut dimensions = [0; N];
        let (fields, _) = header[expected.len()..].as_chunks::<4>();
        for (dimension, field) in dimensions.iter_mut().zip(fields) {
            *dimension = u32::from_be_bytes(*field);
        }
        Ok(dimensions)
    }

    /// Reads exactly `declared` bytes and the end of the file (for gzip, with its checksum).
    fn data(&mut self, declared: u64) -> Result<Vec<u8>> {
        if declared == 0 {
            return Err(Fault::Empty.into());
        }
        if declared > LIMIT {
            return Err(Fault::TooLarge {
                declared,
                limit: LIMIT,
            }
            .into());
        }
        let mut data = self.read_up_to(declared)?;
        let found = data.len() as u64;
        if found < declared {
            return Err(Fault::Truncated { found, declared }.into());
        }
        if !self.read_up_to(1)?.is_empty() {
            return Err(Fault::TrailingBytes { declared }.into());
        }
        // It grew by doubling, and is kept for as long as the data set.
        data.shrink_to_fit();
        Ok(data)
    }

    /// Reads at most `limit` bytes, fewer only at the end. The buffer grows as they come.
    fn read_up_to(&mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.reader.by_ref().take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if self.gzip && is_about_content(&error) => {
                Err(Fault::BrokenGzip(error.to_string()).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The decompressor speaks of bad content in these kinds; others come from the source of the bytes.
fn is_about_content(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

#[cfg(test)]
mod tests;
