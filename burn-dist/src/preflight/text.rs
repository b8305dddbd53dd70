//! A report as a text: tables, then findings in sentences.

use super::report::{Finding, Prediction, Report, Severity};
use std::fmt::{Display, Formatter, Result};

/// Largest number of rows in a table; the rest is in the JSON.
const ROWS: usize = 32;
const MEGABYTE: usize = 1 << 20;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        machines(self, f)?;
        ways(self, f)?;
        times(self, f)?;
        buckets(self, f)?;
        writeln!(f)?;
        if self.findings.is_empty() {
            return writeln!(f, "nothing is wrong");
        }
        self.findings
            .iter()
            .try_for_each(|one| writeln!(f, "{one}"))
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}: {}", self.severity, self.message)
    }
}

impl Display for Severity {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

fn machines(report: &Report, f: &mut Formatter<'_>) -> Result {
    let measured = &report.measured;
    writeln!(
        f,
        "{:<8} {:<20} {:>5}  {:<28} replicas",
        "process", "machine", "cores", "reached at"
    )?;
    for (number, process) in measured.processes.iter().enumerate().take(ROWS) {
        let reached = process.address.map_or_else(
            || "no other process".to_owned(),
            |address| match process.interface() {
                Some(interface) => format!("{address} ({})", interface.name),
                None => address.to_string(),
            },
        );
        let replicas = measured.replicas.iter().enumerate();
        let (ranks, devices): (Vec<usize>, Vec<_>) =
            replicas.filter(|(_, one)| one.process == number).unzip();
        let device = devices.first().map_or("", |one| one.device.as_str());
        let threads = devices.first().and_then(|one| one.threads);
        let threads = threads.map_or_else(String::new, |count| format!(", {count} thread(s) each"));
        writeln!(
            f,
            "{number:<8} {:<20} {:>5}  {reached:<28} {} on {device}{threads}",
            process.host,
            process.cores,
            Numbers("rank", &ranks)
        )?;
    }
    more(measured.processes.len(), f)
}

fn ways(report: &Report, f: &mut Formatter<'_>) -> Result {
    let measured = &report.measured;
    if measured.links.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "\n{:<12} {:>10} {:>12} {:>12}",
        "processes", "latency", "there", "back"
    )?;
    for link in measured.links.iter().take(ROWS) {
        let [one, other] = link.processes;
        let [there, back] = link.bytes_per_s.map(|rate| Rate(rate).to_string());
        let (pair, latency) = (
            format!("{one} and {other}"),
            ShortTime(link.latency_s).to_string(),
        );
        writeln!(f, "{pair:<12} {latency:>10} {there:>12} {back:>12}")?;
    }
    more(measured.links.len(), f)?;
    if measured.links.len() < measured.pairs {
        writeln!(
            f,
            "(each process was measured with the next few: {} of {} pairs)",
            measured.links.len(),
            measured.pairs
        )?;
    }
    Ok(())
}

fn times(report: &Report, f: &mut Formatter<'_>) -> Result {
    let (measured, forecast) = (&report.measured, &report.forecast);
    writeln!(
        f,
        "\nthe model has {} of gradients in {} parameters; forward takes {}, backward {} (slowest replica)",
        Bytes(measured.model.gradient_bytes()),
        measured.model.gradients.len(),
        ShortTime(forecast.compute_s - forecast.backward_s),
        ShortTime(forecast.backward_s),
    )?;
    if measured.replicas.len() > 1 {
        write!(f, "all_reduce over all replicas:")?;
        for (number, one) in measured.all_reduces.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma} {} {}", Bytes(one.bytes), ShortTime(one.seconds))?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn buckets(report: &Report, f: &mut Formatter<'_>) -> Result {
    let (measured, forecast) = (&report.measured, &report.forecast);
    if measured.replicas.len() < 2 {
        return Ok(());
    }
    writeln!(
        f,
        "\n{:<13} {:>7} {:>10} {:>18}",
        "bucket_cap_mb", "buckets", "averaging", "exposed, forecast"
    )?;
    for one in &forecast.tried {
        writeln!(f, "{}{}", Row(one), mark(one, report))?;
    }
    for trial in &measured.trials {
        writeln!(
            f,
            "tried with bucket_cap_mb {}: a step took {}, without averaging {}; {} of it was exposed",
            trial.bucket_cap_mb,
            ShortTime(trial.step_s),
            ShortTime(trial.compute_s),
            Percentage(trial.exposed_share)
        )?;
    }
    writeln!(
        f,
        "take bucket_cap_mb {} and first_bucket_mb {}",
        report.advised().bucket_cap_mb,
        report.advised().first_bucket_mb
    )
}

