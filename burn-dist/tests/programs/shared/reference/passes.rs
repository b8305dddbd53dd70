//! Forward and backward passes of single ranks, and what becomes of what they leave.

use super::super::net;
use super::super::outcome::Fault;
use super::super::program::{Ref, Term};
use super::gradients::{Sums, take};
use super::{Container, Loss, Model, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

impl Reference<'_> {
    pub(super) fn forward(&mut self, rank: usize, loss: u16, terms: &[Term]) {
        let tensor = net::loss(self.program, terms, &self.device, |of| self.net(of));
        let Some(tensor) = tensor else { return };
        let mut hooked: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (of, paths) in net::hooked(terms, |of| self.net(of)) {
            let model = match of {
                Ref::Model(model) => Some(model),
                Ref::Copy(copy) => self.copies[copy].as_ref().and_then(|copy| {
                    let ours = self.models[copy.of].attachment == copy.attachment;
                    ours.then_some(copy.of)
                }),
            };
            if let Some(model) = model {
                hooked.entry(model).or_default().extend(paths);
            }
        }
        let loss_of = Loss { tensor, hooked };
        self.ranks[rank].losses.insert(loss, loss_of);
    }

    pub(super) fn backward(&mut self, rank: usize, loss: u16) -> Option<Container> {
        let rank = &mut self.ranks[rank];
        let Loss { tensor, hooked } = rank.losses.remove(&loss)?;
        let counts = |model: &usize| {
            let innermost = rank.scopes.iter().rev().find(|(of, _)| of == model);
            !innermost.is_some_and(|(_, ignored)| *ignored)
        };
        let open = hooked.into_iter().filter(|(model, _)| counts(model));
        let open = open.collect();
        rank.passes += 1;
        Some(Container {
            gradients: tensor.backward(),
            open,
            order: rank.passes,
        })
    }

    pub(super) fn put(&mut self, rank: usize, grads: u16, container: Container) {
        let before = self.ranks[rank].containers.insert(grads, container);
        if before.is_some_and(|before| !before.open.is_empty()) {
            self.lost();
        }
    }

    /// Drops knowingly what a container has for all models but one.
    pub(super) fn drop_for_others(
        &mut self,
        rank: usize,
        container: &Container,
        but: Option<usize>,
    ) {
        let rank = &mut self.ranks[rank];
        for &model in container.open.keys().filter(|model| Some(**model) != but) {
            rank.dropped.insert(model);
            let earlier = |other: &Container| {
                other.open.contains_key(&model) && other.order < container.order
            };
            if rank.containers.values().any(earlier) {
                rank.dropped_later.insert(model);
            }
        }
    }

    /// Takes a model's gradients out of a container.
    pub(super) fn give(
        &mut self,
        model: usize,
        container: &mut Container,
    ) -> ControlFlow<(), Sums> {
        let Model { net, trained, .. } = &self.models[model];
        let given = take(net, &mut container.gradients);
        let hooked = container.open.remove(&model).unwrap_or_default();
        let mut faults = BTreeSet::new();
        if hooked.iter().any(|path| !given.contains_key(path)) {
            faults.insert(Fault::Foreign);
        }
        if hooked
            .iter()
            .chain(given.keys())
            .any(|path| !trained.contains(path))
        {
            faults.insert(Fault::Unfrozen);
        }
        if faults.is_empty() {
            return ControlFlow::Continue(given);
        }
        self.must.extend(faults);
        ControlFlow::Break(())
    }
}
