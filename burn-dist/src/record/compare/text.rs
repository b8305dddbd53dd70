//! The comparison as a person reads it: one sentence a line, the cause first.

use std::fmt;
use std::time::Duration;

use super::{BlockedCall, Comparison, Other, What};
use crate::error::Ranks;
use crate::record::snapshot::ROOT;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for finding in &self.findings {
            f.write_str(between)?;
            finding.fmt(f)?;
            between = "\n";
        }
        if self.findings.is_empty() {
            f.write_str("no rank whose record is known waits for another")?;
        }
        if !self.silent.is_empty() {
            let silent = Ranks(&self.silent);
            let each = if self.silent.len() > 1 {
                "of each "
            } else {
                ""
            };
            write!(
                f,
                "\n{silent} sent no record: the process {each}is lost or stopped, or did not answer in time"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for BlockedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = |other: &&Other| !matches!(other.what, What::Done);
        let mut between = "";
        for other in self.others.iter().filter(missing) {
            f.write_str(between)?;
            self.sentence(f, other)?;
            between = "\n";
        }
        if between.is_empty() {
            self.waiting_there(f)?;
            f.write_str(
                ", to which every rank has come: look at the network between the processes",
            )?;
        }
        Ok(())
    }
}

impl BlockedCall {
    fn sentence(&self, f: &mut fmt::Formatter<'_>, other: &Other) -> fmt::Result {
        let ranks = Ranks(&other.ranks);
        let many = other.ranks.len() > 1;
        let (is, it, has) = if many {
            ("are", "they", "have")
        } else {
            ("is", "it", "has")
        };
        match &other.what {
            What::Behind { last, now } => {
                if self.is_message {
                    self.waiting_there(f)?;
                    write!(f, "; {ranks} ")?;
                } else {
                    write!(f, "{ranks} {is} behind: {it} ")?;
                }
                match last {
                    Some(last) => write!(f, "last finished {last}")?,
                    None => write!(f, "{has} finished nothing before it that is recorded")?,
                }
                match (now, other.since) {
                    (Some((group, call)), since) => {
                        write!(f, ", {is} in {call}{}", Of(group))?;
                        since.map_or(Ok(()), |since| write!(f, " for {}", Seconds(since)))?;
                    }
                    (None, Some(since)) => write!(f, " {} ago", Seconds(since))?,
                    (None, None) => {}
                }
                if self.is_message {
                    return Ok(());
                }
                f.write_str(", and never came to ")?;
                self.place(f)
            }
            What::Differs(call) => {
                write!(
                    f,
                    "{ranks} {is} elsewhere: {it} came to {call} in the place of "
                )?;
                self.place(f)
            }
            What::Silent => {
                self.waiting_there(f)?;
                write!(f, "; {ranks} sent no record")
            }
            What::Done => write!(f, "{ranks} {has} finished it"),
        }
    }

    /// The operation, and who waits in it.
    fn place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}, in which ", self.call, Of(&self.group))?;
        self.waiting(f)
    }

    /// Writes the ranks that wait, and for how long.
    fn waiting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = if self.waiting.len() > 1 {
            "have"
        } else {
            "has"
        };
        let (ranks, time) = (Ranks(&self.waiting), Seconds(self.longest));
        write!(f, "{ranks} {has} waited for {time}")
    }

    /// Writes the ranks that wait, for how long, and in which operation.
    fn waiting_there(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.waiting(f)?;
        write!(f, " in {}{}", self.call, Of(&self.group))
    }
}

/// Names a group, unless it is that of all ranks.
struct Of<'a>(&'a str);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ROOT => Ok(()),
            name => write!(f, " of {name}"),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}
