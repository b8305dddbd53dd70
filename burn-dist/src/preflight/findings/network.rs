//! Latency and bandwidth between processes: who is out of line.
//!
//! A way within a machine is compared with others within machines, one between machines with others between
//! machines. Where all ways of a process are bad, the process is named, and not each of its ways.

use super::{Findings, lower_median, place};
use crate::preflight::report::{Link, Measurements, Process, Severity, Topic};
use crate::preflight::text::{Megabits, Rate, ShortTime};

/// Number of ways needed to call one out of line with the others.
const ENOUGH: usize = 3;
/// The share of the usual bandwidth, or of the link's own, below which something is wrong.
const NARROW: f64 = 0.5;
/// Multiple of the usual latency that is too much, if it is also more by [`LATER`].
const LATE: f64 = 3.0;
/// In seconds: less than this is the machine's scheduling.
const LATER: f64 = 100e-6;
/// Number of ways that are named one by one.
const NAMED: usize = 5;

pub(super) fn judge(measured: &Measurements, findings: &mut Findings) {
    let same_host = |link: &&Link| {
        let [one, other] = link
            .processes
            .map(|number| &measured.processes[number].host);
        one == other
    };
    let (within, between): (Vec<&Link>, Vec<&Link>) = measured.links.iter().partition(same_host);
    for links in [within, between.clone()] {
        bandwidth(measured, &links, findings);
        latency(measured, &links, findings);
    }
    one_sided(measured, findings);
    below_link(measured, &between, findings);
}

/// Ways that carry much less than others.
fn bandwidth(measured: &Measurements, links: &[&Link], findings: &mut Findings) {
    let usual = lower_median(&values(links, Link::slower));
    let is_bad = |link: &Link| link.slower() < NARROW * usual;
    for (places, link) in out_of_line(measured, links, is_bad) {
        let message = format!(
            "{places} carries {}, others {}: look at cable, port and other traffic there, and at the \
             interface that was chosen",
            Rate(link.slower()),
            Rate(usual)
        );
        findings.add(Severity::Warning, Topic::Bandwidth, message);
    }
}

/// Ways on which small messages take much longer than on others.
fn latency(measured: &Measurements, links: &[&Link], findings: &mut Findings) {
    let usual = lower_median(&values(links, |link| link.latency_s));
    let is_bad = |link: &Link| link.latency_s > (LATE * usual).max(usual + LATER);
    for (places, link) in out_of_line(measured, links, is_bad) {
        let message = format!(
            "a small message takes {} on {places}, {} on others: see whether the machine is busy or its \
             network goes another way",
            ShortTime(link.latency_s),
            ShortTime(usual)
        );
        findings.add(Severity::Warning, Topic::Latency, message);
    }
}

/// Returns the findings out of line, each with a way that shows it: first processes of which all ways are bad,
/// then other ways.
fn out_of_line<'a>(
    measured: &Measurements,
    links: &[&'a Link],
    is_bad: impl Fn(&Link) -> bool,
) -> Vec<(String, &'a Link)> {
    if links.len() < ENOUGH {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut bad: Vec<&Link> = links.iter().copied().filter(|link| is_bad(link)).collect();
    for process in 0..measured.processes.len() {
        let its = |link: &&Link| link.processes.contains(&process);
        let (all, wrong) = (
            links.iter().copied().filter(its),
            bad.iter().copied().filter(its),
        );
        let (all, wrong): (Vec<&Link>, Vec<&Link>) = (all.collect(), wrong.collect());
        // One way alone does not say which of its ends is at fault.
        if let Some(&link) = wrong.first()
            && all.len() > 1
            && all.len() == wrong.len()
        {
            found.push((format!("every way of {}", place(measured, process)), link));
            bad.retain(|link| !its(link));
        }
    }
    let rest = bad.len().saturating_sub(NAMED);
    for (number, link) in bad.into_iter().take(NAMED).enumerate() {
        let [one, other] = link.processes.map(|number| place(measured, number));
        let more = if number + 1 == NAMED && rest > 0 {
            format!(" (and {rest} more)")
        } else {
            String::new()
        };
        found.push((format!("the way between {one} and {other}{more}"), link));
    }
    found
}

/// Ways that carry much less in one direction.
fn one_sided(measured: &Measurements, findings: &mut Findings) {
    let uneven = measured.links.iter().filter(|link| {
        let [there, back] = link.bytes_per_s;
        link.slower() < NARROW * there.max(back)
    });
    for link in uneven.take(NAMED) {
        let [there, back] = link.bytes_per_s;
        let [one, other] = link.processes;
        let (from, to) = if there < back {
            (one, other)
        } else {
            (other, one)
        };
        let message = format!(
            "from {} to {} {} a second pass, the other way {}: look at the duplex setting and the other \
             traffic of both machines",
            place(measured, from),
            place(measured, to),
            Rate(there.min(back)).amount(),
            Rate(there.max(back)).amount()
        );
        findings.add(Severity::Warning, Topic::Bandwidth, message);
    }
}

/// Ways between machines that carry much less than their interfaces say.
fn below_link(measured: &Measurements, between: &[&Link], findings: &mut Findings) {
    let megabits = |process: &Process| process.interface().and_then(|one| one.megabits);
    let below = between.iter().filter_map(|link| {
        let [one, other] = link
            .processes
            .map(|number| megabits(&measured.processes[number]));
        let promised = one?.min(other?);
        let bytes_per_s = promised as f64 * 1e6 / 8.0;
        (link.slower() < NARROW * bytes_per_s).then_some((link, promised))
    });
    let below: Vec<_> = below.collect();
    if let Some((link, promised)) = below.first() {
        let [one, other] = link.processes.map(|number| place(measured, number));
        let more = match below.len() - 1 {
            0 => String::new(),
            rest => format!(" (and {rest} more ways likewise)"),
        };
        let message = format!(
            "between {one} and {other} {} a second pass where their interfaces promise {}{more}: one \
             connection may not fill a fast link; otherwise look for other traffic and slower switches",
            Rate(link.slower()).amount(),
            Megabits(*promised)
        );
        findings.add(Severity::Note, Topic::Bandwidth, message);
    }
}

fn values(links: &[&Link], value: impl Fn(&Link) -> f64) -> Vec<f64> {
    links.iter().map(|link| value(link)).collect()
}
