//! TensorBoard's events as bytes and back: records of a length, its checksum, an event, and its checksum.
//!
//! The format: TFRecord (<https://www.tensorflow.org/tutorials/load_data/tfrecord>) around the messages `Event`,
//! `Summary` and `SessionLog` of TensorFlow's event.proto and summary.proto, of which scalars need six fields. The
//! crates that write it bring a code generator, an image library or TensorFlow's whole set of messages.

use std::io::{self, ErrorKind, Read};

/// The most bytes of an event that is read: one with an image has a few million.
const MAX_EVENT_BYTES: u64 = 16 << 20;

/// The content of an event.
pub(super) enum Content<'c> {
    /// The version of the format, at the beginning of a file.
    Version,
    /// A run begins, or goes on: what was written of this step and later steps before is forgotten.
    Start,
    /// One value of a series.
    Scalar(&'c str, f32),
}

/// Encodes an `Event`.
pub(super) fn event(wall_time: f64, step: u64, content: &Content<'_>) -> Vec<u8> {
    let mut event = Vec::new();
    tag(&mut event, 1, WireType::Double);
    event.extend(wall_time.to_le_bytes());
    tag(&mut event, 2, WireType::Varint);
    varint(&mut event, step);
    match content {
        Content::Version => bytes(&mut event, 3, b"brain.Event:2"),
        Content::Start => {
            let mut session = Vec::new();
            tag(&mut session, 1, WireType::Varint);
            // `SessionLog.START`
            varint(&mut session, 1);
            bytes(&mut event, 7, &session);
        }
        Content::Scalar(name, value) => {
            let mut scalar = Vec::new();
            bytes(&mut scalar, 1, name.as_bytes());
            tag(&mut scalar, 2, WireType::Float);
            scalar.extend(value.to_le_bytes());
            let mut summary = Vec::new();
            bytes(&mut summary, 1, &scalar);
            bytes(&mut event, 5, &summary);
        }
    }
    event
}

/// The types of fields in protobuf.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Double = 1,
    Bytes = 2,
    Float = 5,
}

fn tag(message: &mut Vec<u8>, field: u64, wire: WireType) {
    varint(message, field << 3 | wire as u64);
}

/// Writes seven bits a byte, the lowest first.
fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

fn bytes(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    tag(message, field, WireType::Bytes);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Frames an event.
pub(super) fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checks = [masked(&length), masked(data)].map(u32::to_le_bytes);
    [&length[..], &checks[0], data, &checks[1]].concat()
}

/// Returns the checksum of a record: turned, so that one of data with checksums in it is not weak.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xA282_EAD8)
}

/// Reads the next event of a file, or nothing at its end. An error is also a record that was cut off or is damaged.
pub(super) fn read_record(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 12];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (length, check) = head.split_at(8);
    let damaged = || io::Error::new(ErrorKind::InvalidData, "a damaged record");
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    };
    if number(check) != u64::from(masked(length)) || number(length) > MAX_EVENT_BYTES {
        return Err(damaged());
    }
    let mut data = vec![0; number(length) as usize];
    let mut check = [0; 4];
    file.read_exact(&mut data)?;
    file.read_exact(&mut check)?;
    if u32::from_le_bytes(check) != masked(&data) {
        return Err(damaged());
    }
    Ok(Some(data))
}

/// A scalar that was read.
#[derive(Debug, PartialEq)]
pub(super) struct Scalar<'e> {
    pub(super) step: u64,
    pub(super) name: &'e [u8],
    pub(super) value: f32,
}

/// Reads the first scalar of an event, if it has one.
pub(super) fn scalar(event: &[u8]) -> Option<Scalar<'_>> {
    let step = match find(event, 2) {
        Some(Value::Varint(step)) => step,
        // Protobuf leaves zeros out.
        _ => 0,
    };
    let Value::Bytes(summary) = find(event, 5)? else {
        return None;
    };
    let Value::Bytes(first) = find(summary, 1)? else {
        return None;
    };
    match (find(first, 1)?, find(first, 2)?) {
        (Value::Bytes(name), Value::Float(value)) => Some(Scalar { step, name, value }),
        _ => None,
    }
}

/// The value of a field.
enum Value<'m> {
    Varint(u64),
    Double,
    Bytes(&'m [u8]),
    Float(f32),
}

/// Finds the first field of this number in a message.
fn find(mut message: &[u8], wanted: u64) -> Option<Value<'_>> {
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Varint(read_varint(&mut message)?),
            1 => {
                message.split_off(..8)?;
                Value::Double
            }
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                Value::Bytes(message.split_off(..length)?)
            }
            5 => {
                let bytes = message.split_off(..4)?;
                Value::Float(f32::from_le_bytes(bytes.try_into().ok()?))
            }
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(value);
        }
    }
    None
}

fn read_varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first()?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
