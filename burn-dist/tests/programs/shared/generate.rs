//! Draws programs: a few episodes of training as people write it, then moved and changed at random as far as the
//! reference says that the program still ends well. A few programs get a fault.

mod change;
mod episodes;

use super::Random;
use super::program::{Given, Op, Program, Ranks, Ref, Segment, Spec, Stmt, Term, Through};
use super::reference;
use change::{break_it, change};

/// Of so many programs, one gets a fault.
const FAULTY: usize = 25;

/// Number of changes to a program.
const CHANGES: usize = 5;

/// The program of a seed.
pub(crate) fn program(seed: u64) -> Program {
    let mut random = Random(seed.wrapping_mul(0xA076_1D64_78BD_642F));
    let ranks = 1 + random.below(4);
    let models = (0..=random.below(3)).map(|_| spec(&mut random)).collect();
    let mut program = Program {
        ranks,
        double: random.below(2) == 0,
        bucket_bytes: [1, 16, 64, 1 << 20][random.below(4)],
        models,
        body: Vec::new(),
    };
    let mut generator = Generator {
        random: &mut random,
        program: &program,
        next: 0,
        body: Vec::new(),
    };
    for _episode in 0..=generator.random.below(6) {
        generator.episode();
    }
    program.body = generator.body;
    if !reference::run(&program).is_clean() {
        // An episode met another that it does not go with.
        return faulty_or_shorter(program, &mut random);
    }
    for _time in 0..CHANGES {
        let mut changed = program.clone();
        change(&mut changed, &mut random);
        if changed != program && reference::run(&changed).is_clean() {
            program = changed;
        }
    }
    if random.below(FAULTY) == 0 {
        break_it(&mut program, &mut random);
    }
    program
}

/// The longest beginning of a program that ends well.
fn faulty_or_shorter(mut program: Program, random: &mut Random) -> Program {
    if random.below(FAULTY) == 0 {
        return program;
    }
    while !reference::run(&program).is_clean() {
        program.body.pop();
    }
    program
}

fn spec(random: &mut Random) -> Spec {
    let layers = 1 + random.below(3);
    let lora = random.below(6) == 0;
    Spec {
        layers,
        // Something must be trained.
        scale: random.below(2) == 0,
        lora,
        frozen: (layers > 1 && random.below(5) == 0).then(|| random.below(layers)),
        adamw: random.below(2) == 0,
    }
}

struct Generator<'a> {
    random: &'a mut Random,
    program: &'a Program,
    next: u16,
    body: Vec<Stmt>,
}

impl Generator<'_> {
    fn chance(&mut self, of: usize) -> bool {
        self.random.below(of) == 0
    }

    fn all(&self) -> Ranks {
        (1 << self.program.ranks) - 1
    }

    fn fresh(&mut self) -> u16 {
        self.next += 1;
        self.next
    }

    fn some_model(&mut self) -> usize {
        self.random.below(self.program.models.len())
    }

    fn other_model(&mut self, than: usize) -> Option<usize> {
        let count = self.program.models.len();
        (count > 1).then(|| (than + 1 + self.random.below(count - 1)) % count)
    }

    fn ops(&mut self, model: usize) -> Vec<Op> {
        let spec = &self.program.models[model];
        let op = |random: &mut Random| match random.below(spec.layers + 1) {
            0 if spec.scale => Op::Scale,
            // The one after the last is there once the model has grown.
            layer => Op::Layer(layer),
        };
        if self.random.below(2) == 0 {
            // All of it, once.
            let mut ops: Vec<_> = (0..spec.layers).map(Op::Layer).collect();
            ops.extend(spec.scale.then_some(Op::Scale));
            return ops;
        }
        let count = 1 + self.random.below(4);
        (0..count).map(|_| op(self.random)).collect()
    }

    /// The way through some models, in which each but the last may be detached.
    fn chain(&mut self, models: &[usize]) -> Vec<Segment> {
        let of = |model: &usize| Segment {
            of: Ref::Model(*model),
            ops: self.ops(*model),
            detach: false,
        };
        models.iter().map(of).collect()
    }

    /// A loss over some models in turn: the same way on all ranks or not, with other inputs.
    fn terms(&mut self, models: &[usize]) -> Vec<Vec<Term>> {
        let common = self.chain(models);
        let branches = self.chance(3);
        let penalty = self
            .chance(8)
            .then(|| self.random.below(self.program.ranks + 1));
        let twice = self.chance(6);
        let term = |generator: &mut Self, rank: usize| {
            let segments = if branches && generator.chance(2) {
                generator.chain(models)
            } else {
                common.clone()
            };
            let mut terms = vec![generator.of(segments.clone())];
            if twice {
                terms.push(generator.of(segments));
            }
            // On one rank, or on all.
            if penalty.is_some_and(|of| of == rank || of == generator.program.ranks) {
                terms.push(Term::Penalty {
                    of: Ref::Model(models[0]),
                    weight: 10,
                });
            }
            terms
        };
        (0..self.program.ranks)
            .map(|rank| term(self, rank))
            .collect()
    }

    fn of(&mut self, segments: Vec<Segment>) -> Term {
        Term::Chain {
            segments,
            input: self.random.next() as u32,
        }
    }

    fn forward(&mut self, models: &[usize]) -> (u16, Stmt) {
        let loss = self.fresh();
        let terms = self.terms(models);
        (loss, Stmt::Forward { loss, terms })
    }

    fn backward(&mut self, loss: u16) -> (u16, Stmt) {
        let grads = self.fresh();
        let ranks = self.all();
        (grads, Stmt::Backward { loss, grads, ranks })
    }

    /// Forward and backward.
    fn pass(&mut self, models: &[usize]) -> u16 {
        let (loss, forward) = self.forward(models);
        let (grads, backward) = self.backward(loss);
        self.body.extend([forward, backward]);
        grads
    }

    fn given(&self, given: Given) -> Vec<Given> {
        vec![given; self.program.ranks]
    }

    fn synchronize(&mut self, model: usize, given: Given) -> u16 {
        let update = self.fresh();
        let through = if self.chance(10) {
            Through::Wrapper
        } else {
            Through::Model
        };
        let given = self.given(given);
        self.body.push(Stmt::Synchronize {
            model,
            given,
            update,
            through,
        });
        update
    }

    fn settle(&mut self, model: usize, given: Given) {
        let update = self.synchronize(model, given);
        self.body.push(Stmt::Step { model, update });
    }

    fn episode(&mut self) {
        let model = self.some_model();
        match self.random.below(19) {
            0 | 1 => self.plain(model),
            2 => self.empty_ranks(model),
            3 => self.accumulate(model),
            4 | 5 => self.interleave(model),
            6 | 7 => self.joint(model),
            8 | 9 => self.adversarial(model),
            10 => self.given_up(model),
            11 => self.ignored(model),
            12 => self.settle(model, Given::Nothing),
            13 => self.taught(model),
            14 => self.reload(model),
            15 => self.frozen(model),
            16 => self.attached_again(model),
            17 => self.nested(model),
            _ => self.unused_forward(model),
        }
    }
}
