//! TensorBoard's event files, with scalars: records of a length, its checksum, an event, and its
//! checksum.
//!
//! The format: TFRecord (<https://www.tensorflow.org/tutorials/load_data/tfrecord>) around the messages
//! `Event` and `Summary` of TensorFlow's event.proto and summary.proto, of which a scalar needs five
//! fields. The crates that write it bring a code generator, an image library or TensorFlow's whole set of
//! messages.
//!
//! `burn-dist/tests/observe/read_tensorboard.py` reads what this writes with TensorBoard's own package.
//!
//! Callers: `outputs`; `train`'s logger of metrics.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long events stay in memory at most, while others come.
const FLUSH: Duration = Duration::from_secs(2);

/// One event file.
#[derive(Debug)]
pub(crate) struct EventFile {
    file: BufWriter<File>,
    path: PathBuf,
    flushed: Instant,
}

impl EventFile {
    /// Makes a file in this folder, with a name that TensorBoard knows.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let wrong = |error: io::Error| unwritten(folder, &error, "; choose another folder");
        std::fs::create_dir_all(folder).map_err(wrong)?;
        let (seconds, process) = (wall_time(), std::process::id());
        let path = folder.join(format!(
            "events.out.tfevents.{seconds:.6}.burn-dist.{process}"
        ));
        let file = File::create_new(&path).map_err(wrong)?;
        let mut events = Self {
            file: BufWriter::new(file),
            path,
            flushed: Instant::now(),
        };
        events.record(&event(seconds, 0, &Content::Version))?;
        events.flush()?;
        Ok(events)
    }

    /// Writes one value of a series.
    pub(crate) fn scalar(&mut self, name: &str, value: f64, step: u64) -> Result<()> {
        self.record(&event(
            wall_time(),
            step,
            &Content::Scalar(name, value as f32),
        ))?;
        if self.flushed.elapsed() >= FLUSH {
            self.flush()?;
        }
        Ok(())
    }

    /// Lets others see what was written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        let flushed = self.file.flush();
        flushed.map_err(|error| unwritten(&self.path, &error, ""))
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let written = self.file.write_all(&record(data));
        written.map_err(|error| unwritten(&self.path, &error, ""))
    }
}

fn unwritten(path: &Path, error: &io::Error, advice: &str) -> Error {
    Error::Observe {
        what: "TensorBoard's events can't be written to",
        place: path.display().to_string(),
        message: format!("{error}{advice}"),
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0.0, |time| time.as_secs_f64())
}

/// What an event says.
enum Content<'c> {
    /// The version of the format, at the beginning of a file.
    Version,
    Scalar(&'c str, f32),
}

/// An `Event`.
fn event(wall_time: f64, step: u64, content: &Content<'_>) -> Vec<u8> {
    let mut event = Vec::new();
    tag(&mut event, 1, Wire::Double);
    event.extend(wall_time.to_le_bytes());
    tag(&mut event, 2, Wire::Varint);
    varint(&mut event, step);
    match content {
        Content::Version => bytes(&mut event, 3, b"brain.Event:2"),
        Content::Scalar(name, value) => {
            let mut scalar = Vec::new();
            bytes(&mut scalar, 1, name.as_bytes());
            tag(&mut scalar, 2, Wire::Float);
            scalar.extend(value.to_le_bytes());
            let mut summary = Vec::new();
            bytes(&mut summary, 1, &scalar);
            bytes(&mut event, 5, &summary);
        }
    }
    event
}

/// How protobuf writes a field.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Double = 1,
    Bytes = 2,
    Float = 5,
}

fn tag(message: &mut Vec<u8>, field: u64, wire: Wire) {
    varint(message, field << 3 | wire as u64);
}

/// Seven bits a byte, the lowest first.
fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

fn bytes(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    tag(message, field, Wire::Bytes);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Frames an event.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checks = [masked(&length), masked(data)].map(u32::to_le_bytes);
    [&length[..], &checks[0], data, &checks[1]].concat()
}

/// The checksum of a record: turned, so that one of data with checksums in it is not weak.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// CRC-32C bit by bit, from its definition.
    fn checksum(data: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82F6_3B78
                } else {
                    crc >> 1
                };
            }
        }
        !crc
    }

    /// Takes records apart, checking both checksums.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let unmasked = |bytes: &[u8]| {
            let masked = u32::from_le_bytes(bytes.try_into().unwrap());
            masked.wrapping_sub(0xA282_EAD8).rotate_left(15)
        };
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(unmasked(&file[8..12]), checksum(&file[..8]));
            let data = &file[12..12 + length];
            assert_eq!(unmasked(&file[12 + length..16 + length]), checksum(data));
            found.push(data.to_vec());
            file = &file[16 + length..];
        }
        found
    }

    fn read_varint(message: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = message[0];
            *message = &message[1..];
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }

    /// The fields of a message: number, and bytes (of a varint: its eight).
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        while !message.is_empty() {
            let tag = read_varint(&mut message);
            let length = match tag & 7 {
                0 => {
                    let number = read_varint(&mut message);
                    found.push((tag >> 3, number.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => read_varint(&mut message) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            found.push((tag >> 3, message[..length].to_vec()));
            message = &message[length..];
        }
        found
    }

    #[test]
    fn a_file_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path()).unwrap();
        events.scalar("train/loss", 0.5, 300).unwrap();
        let path = events.path.clone();
        assert!(
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .contains("tfevents")
        );
        drop(events);
        let records = records(&std::fs::read(path).unwrap());
        let [version, scalar] = &records[..] else {
            panic!("{records:?}")
        };
        assert_eq!(fields(version)[2], (3, b"brain.Event:2".to_vec()));
        let event = fields(scalar);
        let now = f64::from_le_bytes(event[0].1.clone().try_into().unwrap());
        assert!((wall_time() - now).abs() < 3600.0);
        assert_eq!(event[1], (2, 300_u64.to_le_bytes().to_vec()));
        let summary = fields(&event[2].1);
        let value = fields(&summary[0].1);
        assert_eq!(value[0], (1, b"train/loss".to_vec()));
        assert_eq!(value[1], (2, 0.5_f32.to_le_bytes().to_vec()));
    }

    #[test]
    fn a_folder_that_can_t_be_written_to_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = EventFile::create(&file.join("logs"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("file/logs") && error.contains("choose another"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_event_reads_back(name in ".{0,200}", value: f32, step: u64) {
            let event = event(1.5, step, &Content::Scalar(&name, value));
            prop_assert_eq!(records(&record(&event)), [event.clone()]);
            let read = fields(&event);
            prop_assert_eq!(&read[1].1, &step.to_le_bytes());
            let value_read = fields(&fields(&read[2].1)[0].1);
            prop_assert_eq!(&value_read[0].1, name.as_bytes());
            prop_assert_eq!(&value_read[1].1, &value.to_le_bytes());
        }
    }
}
