//! What programs are made of: steps of training as people write them.

use super::super::program::{COPIES, CopyKind, Given, Ref, Stmt, Term};
use super::Generator;

impl Generator<'_> {
    pub(super) fn plain(&mut self, model: usize) {
        for _step in 0..=self.random.below(3) {
            let grads = self.pass(&[model]);
            self.settle(model, Given::Value(grads));
        }
        if self.chance(3) {
            self.body.push(Stmt::Evaluate { model });
        }
    }

    pub(super) fn empty_ranks(&mut self, model: usize) {
        let (loss, forward) = self.forward(&[model]);
        let Stmt::Forward { mut terms, .. } = forward else {
            return;
        };
        for terms in &mut terms {
            if self.chance(2) {
                terms.clear();
            }
        }
        let (grads, backward) = self.backward(loss);
        self.body.extend([Stmt::Forward { loss, terms }, backward]);
        self.settle(model, Given::Value(grads));
    }

    pub(super) fn accumulate(&mut self, model: usize) {
        for _micro in 0..=self.random.below(3) {
            let (loss, forward) = self.forward(&[model]);
            let ranks = self.all();
            let inside = self.chance(2);
            let body = if inside {
                vec![forward]
            } else {
                self.body.push(forward);
                Vec::new()
            };
            self.body.push(Stmt::NoSync {
                model,
                loss,
                ranks,
                body,
            });
        }
        if self.chance(4) {
            self.settle(model, Given::Nothing);
        } else {
            let grads = self.pass(&[model]);
            self.settle(model, Given::Value(grads));
        }
    }

    /// Several forward passes, then their backward passes, one or the other in `no_sync`.
    pub(super) fn interleave(&mut self, model: usize) {
        let count = 2 + self.random.below(2);
        let mut losses = Vec::new();
        for _pass in 0..count {
            let (loss, forward) = self.forward(&[model]);
            self.body.push(forward);
            losses.push(loss);
        }
        if self.chance(3) {
            losses.reverse();
        }
        let mut containers = Vec::new();
        for loss in losses {
            if self.chance(3) {
                let ranks = self.all();
                self.body.push(Stmt::NoSync {
                    model,
                    loss,
                    ranks,
                    body: Vec::new(),
                });
            } else {
                let (grads, backward) = self.backward(loss);
                self.body.push(backward);
                containers.push(grads);
            }
        }
        let updates: Vec<_> = containers
            .into_iter()
            .map(|grads| self.synchronize(model, Given::Value(grads)))
            .collect();
        let steps = updates
            .into_iter()
            .map(|update| Stmt::Step { model, update });
        self.body.extend(steps);
    }

    /// One loss for several models.
    pub(super) fn joint(&mut self, model: usize) {
        let Some(other) = self.other_model(model) else {
            return self.plain(model);
        };
        let grads = self.pass(&[model, other]);
        let first = self.synchronize(model, Given::From(grads));
        let second = self.synchronize(other, Given::Value(grads));
        self.body.push(Stmt::Step {
            model,
            update: first,
        });
        self.body.push(Stmt::Step {
            model: other,
            update: second,
        });
    }

    /// A generator's loss through a critic, and the critic's own.
    pub(super) fn adversarial(&mut self, model: usize) {
        let Some(critic) = self.other_model(model) else {
            return self.plain(model);
        };
        for _step in 0..=self.random.below(2) {
            let (loss, forward) = self.forward(&[model, critic]);
            let (grads, backward) = self.backward(loss);
            match self.random.below(3) {
                0 => self.body.extend([forward, backward]),
                1 => {
                    let (ranks, body) = (self.all(), vec![forward, backward]);
                    self.body.push(Stmt::Ignore {
                        model: critic,
                        ranks,
                        body,
                    });
                }
                _ => {
                    let (ranks, body) = (self.all(), vec![backward]);
                    self.body.push(forward);
                    self.body.push(Stmt::Ignore {
                        model: critic,
                        ranks,
                        body,
                    });
                }
            }
            self.settle(model, Given::Value(grads));
            let (loss, mut forward) = self.forward(&[model, critic]);
            if let Stmt::Forward { terms, .. } = &mut forward {
                for term in terms.iter_mut().flatten() {
                    match term {
                        Term::Chain { segments, .. } => segments[0].detach = true,
                        Term::Penalty { of, .. } => *of = Ref::Model(critic),
                    }
                }
            }
            let (grads, backward) = self.backward(loss);
            self.body.extend([forward, backward]);
            self.settle(critic, Given::Value(grads));
        }
    }

    pub(super) fn given_up(&mut self, model: usize) {
        let grads = self.pass(&[model]);
        let ranks = self.all();
        self.body.push(Stmt::Discard {
            model,
            grads,
            ranks,
        });
        if self.chance(2) {
            self.plain(model);
        }
    }

    /// A pass that nobody wants, between another's forward and backward.
    pub(super) fn ignored(&mut self, model: usize) {
        let (loss, forward) = self.forward(&[model]);
        self.body.push(forward);
        let (unwanted, inner) = self.forward(&[model]);
        let (container, back) = self.backward(unwanted);
        let ranks = if self.chance(2) { self.all() } else { 1 };
        let body = if self.chance(2) {
            vec![inner, back]
        } else {
            self.body.push(inner);
            vec![back]
        };
        self.body.push(Stmt::Ignore { model, ranks, body });
        self.body.push(Stmt::Forget {
            grads: container,
            ranks,
        });
        let (grads, backward) = self.backward(loss);
        self.body.push(backward);
        self.settle(model, Given::Value(grads));
    }

    /// A pass in `ignore` or `no_sync` that goes on after another call in it has ended.
    pub(super) fn nested(&mut self, model: usize) {
        let ranks = self.all();
        let (unwanted, inner) = self.forward(&[model]);
        let (ignored, back) = self.backward(unwanted);
        let inside = Stmt::Ignore {
            model,
            ranks,
            body: vec![inner, back],
        };
        let (kept, forward) = self.forward(&[model]);
        let within = Stmt::NoSync {
            model,
            loss: kept,
            ranks,
            body: vec![forward],
        };
        let first = if self.chance(2) { inside } else { within };
        let (loss, forward) = self.forward(&[model]);
        if self.chance(2) {
            let body = vec![forward, first];
            self.body.push(Stmt::NoSync {
                model,
                loss,
                ranks,
                body,
            });
        } else {
            let (grads, backward) = self.backward(loss);
            let body = vec![first, forward, backward];
            self.body.push(Stmt::Ignore { model, ranks, body });
            self.body.push(Stmt::Forget { grads, ranks });
        }
        let grads = ignored;
        self.body.push(Stmt::Forget { grads, ranks });
        let grads = self.pass(&[model]);
        self.settle(model, Given::Value(grads));
    }

    /// A copy that teaches the model, which has moved on or not.
    pub(super) fn taught(&mut self, model: usize) {
        let copy = self.random.below(COPIES);
        let kinds = [CopyKind::Clone, CopyKind::Teacher, CopyKind::Average];
        for _step in 0..=self.random.below(3) {
            let kind = kinds[self.random.below(3)];
            if self.chance(2) {
                self.body.push(Stmt::Copy { model, copy, kind });
            }
            let (loss, mut forward) = self.forward(&[model]);
            if let Stmt::Forward { terms, .. } = &mut forward {
                let detach = self.chance(2);
                for terms in terms {
                    // By the same way, or the copy has gradients where the model has none.
                    let Some(Term::Chain { segments, .. }) = terms.first() else {
                        continue;
                    };
                    let mut segments = segments.clone();
                    segments[0].of = Ref::Copy(copy);
                    segments[0].detach = detach;
                    let term = self.of(segments);
                    terms.push(term);
                }
            }
            let (grads, backward) = self.backward(loss);
            self.body.extend([forward, backward]);
            self.settle(model, Given::Value(grads));
        }
    }

    pub(super) fn reload(&mut self, model: usize) {
        self.body.push(Stmt::Save { model });
        self.plain(model);
        self.body.push(Stmt::Load { model });
        if self.chance(2) {
            self.plain(model);
        }
    }

    pub(super) fn frozen(&mut self, model: usize) {
        let spec = &self.program.models[model];
        if spec.lora || spec.frozen.is_some() {
            return self.plain(model);
        }
        let layer = self.random.below(spec.layers);
        self.body.push(Stmt::Freeze { model, layer });
        self.plain(model);
        if self.chance(2) {
            self.body.push(Stmt::Unfreeze { model, layer });
            self.plain(model);
        }
    }

    pub(super) fn attached_again(&mut self, model: usize) {
        let spec = &self.program.models[model];
        match spec.frozen {
            Some(layer) if !spec.lora => self.body.push(Stmt::Unfreeze { model, layer }),
            _ if self.chance(3) && !spec.lora => self.body.push(Stmt::Grow { model }),
            _ => {}
        }
        self.body.push(Stmt::Attach { model });
        self.plain(model);
    }

    pub(super) fn unused_forward(&mut self, model: usize) {
        let (_, forward) = self.forward(&[model]);
        self.body.push(forward);
        self.plain(model);
    }
}
