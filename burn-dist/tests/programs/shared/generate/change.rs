//! Changes of programs: anything goes, and the reference says what it makes of it.

use super::super::program::{Program, Ranks, Stmt, Through};
use super::Random;

/// Changes a program in one place.
pub(super) fn change(program: &mut Program, random: &mut Random) {
    let len = program.body.len();
    if len < 2 {
        return;
    }
    let at = random.below(len);
    let all = (1 << program.ranks) - 1;
    match random.below(5) {
        // Elsewhere, and so in the midst of others.
        0 | 1 => {
            let stmt = program.body.remove(at);
            let to = (at + random.below(9)).saturating_sub(4);
            program.body.insert(to.min(len - 1), stmt);
        }
        // On some ranks only.
        2 => {
            let some = 1 + random.below(all as usize) as Ranks;
            match &mut program.body[at] {
                Stmt::Backward { ranks, .. }
                | Stmt::NoSync { ranks, .. }
                | Stmt::Ignore { ranks, .. } => *ranks = some,
                Stmt::Forward { terms, .. } => terms[random.below(program.ranks)].clear(),
                _ => {}
            }
        }
        // Inside of a call.
        3 => {
            let model = random.below(program.models.len());
            let stmt = &mut program.body[at];
            if is_local(stmt) {
                let body = vec![stmt.clone()];
                let ranks = all;
                *stmt = Stmt::Ignore { model, ranks, body };
            }
        }
        _ => {
            let model = random.below(program.models.len());
            if let Stmt::Backward { loss, .. } = program.body[at] {
                let (ranks, body) = (all, Vec::new());
                let kept = Stmt::NoSync {
                    model,
                    loss,
                    ranks,
                    body,
                };
                program.body[at] = kept;
            }
        }
    }
}

fn is_local(stmt: &Stmt) -> bool {
    matches!(
        stmt,
        Stmt::Forward { .. } | Stmt::Backward { .. } | Stmt::NoSync { .. } | Stmt::Ignore { .. }
    )
}

/// Puts a fault into a program. Sometimes it does no harm.
pub(super) fn break_it(program: &mut Program, random: &mut Random) {
    let len = program.body.len().max(1);
    let at = random.below(len);
    let model = random.below(program.models.len());
    match random.below(8) {
        0 => program.body.insert(at, Stmt::AttachTwice { model }),
        1 => program.body.insert(at, Stmt::Load { model }),
        2 => program.body.insert(at, Stmt::Grow { model }),
        3 => {
            if let Some(layer) = program.models[model].frozen {
                program.body.insert(at, Stmt::Unfreeze { model, layer });
            }
        }
        4 => {
            let found = synchronized(program).next();
            if let Some(Stmt::Synchronize { through, .. }) = found {
                *through = [Through::Part, Through::Stranger][random.below(2)];
            }
        }
        5 => {
            let place = program
                .body
                .iter()
                .position(|stmt| matches!(stmt, Stmt::Synchronize { .. }));
            if let Some(place) = place {
                program.body.remove(place);
            }
        }
        6 => {
            let some = 1 + random.below((1 << program.ranks) - 1) as Ranks;
            let found = program.body.iter_mut().find_map(|stmt| match stmt {
                Stmt::Discard { ranks, .. } => Some(ranks),
                _ => None,
            });
            if let Some(ranks) = found {
                *ranks = some;
            }
        }
        _ => {
            let places: Vec<_> = program
                .body
                .iter()
                .enumerate()
                .filter(|(_, stmt)| matches!(stmt, Stmt::Synchronize { .. }))
                .map(|(place, _)| place)
                .collect();
            if let [.., one, other] = places[..] {
                program.body.swap(one, other);
            }
        }
    }
}

fn synchronized(program: &mut Program) -> impl Iterator<Item = &mut Stmt> {
    let body = program.body.iter_mut();
    body.filter(|stmt| matches!(stmt, Stmt::Synchronize { .. }))
}
