//! The options that a program declares: texts that must be the same in all processes of a job.
//!
//! Process 0 puts its own into the job's store. Every other process compares its own with them and enters
//! what differs; the process that completes the list gives the verdict, so that all hear of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{DifferentOption, OptionValue};

/// The most options of a program.
const MAX_OPTIONS: usize = 256;
/// The most bytes of an option's name.
const MAX_NAME: usize = 128;
/// The most bytes of a value that are told; a longer one is cut and identified by its hash.
const MAX_VALUE: usize = 256;
/// The most bytes of all names and values: they fit into one value of the store.
const MAX_BYTES: usize = 48 << 10;
/// The most options of one process that are told to differ.
const MAX_DIFFERENT: usize = 4;
/// The most values of one option that are told.
const MAX_VALUES: usize = 8;
/// The most processes that are named with one value.
const MAX_PROCESSES: usize = 16;

/// The options that a program has declared, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Options(Vec<(String, String)>);

/// An option whose value in a process is not that of process 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Difference {
    name: String,
    /// The value of the process; none if it declares no such option.
    here: Option<String>,
    /// The value of process 0.
    there: Option<String>,
}

impl Options {
    /// Declares one more.
    pub(super) fn push(&mut self, name: String, value: &str) {
        self.0.push((name, told(value)));
    }

    /// Checks that the options can be told to other processes; an error says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let bytes: usize = self.0.iter().map(|(n, v)| n.len() + v.len()).sum();
        if names.len() > MAX_OPTIONS || bytes > MAX_BYTES {
            return Err(format!(
                "{} options of {bytes} bytes were declared; at most {MAX_OPTIONS} of together {MAX_BYTES} \
                 bytes are allowed",
                names.len()
            ));
        }
        if let Some(name) = names.iter().find(|name| name.len() > MAX_NAME) {
            return Err(format!(
                "the name of a declared option has {} bytes; at most {MAX_NAME} are allowed",
                name.len()
            ));
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(format!("the option {:?} was declared twice", twice[0])),
            None => Ok(()),
        }
    }

    /// The first options that are not those of process 0, in its order.
    pub(super) fn differences(&self, first: &Self) -> Vec<Difference> {
        let value = |options: &Self, name: &str| {
            let found = options.0.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let only_here = self
            .0
            .iter()
            .filter(|(name, _)| value(first, name).is_none());
        let names = first.0.iter().chain(only_here).map(|(name, _)| name);
        names
            .filter_map(|name| {
                let (here, there) = (value(self, name), value(first, name));
                let name = name.clone();
                (here != there).then_some(Difference { name, here, there })
            })
            .take(MAX_DIFFERENT)
            .collect()
    }
}

/// The value as it is told to others.
fn told(value: &str) -> String {
    if value.len() <= MAX_VALUE {
        return value.to_owned();
    }
    let start: String = value.chars().take(MAX_VALUE / 8).collect();
    let mut told = format!("{start}... ({} bytes, SHA-256 ", value.len());
    for byte in Sha256::digest(value.as_bytes()) {
        // Writing to a String can't fail.
        let _ = write!(told, "{byte:02x}");
    }
    told.push(')');
    told
}

/// Puts together what differs, given the differences of each process.
pub(super) fn summary(differences: &[Vec<Difference>]) -> Vec<DifferentOption> {
    let mut names: Vec<&String> = Vec::new();
    for difference in differences.iter().flatten() {
        if names.len() < MAX_DIFFERENT && !names.contains(&&difference.name) {
            names.push(&difference.name);
        }
    }
    names
        .iter()
        .map(|name| of_name(name, differences))
        .collect()
}

fn of_name(name: &str, differences: &[Vec<Difference>]) -> DifferentOption {
    let mut values: Vec<OptionValue> = Vec::new();
    let mut places = BTreeMap::new();
    let first = differences.iter().flatten().find(|one| one.name == name);
    let first = first.and_then(|difference| difference.there.clone());
    for (process, differences) in differences.iter().enumerate() {
        let value = match differences.iter().find(|one| one.name == name) {
            Some(difference) => difference.here.clone(),
            // What it has was cut off by others that differ.
            None if differences.len() >= MAX_DIFFERENT => continue,
            None => first.clone(),
        };
        if let Some(&place) = places.get(&value) {
            let known: &mut OptionValue = &mut values[place];
            known.count += 1;
            if known.processes.len() < MAX_PROCESSES {
                known.processes.push(process);
            }
        } else if values.len() < MAX_VALUES {
            places.insert(value.clone(), values.len());
            values.push(OptionValue {
                value,
                processes: vec![process],
                count: 1,
            });
        }
    }
    DifferentOption {
        name: name.to_owned(),
        values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let mut options = Options::default();
        for (name, value) in pairs {
            options.push((*name).to_owned(), value);
        }
        options
    }

    fn words(all: &[Options]) -> String {
        let differences: Vec<_> = all.iter().map(|one| one.differences(&all[0])).collect();
        let failure = crate::error::JoinFailure::Options(summary(&differences));
        failure.to_string()
    }

    #[test]
    fn every_process_with_another_value_is_named_with_it() {
        let all = ["0.03", "0.3", "0.03", "1"].map(|lr| options(&[("--lr", lr), ("--seed", "1")]));
        let text = words(&all);
        let expected =
            "--lr is \"0.03\" in processes 0 and 2, \"0.3\" in process 1, \"1\" in process 3;";
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("--seed"), "{text}");
    }

    #[test]
    fn an_option_that_a_process_does_not_declare_is_named() {
        let all = [options(&[("--lr", "1")]), options(&[("--rate", "1")])];
        let text = words(&all);
        for expected in [
            "--lr is \"1\" in process 0, not declared in process 1;",
            "--rate is not declared in process 0, \"1\" in process 1;",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn four_thousand_processes_that_all_differ_make_a_short_message() {
        let first = options(&[("seed", "0")]);
        let differences: Vec<_> = (0..4000)
            .map(|process| options(&[("seed", &process.to_string())]).differences(&first))
            .collect();
        let [seed] = &summary(&differences)[..] else {
            panic!("one option differs");
        };
        assert_eq!(seed.values.len(), MAX_VALUES);
        let same: Vec<_> = (0..4000)
            .map(|process| {
                let value = if process == 0 { "0" } else { "1" };
                options(&[("seed", value)]).differences(&first)
            })
            .collect();
        let seed = &summary(&same)[0];
        assert_eq!(
            (seed.values[1].processes.len(), seed.values[1].count),
            (16, 3999)
        );
    }

    #[test]
    fn long_values_are_told_by_their_hash_and_still_differ() {
        let long = |end: &str| options(&[("net", &("x".repeat(100_000) + end))]);
        let differences = long("a").differences(&long("b"));
        assert_eq!(differences.len(), 1);
        assert!(differences[0].here.as_ref().unwrap().len() < MAX_VALUE);
        assert_eq!(long("a").differences(&long("a")), []);
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let many: Vec<_> = (0..=MAX_OPTIONS).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
        for (refused, words) in [
            (options(&many), "257 options"),
            (options(&[(&"n".repeat(129), "")]), "129 bytes"),
            (options(&[("--lr", "1"), ("--lr", "1")]), "declared twice"),
        ] {
            let error = refused.check().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        options(&many[1..]).check().unwrap();
    }
}
