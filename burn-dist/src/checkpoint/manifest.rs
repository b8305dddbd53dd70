//! The manifest: the file that makes a directory a checkpoint.
//!
//! Invariant: a manifest that was read names plain files of this directory, each once, and no more than
//! [`MOST_FILES`] of them. Their lengths are believed only where the files have them.

use super::{RANKS, STATE};
use crate::rendezvous::Crossovers;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// The version of everything that lies in a checkpoint.
pub(super) const FORMAT: u32 = 1;

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const MANIFEST_SUM: &str = "manifest.json.sha256";

/// More than any manifest takes.
pub(super) const LARGEST_MANIFEST: u64 = 1 << 20;

/// More records than this in one checkpoint are none of ours.
const MOST_FILES: usize = 1024;

/// The longest name of a record.
const LONGEST_NAME: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// The version that wrote it, for people.
    pub(super) burn_dist: String,
    pub(super) step: u64,
    /// That of the sampler, where one was saved.
    pub(super) epoch: Option<u64>,
    pub(super) world_size: usize,
    /// Sizes at which operations between processes changed their algorithm, for people. None in one process.
    #[serde(default)]
    pub(super) crossovers: Option<Crossovers>,
    pub(super) files: Vec<FileEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Reason why a checkpoint can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is not what was written: the one before it may be.
    Damaged(String),
    /// It is whole, and not for this program: those before it are not either.
    Foreign(String),
}

impl FileEntry {
    pub(super) fn of(name: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            sha256: sha256(bytes),
        }
    }

    /// Checks that these are the bytes it is about.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), Flaw> {
        let (name, found) = (&self.name, bytes.len() as u64);
        if found != self.bytes {
            let due = self.bytes;
            return Err(Flaw::Damaged(format!(
                "{name} has {found} bytes where {due} were written"
            )));
        }
        if sha256(bytes) != self.sha256 {
            return Err(Flaw::Damaged(format!(
                "{name} has another checksum than when it was written"
            )));
        }
        Ok(())
    }
}

impl Manifest {
    /// The manifest as a file, and the file of its checksum.
    pub(super) fn files(&self) -> Result<[(&'static str, Vec<u8>); 2], serde_json::Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        let sum = sum_line(&json);
        Ok([(MANIFEST, json), (MANIFEST_SUM, sum.into_bytes())])
    }

    /// Reads both files.
    pub(super) fn read(json: &[u8], sum: &[u8]) -> Result<Self, Flaw> {
        if sum_line(json).as_bytes() != sum {
            let message = format!("{MANIFEST} has another checksum than when it was written");
            return Err(Flaw::Damaged(message));
        }
        Self::parse(json)
    }

    pub(super) fn parse(json: &[u8]) -> Result<Self, Flaw> {
        #[derive(Deserialize)]
        struct ManifestVersion {
            format: u32,
            burn_dist: String,
        }
        let wrong = |error: serde_json::Error| Flaw::Damaged(format!("{MANIFEST}: {error}"));
        let ManifestVersion { format, burn_dist } = serde_json::from_slice(json).map_err(wrong)?;
        if format != FORMAT {
            return Err(Flaw::Foreign(format!(
                "it has format {format}, of burn-dist {burn_dist}, and this program reads format \
                 {FORMAT}; resume with the version that wrote it"
            )));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(wrong)?;
        manifest.check().map_err(Flaw::Damaged)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.files.len() > MOST_FILES {
            return Err(format!("{} files are too many", self.files.len()));
        }
        let mut seen = HashSet::new();
        for FileEntry { name, .. } in &self.files {
            if !is_file_name(name) {
                return Err(format!("`{name}` is no name of a file"));
            }
            if !seen.insert(name) {
                return Err(format!("{name} is named twice"));
            }
        }
        Ok(())
    }
}

/// The SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// As the program `sha256sum` writes it, and checks it with `-c`.
fn sum_line(json: &[u8]) -> String {
    format!("{}  {MANIFEST}\n", sha256(json))
}

/// The file of the record `name`; the error says what is wrong with the name.
pub(super) fn record_file(name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
        return Err(format!(
            "`{name}` is no name for a record; take letters, digits, _ and -, up to {LONGEST_NAME}"
        ));
    }
    Ok(format!("{name}.bpk"))
}

fn is_file_name(name: &str) -> bool {
    let record = |name: &str| record_file(name).is_ok();
    [STATE, RANKS].contains(&name) || name.strip_suffix(".bpk").is_some_and(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            burn_dist: "0.1.0".into(),
            step: 7,
            epoch: Some(1),
            world_size: 2,
            crossovers: Some(Crossovers::default()),
            files: vec![
                FileEntry::of("model.bpk", b"abc"),
                FileEntry::of(STATE, b""),
            ],
        }
    }

    #[test]
    fn a_manifest_comes_back() {
        let [(_, json), (_, sum)] = manifest().files().unwrap();
        assert_eq!(Manifest::read(&json, &sum), Ok(manifest()));
        // SHA-256 of "abc", from FIPS 180-2.
        assert!(
            String::from_utf8(json)
                .unwrap()
                .contains("\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"")
        );
    }

    #[test]
    fn a_manifest_without_crossovers_is_read() {
        let one_process = Manifest {
            crossovers: None,
            ..manifest()
        };
        let [(_, json), _] = one_process.files().unwrap();
        let mut fields: serde_json::Value = serde_json::from_slice(&json).unwrap();
        fields
            .as_object_mut()
            .unwrap()
            .remove("crossovers")
            .unwrap();
        let older = serde_json::to_vec(&fields).unwrap();
        assert_eq!(Manifest::parse(&older), Ok(one_process));
    }

    #[test]
    fn another_format_is_no_damage() {
        let mut other = manifest();
        other.format = 2;
        let [(_, json), (_, sum)] = other.files().unwrap();
        let Err(Flaw::Foreign(message)) = Manifest::read(&json, &sum) else {
            panic!("it was read");
        };
        assert!(
            message.contains("it has format 2, of burn-dist 0.1.0"),
            "{message}"
        );
    }

    #[test]
    fn no_file_outside_and_none_twice() {
        for name in [
            "../model.bpk",
            "/etc/passwd",
            ".bpk",
            "a/b.bpk",
            "model",
            "",
            "state.cbor\0",
        ] {
            let mut other = manifest();
            other.files[0].name = name.into();
            let [(_, json), (_, sum)] = other.files().unwrap();
            let flaw = Manifest::read(&json, &sum).unwrap_err();
            assert_eq!(
                flaw,
                Flaw::Damaged(format!("`{name}` is no name of a file"))
            );
        }
        let mut other = manifest();
        other.files[1].name = "model.bpk".into();
        assert!(other.check().unwrap_err().contains("twice"));
        other.files = vec![other.files[0].clone(); MOST_FILES + 1];
        assert!(other.check().unwrap_err().contains("too many"));
    }
}
