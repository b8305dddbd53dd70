//! What is wrong with a job, from its measurements, in words that a user can act on: pure.
//!
//! Of what many processes share, one finding names all. Limits are chosen so that what a healthy job shows
//! on a busy machine stays below them.

mod machines;
mod network;

use super::report::{Finding, Forecast, Measurements, Process, Replica, Severity, Topic};
use super::text::{Numbers, Percentage, ShortTime};
use std::collections::BTreeMap;

/// From which share of a step on averaging is worth doing something about.
const EXPOSED: f64 = 0.1;
/// Factor of the other replicas' time from which a replica is out of line.
const SLOW: f64 = 1.5;

/// All findings, the worst first; `known` are those that processes had made before.
pub(super) fn judge(
    measured: &Measurements,
    forecast: &Forecast,
    known: Vec<Finding>,
) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    for one in known {
        // The processes of one machine find the same.
        if !findings.0.contains(&one) {
            findings.0.push(one);
        }
    }
    machines::judge(measured, &mut findings);
    replicas(measured, &mut findings);
    network::judge(measured, &mut findings);
    steps(measured, forecast, &mut findings);
    findings
        .0
        .sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.0
}

/// The findings so far.
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, topic: Topic, message: String) {
        self.0.push(Finding {
            severity,
            topic,
            message,
        });
    }
}

/// The processes of each machine, by its name.
fn by_host(measured: &Measurements) -> BTreeMap<&str, Vec<usize>> {
    let mut hosts = BTreeMap::<&str, Vec<usize>>::new();
    for (number, process) in measured.processes.iter().enumerate() {
        hosts.entry(&process.host).or_default().push(number);
    }
    hosts
}

/// `process 1 (ranks 2 and 3, on node2 at 10.0.0.2)`.
fn place(measured: &Measurements, number: usize) -> String {
    let replicas = measured.replicas.iter().enumerate();
    let ranks = replicas.filter(|(_, replica)| replica.process == number);
    let ranks: Vec<usize> = ranks.map(|(rank, _)| rank).collect();
    let Process { host, address, .. } = &measured.processes[number];
    let at = address
        .map(|address| format!(" at {address}"))
        .unwrap_or_default();
    format!(
        "process {number} ({}, on {host}{at})",
        Numbers("rank", &ranks)
    )
}

/// Replicas that are out of line with the others.
fn replicas(measured: &Measurements, findings: &mut Findings) {
    let times: Vec<f64> = measured.replicas.iter().map(Replica::compute_s).collect();
    let usual = lower_median(&times);
    let slow: Vec<usize> = (0..times.len())
        .filter(|&rank| times[rank] > SLOW * usual)
        .collect();
    if let Some(&first) = slow.first() {
        let worst = slow.iter().map(|&rank| times[rank]).fold(0.0, f64::max);
        let others = if slow.len() == 1 { "" } else { " at worst" };
        findings.add(
            Severity::Warning,
            Topic::Replicas,
            format!(
                "{} ({}, in {}) computes a step in {}{others}, most others in {}: every step waits for the \
                 slowest. See what else runs on that machine, and whether its device and its number of \
                 cores are those of the others",
                Numbers("rank", &slow),
                measured.replicas[first].device,
                place(measured, measured.replicas[first].process),
                ShortTime(worst),
                ShortTime(usual),
            ),
        );
    }
}

/// Finds the cost of averaging, and the best size of buckets.
fn steps(measured: &Measurements, forecast: &Forecast, findings: &mut Findings) {
    if measured.replicas.len() < 2 {
        let message = "there is one replica, and so nothing to average: start as many replicas as the job \
                       will have, to see what that costs";
        findings.add(Severity::Note, Topic::Exposed, message.to_owned());
        return;
    }
    let (planned, best) = (&forecast.planned, &forecast.best);
    let mut exposed = planned.exposed_share;
    if let [first, rest @ ..] = &measured.trials[..] {
        exposed = first.exposed_share;
        if let Some(other) = rest.first() {
            let figures = format!(
                "with bucket_cap_mb {} steps waited {} of their time for averaging, with the planned {} {}",
                best.bucket_cap_mb,
                Percentage(other.exposed_share),
                planned.bucket_cap_mb,
                Percentage(first.exposed_share)
            );
            if other.saves(first) {
                exposed = other.exposed_share;
                let message = format!(
                    "{figures}: train with DdpConfig::new().with_bucket_cap_mb({:?}).with_first_bucket_mb({:?})",
                    best.bucket_cap_mb, best.first_bucket_mb
                );
                findings.add(Severity::Warning, Topic::Buckets, message);
            } else {
                let message = format!("{figures}: keep the planned buckets");
                findings.add(Severity::Note, Topic::Buckets, message);
            }
        }
    }
    if exposed > EXPOSED {
        let message = format!(
            "{} of a step waits for averaging: {}. A larger batch, several backward passes a step \
             (Ddp::no_sync) or a faster network make it less",
            Percentage(exposed),
            cause(forecast, exposed)
        );
        findings.add(Severity::Warning, Topic::Exposed, message);
    }
}

/// Returns the reason why so much of a step waits.
fn cause(forecast: &Forecast, exposed: f64) -> String {
    let (all, backward) = (forecast.best.communication_s, forecast.backward_s);
    if all > backward {
        format!(
            "averaging takes {}, and backward, behind which it hides, {}",
            ShortTime(all),
            ShortTime(backward)
        )
    } else if exposed > forecast.planned.exposed_share + EXPOSED / 2.0 {
        format!(
            "from the network alone it would be {}, so averaging takes cores from backward, or replicas wait \
             for one another",
            Percentage(forecast.planned.exposed_share)
        )
    } else {
        "the gradients that come last have nothing to hide behind".to_owned()
    }
}

/// The middle of some values, or the lower of the two in the middle; nothing of none.
fn lower_median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
