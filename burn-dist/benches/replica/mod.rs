//! One rank's replica of the MNIST CNN, trained on one batch again and again.

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_dist::ddp::Ddp;
use burn_dist::{ProcessGroup, ReduceOp};
use models::{MnistCnn, MnistCnnConfig};

use crate::processes::Result;
use crate::report::median;
use crate::streams::Streams;

/// A model and its data.
pub(crate) struct Replica {
    pub(crate) model: MnistCnn,
    images: Tensor<4>,
    targets: Tensor<1, Int>,
}

impl Replica {
    /// A model of its own, and this many random images.
    pub(crate) fn new(batch: usize, device: &Device) -> Self {
        Self {
            model: MnistCnnConfig::new().init(device),
            images: Tensor::random([batch, 1, 28, 28], Distribution::Default, device),
            targets: Tensor::zeros([batch], device),
        }
    }

    /// The same, with its model attached.
    pub(crate) fn attached(&self, ddp: &Ddp) -> Result<Self> {
        Ok(Self {
            model: ddp.attach(self.model.clone())?,
            images: self.images.clone(),
            targets: self.targets.clone(),
        })
    }

    /// Trains for some steps, which all ranks begin together; gives how long a step takes. `synchronized` is
    /// called in each, after the ranks have met.
    pub(crate) fn train(
        &mut self,
        meeting: Meeting<'_>,
        group: &ProcessGroup,
        steps: usize,
        mut synchronized: impl FnMut(),
    ) -> Result<f64> {
        let mut optimizer = SgdConfig::new().init();
        let loss = CrossEntropyLossConfig::new().init(&self.images.device());
        group.barrier()?;
        let start = Instant::now();
        for _ in 0..steps {
            let output = self.model.forward(self.images.clone());
            if let Meeting::Streams(streams) = meeting {
                streams.begin();
            }
            let grads = loss.forward(output, self.targets.clone()).backward();
            let grads = match meeting {
                Meeting::Average(ddp) => ddp.synchronize(grads, &self.model)?,
                Meeting::Barrier => {
                    group.barrier()?;
                    GradientsParams::from_grads(grads, &self.model)
                }
                Meeting::Streams(streams) => {
                    streams.finish()?;
                    GradientsParams::from_grads(grads, &self.model)
                }
                Meeting::Never => GradientsParams::from_grads(grads, &self.model),
            };
            synchronized();
            self.model = optimizer.step(0.01, self.model.clone(), grads);
        }
        Ok(start.elapsed().as_secs_f64() / steps as f64)
    }
}

/// Communication of the ranks in each step.
#[derive(Clone, Copy)]
pub(crate) enum Meeting<'a> {
    /// Nothing.
    Never,
    /// They wait for one another after backward, and exchange nothing.
    Barrier,
    /// They send each other as many bytes as an all_reduce moves, by plain TCP, from the begin of backward on.
    Streams(&'a Streams),
    /// They average their gradients.
    Average(&'a Ddp),
}

/// Seconds a step of the MNIST CNN, of each kind, of the slowest rank. The kinds alternate in one run, in
/// blocks of some steps; each figure is the median of the blocks. Where two kinds are compared, it is the
/// median of the differences within a block, in which both meet the same machine.
pub(crate) struct Compared {
    pub(crate) averaged: f64,
    pub(crate) barrier: f64,
    pub(crate) alone: f64,
    /// Additional time of a step with averages over one with a barrier.
    pub(crate) exposed: f64,
    /// Additional time with plain streams of as many bytes, if there are any.
    pub(crate) streams: Option<f64>,
    /// Time that the rank with the shortest wait waits for averages: the part of the exchange that is left when
    /// the last rank is done.
    pub(crate) waited: f64,
}

impl Compared {
    /// Runs some blocks of each kind, of so many steps; `between` is run as often, with nothing else
    /// going on. All ranks get the same.
    pub(crate) fn time(
        group: &ProcessGroup,
        (ddp, streams): (&Ddp, Option<&Streams>),
        (synced, plain): (&mut Replica, &mut Replica),
        (blocks, steps): (usize, usize),
        mut between: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        // The first steps learn the order and warm the caches.
        synced.train(Meeting::Average(ddp), group, 3, || ())?;
        plain.train(Meeting::Never, group, 2, || ())?;
        let mut times: [Vec<f64>; 4] = Default::default();
        let mut waits = Vec::with_capacity(blocks * steps);
        for _ in 0..blocks {
            let mut waited = ddp.stats().wait;
            let averaged = synced.train(Meeting::Average(ddp), group, steps, || {
                let before = std::mem::replace(&mut waited, ddp.stats().wait);
                waits.push(waited.saturating_sub(before).as_secs_f64());
            })?;
            let alone = plain.train(Meeting::Never, group, steps, || ())?;
            let barrier = plain.train(Meeting::Barrier, group, steps, || ())?;
            let streams = match streams {
                Some(streams) => plain.train(Meeting::Streams(streams), group, steps, || ())?,
                None => barrier,
            };
            between()?;
            // The job is as fast as its slowest rank.
            let mut block = [averaged, barrier, alone, streams];
            group.all_reduce(&mut block, ReduceOp::Max)?;
            for (times, time) in times.iter_mut().zip(block) {
                times.push(time);
            }
        }
        group.all_reduce(&mut waits, ReduceOp::Min)?;
        let beyond = |times: &[f64], barrier: &[f64]| {
            let pairs = times.iter().zip(barrier);
            median(
                &mut pairs
                    .map(|(time, barrier)| time - barrier)
                    .collect::<Vec<f64>>(),
            )
        };
        let [averaged, barrier, alone, beside] = &mut times;
        Ok(Self {
            exposed: beyond(averaged, barrier),
            streams: streams.map(|_| beyond(beside, barrier)),
            averaged: median(averaged),
            barrier: median(barrier),
            alone: median(alone),
            waited: median(&mut waits),
        })
    }

    /// Describes the figures in words.
    pub(crate) fn describe(&self) -> String {
        let milli = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
        let streams = self.streams.map(|streams| {
            let streams = milli(streams);
            format!("; a plain TCP stream of as many bytes each way beside backward, in place of averages, takes {streams}")
        });
        format!(
            "a step takes {}, {} with a bare barrier, and {} with nothing; it takes {} longer than with a barrier, \
             and the rank that comes last waits {} for averages{}",
            milli(self.averaged),
            milli(self.barrier),
            milli(self.alone),
            milli(self.exposed),
            milli(self.waited),
            streams.unwrap_or_default()
        )
    }
}
