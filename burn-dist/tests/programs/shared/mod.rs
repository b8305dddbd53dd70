//! Random training programs, run with burn-dist and by a reference without it: the same values after every step
//! of an optimizer, or the same error on all ranks.

pub(crate) mod generate;
mod net;
pub(crate) mod outcome;
pub(crate) mod program;
pub(crate) mod reference;
pub(crate) mod replica;
mod shrink;

use super::support::Random;
use outcome::{Fault, Outcome, compare};
use program::{Given, Program, Stmt, Through};
use std::collections::BTreeMap;
use std::fmt;

/// After so many failures, the rest is not run.
const MOST_FAILURES: usize = 20;

/// Runs a program on as many ranks as it has.
pub(crate) type Run<'a> = &'a dyn Fn(&Program) -> Outcome;

/// Runs the programs of some seeds. If some come to something else than they must, the first of them is made
/// shorter, and told with all that is needed to run it again.
pub(crate) fn check(seeds: std::ops::Range<u64>, run: Run) -> Result<Counts, String> {
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for seed in seeds {
        let program = generate::program(seed);
        match check_one(&program, run) {
            Ok(fault) => counts.add(&program, fault),
            Err(error) => failed.push((seed, error, program)),
        }
        if failed.len() == MOST_FAILURES {
            break;
        }
    }
    let Some((seed, error, program)) = failed.first() else {
        return Ok(counts);
    };
    let words = |(seed, error, _): &(u64, String, Program)| format!("seed {seed}: {error}");
    let all: Vec<String> = failed.iter().map(words).collect();
    let (shorter, shorter_error) = shrink::shrink(program.clone(), error.clone(), run);
    let json = serde_json::to_string(&shorter).unwrap();
    Err(format!(
        "{}\n\nseed {seed}, made shorter: {shorter_error}\n{shorter}again: BURN_DIST_PROGRAM='{json}'",
        all.join("\n")
    ))
}

/// Runs one program; what comes is the kind of its failure, if it is one that is due or allowed.
pub(crate) fn check_one(program: &Program, run: Run) -> Result<Option<Fault>, String> {
    let expected = reference::run(program);
    compare(&expected, &run(program), program.double)
}

/// Number of programs by contents and by outcome.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) programs: usize,
    pub(crate) failed: usize,
    by_class: BTreeMap<String, usize>,
}

impl Counts {
    fn add(&mut self, program: &Program, fault: Option<Fault>) {
        self.programs += 1;
        self.failed += usize::from(fault.is_some());
        let mut classes: Vec<String> = vec![
            fault.map_or("ends well".into(), |fault| format!("error {fault:?}")),
            format!("on {} ranks", program.ranks),
        ];
        classes_of(&program.body, &mut classes);
        if program.models.iter().any(|spec| spec.lora) {
            classes.push("LoRA".into());
        }
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            *self.by_class.entry(class).or_default() += 1;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} programs", self.programs)?;
        for (class, count) in &self.by_class {
            writeln!(f, "{count:>8} {class}")?;
        }
        Ok(())
    }
}

/// Lists the classes of a program's statements.
fn classes_of(body: &[Stmt], classes: &mut Vec<String>) {
    for stmt in body {
        let name = match stmt {
            Stmt::Synchronize { given, through, .. } => {
                if given.iter().any(|given| matches!(given, Given::From(_))) {
                    classes.push("synchronize_from".into());
                }
                if *through != Through::Model {
                    classes.push(format!("passes {through:?}"));
                }
                "synchronize"
            }
            Stmt::Forward { terms, .. } => {
                let kinds = |term: &program::Term| match term {
                    program::Term::Penalty { .. } => "penalty",
                    program::Term::Chain { segments, .. } if segments.len() > 1 => {
                        "two models in a loss"
                    }
                    program::Term::Chain { .. } => "forward",
                };
                classes.extend(terms.iter().flatten().map(kinds).map(str::to_owned));
                if terms.iter().any(Vec::is_empty) {
                    classes.push("empty rank".into());
                }
                "forward"
            }
            Stmt::NoSync { body, .. } => {
                classes_of(body, classes);
                "no_sync"
            }
            Stmt::Ignore { body, .. } => {
                classes_of(body, classes);
                "ignore"
            }
            Stmt::Backward { .. } => "backward",
            Stmt::Step { .. } => "step",
            Stmt::Discard { .. } => "discard",
            Stmt::Forget { .. } => "container dropped",
            Stmt::Copy { .. } => "copy",
            Stmt::Evaluate { .. } => "evaluate",
            Stmt::Save { .. } => "save",
            Stmt::Load { .. } => "load",
            Stmt::Freeze { .. } => "freeze",
            Stmt::Unfreeze { .. } => "unfreeze",
            Stmt::Grow { .. } => "grow",
            Stmt::Attach { .. } => "attach again",
            Stmt::AttachTwice { .. } => "attach twice",
        };
        classes.push(name.to_owned());
    }
}
