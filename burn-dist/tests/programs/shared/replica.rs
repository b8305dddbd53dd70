//! One rank of a program, with burn-dist.

use super::net::{self, Net, Wrapper, dtype};
use super::outcome::Trace;
use super::program::{COPIES, CopyKind, Given, Program, Ref, Stmt, Term, Through, contains};
use super::reference::{RATE, evaluate, optimizer, same_layers};
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device, Gradients, Tensor};
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::{ProcessGroup, Result};
use std::collections::BTreeMap;
use std::rc::Rc;

struct Model {
    /// `None` for the moment in which it is attached to another.
    ddp: Option<Rc<Ddp>>,
    net: Net,
    optimizer: ModuleOptimizer,
    record: Option<Bytes>,
}

struct Replica<'a> {
    program: &'a Program,
    group: &'a ProcessGroup,
    device: &'a Device,
    models: Vec<Model>,
    copies: Vec<Option<(usize, Net)>>,
    losses: BTreeMap<u16, Tensor<1>>,
    containers: BTreeMap<u16, Gradients>,
    updates: BTreeMap<(usize, u16), GradientsParams>,
    trace: Trace,
}

/// Runs a program as one rank of a group.
pub(crate) fn run(program: &Program, group: &ProcessGroup, device: &Device) -> Result<Trace> {
    let mut replica = Replica {
        program,
        group,
        device,
        models: Vec::new(),
        copies: vec![None; COPIES],
        losses: BTreeMap::new(),
        containers: BTreeMap::new(),
        updates: BTreeMap::new(),
        trace: Trace::new(),
    };
    for model in 0..program.models.len() {
        let model = replica.model(model)?;
        replica.models.push(model);
    }
    for stmt in &program.body {
        replica.statement(stmt)?;
    }
    replica.end()
}

