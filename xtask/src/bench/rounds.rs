//! Runs ours and the peers in turn: ours, peer, peer, ours, peer, peer, … so that all meet the same
//! machine, whatever else it does meanwhile.

use super::line::Line;
use super::peers::Peer;
use super::programs::{Bench, Programs, Setting};
use super::rows::Samples;
use super::run::{Halt, run};
use std::process::Command;
use std::time::{Duration, Instant};

/// Contestants, and their time limits.
#[derive(Debug)]
pub(super) struct Field<'a> {
    pub(super) programs: &'a Programs,
    pub(super) peers: &'a [Peer],
    /// Longest time of one program for one round.
    pub(super) limit: Duration,
}

/// One that takes its turns.
struct Contestant<'a> {
    /// None for ours.
    peer: Option<&'a Peer>,
    name: &'static str,
    /// Name of the bench in its lines.
    says: &'static str,
}

impl Contestant<'_> {
    fn command(&self, programs: &Programs, setting: &Setting) -> Option<Command> {
        match self.peer {
            Some(peer) => Some(peer.command(setting)),
            None => programs.command(setting),
        }
    }

    fn add(&self, line: Line, samples: &mut Samples) {
        match self.peer {
            Some(_) => samples.add_peer(self.name, line),
            None => samples.add_ours(line),
        }
    }
}

/// The time of a whole command, from its start to its end.
fn whole(setting: &Setting, time: Duration) -> Line {
    Line {
        bench: format!("{}-whole", setting.bench.name()),
        layout: setting.layout,
        ranks: setting.ranks.into(),
        bytes: 0,
        seconds: time.as_secs_f64(),
        variant: None,
        compared: None,
        counts: Vec::new(),
    }
}

impl Field<'_> {
    /// Times a setting in so many rounds. Who fails takes no more turns, and is named with the reason in
    /// `troubles`; without ours there is nothing left to compare. Gives whether ours went well.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub(super) fn time(
        &self,
        setting: &Setting,
        rounds: u32,
        samples: &mut Samples,
        troubles: &mut Vec<String>,
    ) -> Result<bool, Halt> {
        let mut contestants = self.contestants(setting);
        for round in 1..=rounds {
            let names: Vec<_> = contestants.iter().map(|one| one.name).collect();
            let title = setting.title();
            eprintln!("{title}: round {round} of {rounds}: {}", names.join(", "));
            let mut failed = Vec::new();
            for (at, one) in contestants.iter().enumerate() {
                let Some(command) = one.command(self.programs, setting) else {
                    continue;
                };
                let began = Instant::now();
                let mut ran = run(command, one.name, self.limit)?;
                let read = take(&ran.lines, one, setting, samples);
                if setting.bench == Bench::Launch && ran.trouble.is_none() {
                    one.add(whole(setting, began.elapsed()), samples);
                }
                let trouble = ran.trouble.take().or(read.err());
                if let Some(trouble) = trouble {
                    let trouble = format!("{title}, round {round}: {} {trouble}", one.name);
                    eprintln!("{trouble}");
                    troubles.push(trouble);
                    if one.peer.is_none() {
                        return Ok(false);
                    }
                    failed.push(at);
                }
            }
            for at in failed.into_iter().rev() {
                contestants.remove(at);
            }
        }
        Ok(true)
    }

    fn contestants(&self, setting: &Setting) -> Vec<Contestant<'_>> {
        let bench = setting.bench;
        let ours = Contestant {
            peer: None,
            name: "burn-dist",
            says: bench.name(),
        };
        let serves = |peer: &&Peer| peer.kind.serves(bench, setting.layout, setting.ranks);
        let serving = self.peers.iter().filter(serves);
        let peers = serving.map(|peer| Contestant {
            peer: Some(peer),
            name: peer.kind.name(bench),
            says: peer.kind.says(bench),
        });
        std::iter::once(ours).chain(peers).collect()
    }
}

/// Takes the measurements among the lines, which count also when the program fails after them. What is
/// none is shown.
///
/// # Errors
///
/// When there is none, or one of something else.
fn take(
    lines: &[String],
    from: &Contestant,
    setting: &Setting,
    samples: &mut Samples,
) -> Result<(), String> {
    let mut taken = 0;
    for text in lines {
        let text = unlabelled(text.trim());
        let Some(mut line) = Line::parse(text).map_err(|cause| format!("printed {cause}"))? else {
            eprintln!("[{}] {text}", from.name);
            continue;
        };
        if !is_about(&line, from, setting) {
            return Err(format!("printed a measurement of something else: {text}"));
        }
        // What it calls by a name of its own is what ours is compared with.
        line.bench = line.bench.replacen(from.says, setting.bench.name(), 1);
        from.add(line, samples);
        taken += 1;
    }
    if taken == 0 {
        return Err("printed no measurement".to_owned());
    }
    Ok(())
}

/// A line without the label of the process, which `burn-dist run` writes before it: `[0] `.
fn unlabelled(text: &str) -> &str {
    let label = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((number, rest)) if label(number) => rest,
        _ => text,
    }
}

/// True if it measures what was asked for. A bench may have parts: `startup-processes`.
fn is_about(line: &Line, from: &Contestant, setting: &Setting) -> bool {
    let part = line.bench.strip_prefix(from.says);
    part.is_some_and(|part| part.is_empty() || part.starts_with('-'))
        && (line.layout, line.ranks) == (setting.layout, setting.ranks.into())
}

#[cfg(test)]
mod tests;
