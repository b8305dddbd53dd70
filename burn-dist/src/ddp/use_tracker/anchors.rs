//! Untracked tensors of growing depth, which lend hooks their place in backward.

use burn::tensor::{Device, Tensor};
use parking_lot::Mutex;

/// The depth between a parameter and the next: more than the depth that a network adds
/// between two of them, on the average of those it has used so far (transformers add 4 to 7). A
/// network that adds more is averaged as correctly, with its hooks running later. No more than that,
/// because Burn allocates something in every backward pass for each level of depth, used or not.
const STRIDE: usize = 16;

/// The anchors of one replica, made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Anchors(Mutex<Vec<Chain>>);

/// The anchors of one device and one way to differentiate on it.
#[derive(Debug)]
struct Chain {
    device: Device,
    anchors: Vec<Tensor<1>>,
}

impl Anchors {
    /// Returns the anchor of the n-th parameter that a step uses.
    pub(super) fn at(&self, n: usize, device: &Device) -> Tensor<1> {
        let mut chains = self.0.lock();
        let strategy = device.gradient_checkpointing_strategy();
        let found = chains.iter().position(|chain| {
            // Devices are equal whatever their strategy, and graphs of two strategies don't mix.
            chain.device == *device && chain.device.gradient_checkpointing_strategy() == strategy
        });
        let place = found.unwrap_or_else(|| {
            chains.push(Chain {
                device: device.clone(),
                anchors: vec![Tensor::zeros([1], device)],
            });
            chains.len() - 1
        });
        let anchors = &mut chains[place].anchors;
        while anchors.len() <= n {
            let mut anchor = anchors[anchors.len() - 1].clone();
            for _ in 0..STRIDE {
                anchor = anchor.mul_scalar(1.0);
            }
            anchors.push(anchor);
        }
        anchors[n].clone()
    }

    /// Drops them all.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// The number of anchors of all devices.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().iter().map(|chain| chain.anchors.len()).sum()
    }
}
