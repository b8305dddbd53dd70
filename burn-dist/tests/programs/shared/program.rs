//! Training programs as data: what is drawn, printed, shrunk and run.
//!
//! Every program means something: a statement whose loss, container or copy is not there does nothing, so that
//! statements can be taken out one by one.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A training program of some ranks. All ranks run the same statements; ranks branch inside of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) ranks: usize,
    /// True if tensors are of f64, in which a wrong sum can't hide behind rounding; of f32 otherwise.
    pub(crate) double: bool,
    /// The size of buckets in bytes.
    pub(crate) bucket_bytes: u32,
    pub(crate) models: Vec<Spec>,
    pub(crate) body: Vec<Stmt>,
}

/// One model with its optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Number of layers, of 2 inputs and 2 outputs each.
    pub(crate) layers: usize,
    /// True if it has a parameter that scales activations.
    pub(crate) scale: bool,
    /// True if its layers are frozen and adapted.
    pub(crate) lora: bool,
    /// A layer that is frozen when the model is attached.
    pub(crate) frozen: Option<usize>,
    pub(crate) adamw: bool,
}

/// A set of ranks, a bit each.
pub(crate) type Ranks = u8;

pub(crate) fn contains(ranks: Ranks, rank: usize) -> bool {
    ranks >> rank & 1 == 1
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Stmt {
    /// Computes a loss: for each rank, the sum of some terms. Ranks without terms compute none.
    Forward {
        loss: u16,
        terms: Vec<Vec<Term>>,
    },
    /// `grads = loss.backward()`.
    Backward {
        loss: u16,
        grads: u16,
        ranks: Ranks,
    },
    /// `ddp.no_sync(&model, || { body; loss.backward() })`. The body has only statements without the others.
    NoSync {
        model: usize,
        loss: u16,
        ranks: Ranks,
        body: Vec<Stmt>,
    },
    /// `ddp.ignore(|| body)`.
    Ignore {
        model: usize,
        ranks: Ranks,
        body: Vec<Stmt>,
    },
    /// `update = ddp.synchronize(grads, &model)`, or as each rank gives them. A rank without the container calls
    /// `synchronize_none`.
    Synchronize {
        model: usize,
        given: Vec<Given>,
        update: u16,
        through: Through,
    },
    /// `model = optimizer.step(rate, model, update)`.
    Step {
        model: usize,
        update: u16,
    },
    /// `ddp.discard(grads)`.
    Discard {
        model: usize,
        grads: u16,
        ranks: Ranks,
    },
    /// `drop(grads)`.
    Forget {
        grads: u16,
        ranks: Ranks,
    },
    /// `copy = model.clone()`, in one of several ways.
    Copy {
        model: usize,
        copy: usize,
        kind: CopyKind,
    },
    /// `model.valid().forward(..)`.
    Evaluate {
        model: usize,
    },
    /// `record = model.clone().into_record()`.
    Save {
        model: usize,
    },
    /// `model = model.load_record(record)`.
    Load {
        model: usize,
    },
    Freeze {
        model: usize,
        layer: usize,
    },
    Unfreeze {
        model: usize,
        layer: usize,
    },
    /// Adds a layer.
    Grow {
        model: usize,
    },
    /// `drop(ddp)`, and attaches the model to another.
    Attach {
        model: usize,
    },
    /// Attaches the model to another `Ddp` while the first is there.
    AttachTwice {
        model: usize,
    },
}

/// Ways to give a container to `synchronize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Given {
    /// By value.
    Value(u16),
    /// By reference.
    From(u16),
    /// `synchronize_none`.
    Nothing,
}

/// Value passed as the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Through {
    Model,
    /// A module that contains it.
    Wrapper,
    /// Its first layer.
    Part,
    /// A model of its kind that was never attached.
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CopyKind {
    Clone,
    /// Frozen.
    Teacher,
    /// The mean of the copy, if there is one, and the model; frozen.
    Average,
}

/// A part of a loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Term {
    /// The squared distance of an output from a target.
    Chain { segments: Vec<Segment>, input: u32 },
    /// Half the squares of all parameters, which a visitor reads.
    Penalty { of: Ref, weight: u8 },
}

/// The way through one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub(crate) of: Ref,
    pub(crate) ops: Vec<Op>,
    /// True if its output is detached.
    pub(crate) detach: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Ref {
    Model(usize),
    Copy(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Op {
    Layer(usize),
    Scale,
}

/// Largest number of copies that a program can hold.
pub(crate) const COPIES: usize = 2;

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ranks,
            double,
            bucket_bytes,
            models,
            body,
        } = self;
        writeln!(
            f,
            "ranks: {ranks}, double: {double}, bucket_bytes: {bucket_bytes}"
        )?;
        for (number, model) in models.iter().enumerate() {
            writeln!(f, "model {number}: {model:?}")?;
        }
        for stmt in body {
            writeln!(f, "{stmt:?}")?;
        }
        Ok(())
    }
}
