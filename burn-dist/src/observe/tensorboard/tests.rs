use super::events::{self, Content};
use super::*;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::io::Write;
use std::sync::{Arc, mpsc};

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

/// The events of a folder's only or latest file.
fn written(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let name = files.last().unwrap().file_name().unwrap();
    assert!(name.to_str().unwrap().contains("tfevents"));
    records(&std::fs::read(files.last().unwrap()).unwrap())
}

/// The steps of events that say that a run begins.
fn beginnings(events: &[Vec<u8>]) -> Vec<u64> {
    let begins = |event: &&Vec<u8>| fields(event).contains(&(7, vec![8, 1]));
    let step = |event: &Vec<u8>| u64::from_le_bytes(fields(event)[1].1[..].try_into().unwrap());
    events.iter().filter(begins).map(step).collect()
}

#[test]
fn a_file_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = EventFile::create(folder.path()).unwrap();
    events.begin(Beginning::At(300)).unwrap();
    events.scalar("train/loss", 0.5, 300).unwrap();
    drop(events);
    let events = written(folder.path());
    let [version, _, scalar] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(fields(version)[2], (3, b"brain.Event:2".to_vec()));
    assert_eq!(beginnings(&events), [300]);
    let event = fields(scalar);
    let now = f64::from_le_bytes(event[0].1.clone().try_into().unwrap());
    assert!((writer::wall_time() - now).abs() < 3600.0);
    assert_eq!(event[1], (2, 300_u64.to_le_bytes().to_vec()));
    let summary = fields(&event[2].1);
    let value = fields(&summary[0].1);
    assert_eq!(value[0], (1, b"train/loss".to_vec()));
    assert_eq!(value[1], (2, 0.5_f32.to_le_bytes().to_vec()));
}

#[test]
fn a_run_goes_on_after_the_end_of_the_epoch_that_it_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = EventFile::create(folder).unwrap();
    first.begin(Beginning::At(0)).unwrap();
    for step in 0..11 {
        first.scalar("train/loss", 1.0, step).unwrap();
        if step % 4 == 3 {
            first.scalar(MARKS[1], (step / 4 + 1) as f64, step).unwrap();
        }
    }
    drop(first);
    // A run that was killed while it wrote.
    let path = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    let mut file = std::fs::File::options()
        .append(true)
        .open(path.path())
        .unwrap();
    file.write_all(&events::record(b"abc")[..14]).unwrap();
    // What others left there.
    std::fs::create_dir(folder.join("old.tfevents")).unwrap();
    std::fs::write(folder.join("a.tfevents"), "no records").unwrap();

    let mut second = EventFile::create(folder).unwrap();
    second.begin(Beginning::AfterEpoch(2)).unwrap();
    second.scalar("train/loss", 1.0, 0).unwrap();
    // Another file of the same run: a beginning of its own would have this one's events forgotten.
    let mut third = EventFile::create(folder).unwrap();
    third.begin(Beginning::AfterEpoch(2)).unwrap();
    third.scalar("train/accuracy", 1.0, 1).unwrap();
    drop(second);
    drop(third);
    let third = written(folder);
    assert!(beginnings(&third).is_empty());
    assert_eq!(events::scalar(&third[1]).unwrap().step, 9);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && !path.ends_with("a.tfevents"))
        .collect();
    files.sort();
    let second = records(&std::fs::read(&files[1]).unwrap());
    assert_eq!(beginnings(&second), [8]);
    assert_eq!(events::scalar(&second[2]).unwrap().step, 8);
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
    // The same where nobody waits for it: at some call, or at the end.
    let mut events = EventFile::open(&file.join("logs")).unwrap();
    let error = events.close().unwrap_err().to_string();
    assert!(error.contains("file/logs"), "{error}");
}

/// A disk that takes nothing until the gate is dropped.
struct Disk {
    gate: mpsc::Receiver<()>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.gate.recv();
        self.taken.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file on such a disk with a queue of 8, its gate, and what the disk has taken.
fn hanging() -> (EventFile, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
    let (open, gate) = mpsc::channel();
    let taken = Arc::<Mutex<Vec<u8>>>::default();
    let disk = Disk {
        gate,
        taken: Arc::clone(&taken),
    };
    let target = Target::Sink(Box::new(disk));
    let events = EventFile::start(target, 8, Duration::from_millis(200)).unwrap();
    (events, open, taken)
}

#[test]
fn a_disk_that_hangs_is_an_error_where_the_queue_is_full() {
    let (mut events, gate, _) = hanging();
    let error = (0..9).find_map(|step| events.scalar("loss", 1.0, step).err());
    let error = error.unwrap().to_string();
    assert!(
        error.contains("the disk hangs: it took none of the last 8 events"),
        "{error}"
    );
    let error = events.scalar("loss", 1.0, 9).unwrap_err().to_string();
    assert!(error.contains("given up"), "{error}");
    // Waits for nobody.
    events.patience = Duration::from_hours(1);
    drop(events);
    drop(gate);
}

#[test]
fn a_disk_that_hangs_at_the_end_is_an_error_at_the_deadline() {
    let (mut events, gate, _) = hanging();
    events.scalar("loss", 1.0, 0).unwrap();
    let error = events.close().unwrap_err().to_string();
    assert!(
        error.contains("did not take the last events") && error.contains("left behind"),
        "{error}"
    );
    drop(gate);
}

#[test]
fn a_disk_that_comes_back_gets_everything() {
    let (mut events, gate, taken) = hanging();
    for step in 0..8 {
        events.scalar("loss", 1.0, step).unwrap();
    }
    drop(gate);
    events.patience = Duration::from_mins(1);
    events.close().unwrap();
    let events = records(&taken.lock());
    let steps = events.iter().filter_map(|event| events::scalar(event));
    assert!(steps.map(|scalar| scalar.step).eq(0..8));
}

proptest! {
    #[test]
    fn any_event_reads_back(name in ".{0,200}", value: f32, step: u64) {
        let event = events::event(1.5, step, &Content::Scalar(&name, value));
        let mut file = &events::record(&event)[..];
        prop_assert_eq!(records(file), [event.clone()]);
        let read = events::read_record(&mut file).unwrap().unwrap();
        let scalar = events::scalar(&read).unwrap();
        prop_assert_eq!(scalar.step, step);
        prop_assert_eq!(scalar.name, name.as_bytes());
        prop_assert_eq!(scalar.value.to_bits(), value.to_bits());
        prop_assert!(events::read_record(&mut file).unwrap().is_none());
    }

    #[test]
    fn any_bytes_are_records_or_none(mut bytes: Vec<u8>, lie: u64) {
        // They return; what they return depends on the bytes.
        let _ = events::scalar(&bytes);
        let _ = events::read_record(&mut &bytes[..]);
        // A length with a right checksum that is far too large.
        let length = (lie | 1 << 40).to_le_bytes();
        let head = events::record(&length);
        bytes.splice(..0, length);
        let check = u32::from_le_bytes(head[16 + 4..16 + 8].try_into().unwrap());
        bytes.splice(8..8, check.to_le_bytes());
        prop_assert!(events::read_record(&mut &bytes[..]).is_err());
    }
}