fn mark(one: &Prediction, report: &Report) -> &'static str {
    let same = |other: &Prediction| one.bucket_cap_mb.total_cmp(&other.bucket_cap_mb).is_eq();
    match (same(&report.forecast.planned), same(&report.forecast.best)) {
        (true, true) => "  planned, best",
        (true, false) => "  planned",
        (false, true) => "  best",
        (false, false) => "",
    }
}

/// A line of the table of buckets.
struct Row<'a>(&'a Prediction);

impl Display for Row<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Prediction {
            bucket_cap_mb,
            buckets,
            communication_s,
            exposed_share,
            ..
        } = self.0;
        let (time, share) = (
            ShortTime(*communication_s).to_string(),
            Percentage(*exposed_share).to_string(),
        );
        write!(f, "{bucket_cap_mb:<13} {buckets:>7} {time:>10} {share:>18}")
    }
}

fn more(count: usize, f: &mut Formatter<'_>) -> Result {
    match count.saturating_sub(ROWS) {
        0 => Ok(()),
        rest => writeln!(f, "... and {rest} more"),
    }
}

/// A time with three digits.
pub(super) struct ShortTime(pub(super) f64);

impl Display for ShortTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (number, unit) = match self.0 {
            time if time < 1e-3 => (time * 1e6, "µs"),
            time if time < 1.0 => (time * 1e3, "ms"),
            time => (time, "s"),
        };
        write!(f, "{} {unit}", Digits(number))
    }
}

/// Bytes a second.
pub(super) struct Rate(pub(super) f64);

impl Rate {
    /// Without "a second".
    pub(super) fn amount(&self) -> String {
        let (number, unit) = if self.0 < 1e9 {
            (self.0 / 1e6, "MB")
        } else {
            (self.0 / 1e9, "GB")
        };
        format!("{} {unit}", Digits(number))
    }
}

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}/s", self.amount())
    }
}

/// A size in memory.
struct Bytes(usize);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            few if few < 1024 => write!(f, "{few} B"),
            some if some < MEGABYTE => write!(f, "{} KiB", Digits(some as f64 / 1024.0)),
            many => write!(f, "{} MiB", Digits(many as f64 / MEGABYTE as f64)),
        }
    }
}

/// The speed of a link.
pub(super) struct Megabits(pub(super) u64);

impl Display for Megabits {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            less if less < 1000 => write!(f, "{less} Mbit/s"),
            more => write!(f, "{} Gbit/s", more as f64 / 1000.0),
        }
    }
}

/// A share as a percentage.
pub(super) struct Percentage(pub(super) f64);

impl Display for Percentage {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{:.1} %", self.0 * 100.0)
    }
}

/// A number with three digits, if it has a point.
struct Digits(f64);

impl Display for Digits {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            less if less < 9.995 => write!(f, "{less:.2}"),
            some if some < 99.95 => write!(f, "{some:.1}"),
            more => write!(f, "{more:.0}"),
        }
    }
}

/// `rank 3`, `ranks 3 and 5`, `ranks 1 to 4`, `processes 1, 3, 5, 7 and 12 more`.
pub(super) struct Numbers<'a>(pub(super) &'a str, pub(super) &'a [usize]);

impl Display for Numbers<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self(what, numbers) = self;
        let plural = if what.ends_with('s') { "es" } else { "s" };
        match numbers {
            [] => write!(f, "no {what}"),
            [one] => write!(f, "{what} {one}"),
            [one, two] => write!(f, "{what}{plural} {one} and {two}"),
            [first, .., last] if last - first + 1 == numbers.len() => {
                write!(f, "{what}{plural} {first} to {last}")
            }
            [one, two, three, four, rest @ ..] if rest.len() > 1 => {
                let rest = rest.len();
                write!(
                    f,
                    "{what}{plural} {one}, {two}, {three}, {four} and {rest} more"
                )
            }
            [first @ .., last] => {
                let first: Vec<_> = first.iter().map(usize::to_string).collect();
                write!(f, "{what}{plural} {} and {last}", first.join(", "))
            }
        }
    }
}
