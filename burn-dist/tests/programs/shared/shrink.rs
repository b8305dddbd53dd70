//! Makes a program that fails shorter: takes statements, terms and ranks out as long as it still fails.

use super::program::{Program, Stmt};
use super::{Run, check_one};
use std::time::{Duration, Instant};

/// Time to try.
const LONGEST: Duration = Duration::from_mins(2);

/// A shorter program that fails, and how.
pub(crate) fn shrink(mut program: Program, mut error: String, run: Run) -> (Program, String) {
    let start = Instant::now();
    'again: loop {
        for shorter in shorter(&program) {
            if start.elapsed() > LONGEST {
                return (program, error);
            }
            if let Err(found) = check_one(&shorter, run) {
                (program, error) = (shorter, found);
                continue 'again;
            }
        }
        return (program, error);
    }
}

/// Programs with less in them.
fn shorter(program: &Program) -> Vec<Program> {
    let mut all = Vec::new();
    let len = program.body.len();
    for size in [len / 2, len / 4, 1] {
        if size == 0 {
            continue;
        }
        for start in (0..len).step_by(size) {
            let mut shorter = program.clone();
            shorter.body.drain(start..(start + size).min(len));
            all.push(shorter);
        }
    }
    for at in 0..len {
        if let Stmt::Ignore { body, .. } | Stmt::NoSync { body, .. } = &program.body[at] {
            for inner in 0..body.len() {
                let mut shorter = program.clone();
                if let Stmt::Ignore { body, .. } | Stmt::NoSync { body, .. } = &mut shorter.body[at]
                {
                    body.remove(inner);
                }
                all.push(shorter);
            }
        }
        if let Stmt::Forward { terms, .. } = &program.body[at] {
            for (rank, terms) in terms.iter().enumerate() {
                for term in 0..terms.len() {
                    let mut shorter = program.clone();
                    if let Stmt::Forward { terms, .. } = &mut shorter.body[at] {
                        terms[rank].remove(term);
                    }
                    all.push(shorter);
                }
            }
        }
    }
    if program.ranks > 1 {
        let mut fewer = program.clone();
        fewer.ranks -= 1;
        all.push(fewer);
    }
    all.retain(|shorter| shorter != program);
    all
}
