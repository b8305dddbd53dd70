//! What a program must come to: one replica, without burn-dist, runs the statements for each rank in turn, adds
//! up what the ranks give, and divides by their number. It also keeps the books on what the documentation says
//! is an error.

mod gradients;
mod passes;

use super::net::{self, Net, dtype};
use super::outcome::{Expected, Fault, Trace};
use super::program::{COPIES, CopyKind, Given, Program, Ranks, Ref, Spec, Stmt, Through, contains};
use burn::module::Module;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamWConfig, ModuleOptimizer, SgdConfig};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device, Gradients, Tensor};
use gradients::{NewLeaves, Sums, add, put};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

pub(crate) const RATE: f64 = 0.02;

/// An optimizer whose state and decay tell a gradient of zero from none.
pub(crate) fn optimizer(spec: &Spec) -> ModuleOptimizer {
    if spec.adamw {
        // A large epsilon, or a gradient of nothing but rounding would count as much as any.
        AdamWConfig::new()
            .with_epsilon(0.1)
            .with_weight_decay(0.1)
            .init()
    } else {
        let momentum = MomentumConfig::new().with_momentum(0.5);
        SgdConfig::new().with_momentum(Some(momentum)).init()
    }
}

/// A loss that was not run back yet, and the hooks behind it, by model.
struct Loss {
    tensor: Tensor<1>,
    hooked: BTreeMap<usize, BTreeSet<String>>,
}

/// Gradients that a backward pass left.
struct Container {
    gradients: Gradients,
    /// For each model that has not had its gradients yet, and counts this pass, the parameters whose hooks saw it.
    open: BTreeMap<usize, BTreeSet<String>>,
    /// Its place among the passes of the rank.
    order: usize,
}

struct Copied {
    net: Net,
    of: usize,
    /// Attachment of the model that its hooks belong to.
    attachment: usize,
}

#[derive(Default)]
struct Rank {
    losses: BTreeMap<u16, Loss>,
    containers: BTreeMap<u16, Container>,
    kept: BTreeMap<usize, Sums>,
    /// The calls that are running: whose, and whether it is `ignore`.
    scopes: Vec<(usize, bool)>,
    /// The models of which a pass was dropped since they were synchronised last.
    dropped: BTreeSet<usize>,
    /// Those of them of which an earlier pass was open then, which may have been handed over in its place.
    dropped_later: BTreeSet<usize>,
    passes: usize,
}

struct Model {
    net: Net,
    optimizer: ModuleOptimizer,
    /// The parameters that were trained when it was attached.
    trained: BTreeSet<String>,
    attachment: usize,
    record: Option<Bytes>,
}

struct Reference<'a> {
    program: &'a Program,
    device: Device,
    models: Vec<Model>,
    copies: Vec<Option<Copied>>,
    updates: BTreeMap<(usize, u16), Sums>,
    ranks: Vec<Rank>,
    trace: Trace,
    /// The faults that make it fail.
    must: BTreeSet<Fault>,
    may: BTreeSet<Fault>,
}

/// Runs a program.
pub(crate) fn run(program: &Program) -> Expected {
    let device = Device::flex().autodiff();
    let models = program.models.iter().enumerate().map(|(number, spec)| {
        let net = Net::new(spec, program.double, number as u64, &device);
        Model {
            trained: net::trained(&net),
            net,
            optimizer: optimizer(spec),
            attachment: 0,
            record: None,
        }
    });
    let mut reference = Reference {
        program,
        models: models.collect(),
        device,
        copies: (0..COPIES).map(|_| None).collect(),
        updates: BTreeMap::new(),
        ranks: (0..program.ranks).map(|_| Rank::default()).collect(),
        trace: Trace::new(),
        must: BTreeSet::new(),
        may: BTreeSet::new(),
    };
    reference.all(&program.body);
    reference.end();
    Expected {
        trace: reference.trace,
        must: Some(reference.must).filter(|must| !must.is_empty()),
        may: reference.may,
    }
}

/// Continuation of the run, or its end.
type Flow = ControlFlow<()>;
const ON: Flow = Flow::Continue(());
const OFF: Flow = Flow::Break(());