impl Replica<'_> {
    fn attach(&self, net: Net) -> Result<(Rc<Ddp>, Net)> {
        let megabytes = f64::from(self.program.bucket_bytes) / f64::from(1 << 20);
        let config = DdpConfig::new()
            .with_bucket_cap_mb(megabytes)
            .with_first_bucket_mb(megabytes);
        let ddp = config.init(self.group)?;
        let net = ddp.attach(net)?;
        Ok((Rc::new(ddp), net))
    }

    /// A model that begins with rank 0's values, which only rank 0 has before it is attached.
    fn model(&self, number: usize) -> Result<Model> {
        let spec = &self.program.models[number];
        let (rank, double) = (self.group.rank(), self.program.double);
        let net = Net::new(spec, double, (1000 * rank + number) as u64, self.device);
        let (ddp, net) = self.attach(net)?;
        Ok(Model {
            ddp: Some(ddp),
            net,
            optimizer: optimizer(spec),
            record: None,
        })
    }

    fn ddp(&self, model: usize) -> Rc<Ddp> {
        Rc::clone(self.models[model].ddp.as_ref().unwrap())
    }

    fn end(mut self) -> Result<Trace> {
        for model in &self.models {
            let values = net::values(&model.net).into_values();
            self.trace.push(values.flatten().collect());
        }
        for (_, copy) in self.copies.iter().flatten() {
            let values = net::values(copy).into_values();
            self.trace.push(values.flatten().collect());
        }
        for model in 0..self.models.len() {
            self.ddp(model).verify_replicas(&self.models[model].net)?;
        }
        Ok(std::mem::take(&mut self.trace))
    }

    fn statement(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Synchronize {
                model,
                given,
                update,
                through,
            } => {
                let rank = self.group.rank();
                let gradients = self.synchronize(*model, given[rank], *through)?;
                self.updates.insert((*model, *update), gradients);
            }
            Stmt::Step { model, update } => {
                if let Some(gradients) = self.updates.remove(&(*model, *update)) {
                    let Model { net, optimizer, .. } = &mut self.models[*model];
                    *net = optimizer.step(RATE, net.clone(), gradients);
                    let values = net::values(net).into_values().flatten().collect();
                    self.trace.push(values);
                }
            }
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
                let options = (self.device, dtype(self.program.double));
                let model = &mut self.models[*model];
                // It lacks the layer, so Burn would not load it.
                model.record = None;
                let layers = model.net.layers.len() as u64;
                model.net.grow(layers, options);
            }
            Stmt::Attach { model } => {
                self.models[*model].ddp = None;
                let (ddp, net) = self.attach(self.models[*model].net.clone())?;
                self.models[*model].ddp = Some(ddp);
                self.models[*model].net = net;
            }
            Stmt::AttachTwice { model } => {
                self.attach(self.models[*model].net.clone())?;
            }
            local => self.local(local)?,
        }
        Ok(())
    }

    fn change(&mut self, model: usize, change: impl FnOnce(Net) -> Net) {
        let model = &mut self.models[model];
        model.net = change(model.net.clone());
    }

    fn net(&self, of: Ref) -> Option<&Net> {
        match of {
            Ref::Model(model) => self.models.get(model).map(|model| &model.net),
            Ref::Copy(copy) => self.copies.get(copy)?.as_ref().map(|(_, net)| net),
        }
    }

    /// A statement that this rank may run alone.
    fn local(&mut self, stmt: &Stmt) -> Result<()> {
        let rank = self.group.rank();
        match stmt {
            Stmt::Forward { loss, terms } => self.forward(*loss, &terms[rank]),
            Stmt::Backward { loss, grads, ranks } if contains(*ranks, rank) => {
                if let Some(loss) = self.losses.remove(loss) {
                    self.containers.insert(*grads, loss.backward());
                }
            }
            Stmt::NoSync {
                model,
                loss,
                ranks,
                body,
            } if contains(*ranks, rank) => self.no_sync(*model, *loss, body)?,
            Stmt::Ignore { model, ranks, body } if contains(*ranks, rank) => {
                let ddp = self.ddp(*model);
                ddp.ignore(|| body.iter().try_for_each(|stmt| self.local(stmt)))??;
            }
            Stmt::Discard {
                model,
                grads,
                ranks,
            } if contains(*ranks, rank) => {
                if let Some(gradients) = self.containers.remove(grads) {
                    self.ddp(*model).discard(gradients)?;
                }
            }
            Stmt::Forget { grads, ranks } if contains(*ranks, rank) => {
                self.containers.remove(grads);
            }
            _ => {}
        }
        Ok(())
    }

    fn forward(&mut self, loss: u16, terms: &[Term]) {
        let tensor = net::loss(self.program, terms, self.device, |of| self.net(of));
        if let Some(tensor) = tensor {
            self.losses.insert(loss, tensor);
        }
    }

    /// `no_sync` needs gradients: without a loss, the body alone runs in it, and a pass that trains nothing.
    fn no_sync(&mut self, model: usize, loss: u16, body: &[Stmt]) -> Result<()> {
        let (ddp, net) = (self.ddp(model), self.models[model].net.clone());
        let mut of_body = Ok(());
        ddp.no_sync(&net, || {
            of_body = body.iter().try_for_each(|stmt| self.local(stmt));
            let nothing = || Tensor::<1>::zeros([1], self.device).require_grad().sum();
            self.losses.remove(&loss).unwrap_or_else(nothing).backward()
        })?;
        of_body
    }

    fn synchronize(
        &mut self,
        model: usize,
        given: Given,
        through: Through,
    ) -> Result<GradientsParams> {
        let (ddp, net) = (self.ddp(model), self.models[model].net.clone());
        match through {
            Through::Model => self.given(&ddp, given, &net),
            Through::Wrapper => self.given(&ddp, given, &Wrapper::of(net, self.device)),
            Through::Part => self.given(&ddp, given, &net.layers[..1].to_vec()),
            Through::Stranger => {
                let spec = &self.program.models[model];
                let stranger = Net::new(spec, self.program.double, 9, self.device);
                self.given(&ddp, given, &stranger)
            }
        }
    }

    fn given<M: Module>(&mut self, ddp: &Ddp, given: Given, model: &M) -> Result<GradientsParams> {
        match given {
            Given::Value(grads) => match self.containers.remove(&grads) {
                Some(gradients) => ddp.synchronize(gradients, model),
                None => ddp.synchronize_none(model),
            },
            Given::From(grads) => match self.containers.get_mut(&grads) {
                Some(gradients) => ddp.synchronize_from(gradients, model),
                None => ddp.synchronize_none(model),
            },
            Given::Nothing => ddp.synchronize_none(model),
        }
    }

    fn copy(&mut self, model: usize, copy: usize, kind: CopyKind) {
        let net = &self.models[model].net;
        let before = self.copies[copy].take().filter(|(of, _)| *of == model);
        let net = match (kind, before) {
            (CopyKind::Clone, _) => net.clone(),
            (CopyKind::Average, Some((_, before))) if same_layers(&before, net) => {
                Net::average(before, net)
            }
            _ => net.clone().no_grad(),
        };
        self.copies[copy] = Some((model, net));
    }
}
