//! What programs come to, and the errors that they may end in.

use std::collections::BTreeSet;

/// Values that a rank computed: a list after each step of an optimizer, after each evaluation, and at the end.
pub(crate) type Trace = Vec<Vec<f64>>;

/// The errors that the documentation of `ddp` lists: what can't be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A backward pass whose gradients were given to no call.
    Lost,
    /// A pass synchronised before an earlier one that was handed over.
    Earlier,
    /// A pass that some ranks dropped after it was handed over.
    Dropped,
    /// A model that is not the attached one, or not all of it.
    Model,
    /// Gradients of other tensors than the model's.
    Foreign,
    /// A model that another open `Ddp` has.
    Attached,
    /// Parameters that were added or unfrozen since the model was attached.
    Unfrozen,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Lost,
        Self::Earlier,
        Self::Dropped,
        Self::Model,
        Self::Foreign,
        Self::Attached,
        Self::Unfrozen,
    ];

    /// Returns the phrases of which a message of this kind has one.
    fn phrases(self) -> &'static [&'static str] {
        match self {
            Self::Lost => &["that were given to no call"],
            Self::Earlier => &[
                "by an earlier backward pass",
                "no gradient of this model is in the container",
            ],
            Self::Dropped => &["dropped"],
            Self::Model => &[
                "is not the one that `attach` returned",
                "is not in the model that was passed",
            ],
            Self::Foreign => &["is not of the model that was passed"],
            Self::Attached => &["is attached to another Ddp"],
            Self::Unfrozen => &[
                "was frozen when the model was attached",
                "was not there when the model was attached",
            ],
        }
    }

    /// The kind of an error, if it is of the list.
    pub(crate) fn of(message: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| {
            let mut phrases = fault.phrases().iter();
            phrases.any(|phrase| message.contains(phrase))
        })
    }
}

/// Outcome that a program must have.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) trace: Trace,
    /// If it must fail: with one of these.
    pub(crate) must: Option<BTreeSet<Fault>>,
    /// Other faults that are possible, depending on the gradients that were handed over while backward ran.
    pub(crate) may: BTreeSet<Fault>,
}

impl Expected {
    /// True if it can only end well.
    pub(crate) fn is_clean(&self) -> bool {
        self.must.is_none() && self.may.is_empty()
    }
}

/// Outcome of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For each rank, its values or its error.
    pub(crate) ranks: Vec<Result<Trace, String>>,
    /// The job's error.
    pub(crate) job: Result<(), String>,
}

/// Compares; what came is the kind of the failure, if it is one that is allowed.
pub(crate) fn compare(
    expected: &Expected,
    found: &Outcome,
    double: bool,
) -> Result<Option<Fault>, String> {
    match (&found.job, &expected.must) {
        (Ok(()), None) => compare_traces(expected, found, double).map(|()| None),
        (Ok(()), Some(must)) => Err(format!("it came to an end where {must:?} is due")),
        (Err(job), must) => {
            let kind = Fault::of(job).ok_or_else(|| format!("it failed with {job}"))?;
            let due = |kind: &Fault| {
                must.as_ref().is_some_and(|must| must.contains(kind)) || expected.may.contains(kind)
            };
            if !due(&kind) {
                return Err(format!(
                    "it failed with {kind:?} where {must:?} is due and {:?} is allowed: {job}",
                    expected.may
                ));
            }
            // Ranks that fail at once may each have an error of their own.
            let failed = |found: &String| Fault::of(found).is_some_and(|kind| due(&kind));
            for (rank, found) in found.ranks.iter().enumerate() {
                match found {
                    // A drop finds what was lost when the other ranks have ended.
                    Ok(_) if kind == Fault::Lost => {}
                    Err(message) if failed(message) => {}
                    _ => {
                        return Err(format!(
                            "{kind:?}, but rank {rank} came to {found:?}: {job}"
                        ));
                    }
                }
            }
            Ok(Some(kind))
        }
    }
}

/// The values of all ranks are those of the reference, but for the rounding of sums in another order, and the
/// same on all ranks to the bit.
///
/// A sum of up to 8 gradients rounds by at most 8 units in the last place, relative to its largest part; steps of
/// 0.02 with bounded curvature let a difference grow by less than 1.5 a step, over at most 20 steps, so by 3,000.
/// That makes 8 * 6e-8 * 3e3 = 1.4e-3 at the very worst in f32, and 3e-12 in f64; 1e-4 was never come near in
/// f32. A gradient that is missing or counted twice moves a parameter by 1e-3 and more.
fn compare_traces(expected: &Expected, found: &Outcome, double: bool) -> Result<(), String> {
    let tolerance = if double { 1e-10 } else { 1e-4 };
    for (rank, trace) in found.ranks.iter().enumerate() {
        let trace = trace
            .as_ref()
            .map_err(|error| format!("rank {rank}: {error}"))?;
        if rank > 0 && found.ranks[0].as_ref().is_ok_and(|first| first != trace) {
            return Err(format!("rank {rank} came to other bits than rank 0"));
        }
        if trace.len() != expected.trace.len() {
            let (found, due) = (trace.len(), expected.trace.len());
            return Err(format!(
                "rank {rank} noted {found} lists of values, not {due}"
            ));
        }
        for (at, (found, due)) in trace.iter().zip(&expected.trace).enumerate() {
            // No number is near to one that is none.
            let near =
                |(found, due): (&f64, &f64)| (found - due).abs() <= tolerance * (1.0 + due.abs());
            let equal = found.len() == due.len() && found.iter().zip(due).all(near);
            if !equal {
                return Err(format!(
                    "rank {rank}, values {at}: {found:?} instead of {due:?}"
                ));
            }
        }
    }
    Ok(())
}