impl Reference<'_> {
    fn all(&mut self, body: &[Stmt]) {
        for stmt in body {
            if self.statement(stmt).is_break() {
                return;
            }
        }
    }

    fn end(&mut self) {
        for model in 0..self.models.len() {
            let values = net::values(&self.models[model].net).into_values();
            self.trace.push(values.flatten().collect());
        }
        for copy in self.copies.iter().flatten() {
            let values = net::values(&copy.net).into_values();
            self.trace.push(values.flatten().collect());
        }
        let open = |rank: &Rank| rank.containers.values().any(|c| !c.open.is_empty());
        if self.ranks.iter().any(open) {
            self.lost();
        }
    }

    /// A pass went nowhere. If it was handed over, a later one meets it first.
    fn lost(&mut self) {
        self.must.extend([Fault::Lost, Fault::Earlier]);
    }

    fn statement(&mut self, stmt: &Stmt) -> Flow {
        match stmt {
            Stmt::Synchronize {
                model,
                given,
                update,
                through,
            } => return self.synchronize(*model, given, *update, *through),
            Stmt::Step { model, update } => self.step(*model, *update),
            Stmt::Copy { model, copy, kind } => self.copy(*model, *copy, *kind),
            Stmt::Evaluate { model } => {
                let values = evaluate(&self.models[*model].net, self.program);
                self.trace.push(values);
            }
            Stmt::Save { model } => {
                let model = &mut self.models[*model];
                model.record = Some(model.net.clone().into_record().into_bytes().unwrap());
            }
            Stmt::Load { model } => {
                let model = &mut self.models[*model];
                if let Some(record) = model.record.clone() {
                    let record = ModuleRecord::from_bytes(record).unwrap();
                    model.net = model.net.clone().load_record(record);
                }
            }
            Stmt::Freeze { model, layer } => self.change(*model, |net| net.freeze(*layer)),
            Stmt::Unfreeze { model, layer } => {
                self.change(*model, |net| net.unfreeze_layer(*layer));
            }
            Stmt::Grow { model } => {
                let options = (&self.device, dtype(self.program.double));
                let model = &mut self.models[*model];
                // It lacks the layer, so Burn would not load it.
                model.record = None;
                let layers = model.net.layers.len() as u64;
                model.net.grow(layers, options);
            }
            Stmt::Attach { model } => self.attach(*model),
            Stmt::AttachTwice { .. } => {
                self.must.insert(Fault::Attached);
                return OFF;
            }
            local => {
                for rank in 0..self.program.ranks {
                    self.local(local, rank)?;
                }
            }
        }
        ON
    }

    fn change(&mut self, model: usize, change: impl FnOnce(Net) -> Net) {
        let model = &mut self.models[model];
        model.net = change(model.net.clone());
    }

    fn net(&self, of: Ref) -> Option<&Net> {
        match of {
            Ref::Model(model) => self.models.get(model).map(|model| &model.net),
            Ref::Copy(copy) => self.copies.get(copy)?.as_ref().map(|copy| &copy.net),
        }
    }

    /// A statement of one rank.
    fn local(&mut self, stmt: &Stmt, rank: usize) -> Flow {
        let here = |ranks: &Ranks| contains(*ranks, rank);
        match stmt {
            Stmt::Forward { loss, terms } => self.forward(rank, *loss, &terms[rank]),
            Stmt::Backward { loss, grads, ranks } if here(ranks) => {
                if let Some(container) = self.backward(rank, *loss) {
                    self.put(rank, *grads, container);
                }
            }
            Stmt::NoSync {
                model,
                loss,
                ranks,
                body,
            } if here(ranks) => {
                self.ranks[rank].scopes.push((*model, false));
                let body = body.iter().try_for_each(|stmt| self.local(stmt, rank));
                let container = self.backward(rank, *loss);
                self.ranks[rank].scopes.pop();
                body?;
                if let Some(container) = container {
                    self.drop_for_others(rank, &container, Some(*model));
                    let mut container = container;
                    let given = self.give(*model, &mut container)?;
                    add(self.ranks[rank].kept.entry(*model).or_default(), given);
                }
            }
            Stmt::Ignore { model, ranks, body } if here(ranks) => {
                self.ranks[rank].scopes.push((*model, true));
                let body = body.iter().try_for_each(|stmt| self.local(stmt, rank));
                self.ranks[rank].scopes.pop();
                body?;
            }
            Stmt::Discard { grads, ranks, .. } if here(ranks) => {
                if let Some(container) = self.ranks[rank].containers.remove(grads) {
                    self.drop_for_others(rank, &container, None);
                }
            }
            Stmt::Forget { grads, ranks } if here(ranks) => {
                let gone = self.ranks[rank].containers.remove(grads);
                if gone.is_some_and(|gone| !gone.open.is_empty()) {
                    self.lost();
                }
            }
            _ => {}
        }
        ON
    }

    fn synchronize(
        &mut self,
        model: usize,
        given: &[Given],
        update: u16,
        through: Through,
    ) -> Flow {
        let mut sums = Sums::new();
        let mut failed = false;
        for (rank, given) in given.iter().take(self.program.ranks).enumerate() {
            let (grads, by_value) = match given {
                Given::Value(grads) => (Some(*grads), true),
                Given::From(grads) => (Some(*grads), false),
                Given::Nothing => (None, false),
            };
            let container = grads.and_then(|grads| self.ranks[rank].containers.remove(&grads));
            // What has nothing of the model is later than all.
            let of_model = container.as_ref().filter(|c| c.open.contains_key(&model));
            let order = of_model.map_or(usize::MAX, |container| container.order);
            let mut open = self.ranks[rank].containers.values();
            let earlier =
                |other: &Container| other.open.contains_key(&model) && other.order < order;
            if open.any(earlier) {
                // Which of the two depends on whether the model changed in between.
                self.may.extend([Fault::Earlier, Fault::Lost]);
            }
            if let Some(mut container) = container {
                if by_value {
                    self.drop_for_others(rank, &container, Some(model));
                }
                match self.give(model, &mut container) {
                    ControlFlow::Continue(more) => add(&mut sums, more),
                    ControlFlow::Break(()) => failed = true,
                }
                if let (false, Some(grads)) = (by_value, grads) {
                    self.ranks[rank].containers.insert(grads, container);
                }
            }
            let kept = self.ranks[rank].kept.remove(&model);
            add(&mut sums, kept.unwrap_or_default());
        }
        if !self.fits(model, through) {
            self.must.insert(Fault::Model);
            failed = true;
        }
        let dropped = |rank: &Rank| rank.dropped.contains(&model);
        let alike = |rank: &Rank| dropped(rank) && !rank.dropped_later.contains(&model);
        if self.ranks.iter().any(dropped) && !self.ranks.iter().all(alike) {
            self.may.insert(Fault::Dropped);
        }
        for rank in &mut self.ranks {
            rank.dropped.remove(&model);
            rank.dropped_later.remove(&model);
        }
        if failed {
            return OFF;
        }
        for value in sums.values_mut().flatten() {
            *value /= self.program.ranks as f64;
        }
        self.updates.insert((model, update), sums);
        ON
    }

    /// True if everything that is trained is in the value passed.
    fn fits(&self, model: usize, through: Through) -> bool {
        let trained = &self.models[model].trained;
        match through {
            Through::Model | Through::Wrapper => true,
            Through::Stranger => trained.is_empty(),
            Through::Part => trained.iter().all(|path| path.starts_with("layers.0.")),
        }
    }

    fn step(&mut self, model: usize, update: u16) {
        let Some(sums) = self.updates.remove(&(model, update)) else {
            return;
        };
        let options = (&self.device, dtype(self.program.double));
        let Model { net, optimizer, .. } = &mut self.models[model];
        let gradients = put(net, sums, options);
        *net = optimizer.step(RATE, net.clone(), gradients);
        let values = net::values(net).into_values().flatten().collect();
        self.trace.push(values);
    }

    fn copy(&mut self, model: usize, copy: usize, kind: CopyKind) {
        let Model {
            net, attachment, ..
        } = &self.models[model];
        let before = self.copies[copy].take().filter(|copy| copy.of == model);
        let (net, attachment) = match (kind, before) {
            (CopyKind::Clone, _) => (net.clone(), *attachment),
            (CopyKind::Average, Some(before)) if same_layers(&before.net, net) => {
                (Net::average(before.net, net), before.attachment)
            }
            _ => (net.clone().no_grad(), *attachment),
        };
        self.copies[copy] = Some(Copied {
            net,
            of: model,
            attachment,
        });
    }

    fn attach(&mut self, model: usize) {
        let open = |rank: &Rank| {
            rank.containers
                .values()
                .any(|c| c.open.contains_key(&model))
        };
        if self.ranks.iter().any(open) {
            self.lost();
        }
        for rank in &mut self.ranks {
            rank.kept.remove(&model);
            rank.dropped.remove(&model);
            rank.dropped_later.remove(&model);
            let containers = rank.containers.values_mut().map(|c| &mut c.open);
            let losses = rank.losses.values_mut().map(|loss| &mut loss.hooked);
            for of in containers.chain(losses) {
                of.remove(&model);
            }
        }
        let model = &mut self.models[model];
        model.attachment += 1;
        model.net = model.net.clone().map(&mut NewLeaves);
        model.trained = net::trained(&model.net);
    }
}

pub(crate) fn same_layers(one: &Net, other: &Net) -> bool {
    one.layers.len() == other.layers.len()
}

/// Returns the output of a model for a fixed input, without autodiff.
pub(crate) fn evaluate(net: &Net, program: &Program) -> Vec<f64> {
    let device = Device::flex();
    let x = Tensor::<2>::full([1, 2], 0.5, (&device, dtype(program.double)));
    let ops: Vec<_> = (0..net.layers.len())
        .map(super::program::Op::Layer)
        .collect();
    let output = net.valid().forward(&ops, x);
    output.into_data().iter::<f64>().collect()
}
