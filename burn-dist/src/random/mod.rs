//! Randomness that does not depend on timing.
//!
//! Burn's generators are one per process and backend, so with several replica threads the numbers
//! that a replica draws depend on who came first. Two things that training needs are made
//! reproducible here, whatever the layout of ranks over threads and processes:
//!
//! - [`init`] builds a module from a seed, alone on the process's generator;
//! - the calling thread has a stream of its own, from which [`Dropout`] draws its masks. The launcher
//!   [`seed`]s that of each rank apart; [`state`] and [`restore`] carry it over to another run. What is drawn
//!   depends on the rank, and so on the number of ranks.
//! - a [`Key`] names what numbers are drawn for, so that they depend on neither.

mod dropout;
mod key;
mod stream;

pub use dropout::{Dropout, DropoutConfig};
pub use key::Key;
pub(crate) use key::mix;
pub use stream::{StreamState, restore, seed, state};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor};
use parking_lot::{Mutex, MutexGuard};
use std::cell::Cell;

/// Builds a module whose initial parameters depend on `seed` alone.
///
/// Draws on the CPU backend and moves the module to `device` then, so that every backend starts from
/// the same parameters (in a build without the feature `flex`, `device` draws itself). All parameters
/// are made at once (Burn would make them at first use), under a lock that the whole process shares:
/// replicas that build at the same time get the same ones. (Code that draws from Burn's generator at
/// that very time, outside of this function, is not held off.)
///
/// ```
/// # use burn::{nn::LinearConfig, tensor::Device};
/// let device = Device::flex();
/// let one = burn_dist::random::init(7, &device, |device| LinearConfig::new(3, 2).init(device));
/// let two = burn_dist::random::init(7, &device, |device| LinearConfig::new(3, 2).init(device));
/// one.weight.val().into_data().assert_eq(&two.weight.val().into_data(), true);
/// ```
pub fn init<M: Module>(seed: u64, device: &Device, build: impl FnOnce(&Device) -> M) -> M {
    let source = source(device);
    let module = {
        let _alone = Alone::enter();
        source.seed(seed);
        let module = build(&source);
        module.visit(&mut Materialise);
        module
    };
    if source == *device {
        module
    } else {
        module.fork(device)
    }
}

/// This thread's turn on the process's generator. A builder may build parts in the same way, so a turn
/// within a turn waits for nobody.
struct Alone {
    _turn: Option<MutexGuard<'static, ()>>,
    within: bool,
}

thread_local! {
    static BUILDING: Cell<bool> = const { Cell::new(false) };
}

impl Alone {
    fn enter() -> Self {
        static GENERATOR: Mutex<()> = Mutex::new(());
        let within = BUILDING.replace(true);
        // A builder that panicked leaves nothing half-done in `()`.
        let turn = || GENERATOR.lock();
        Self {
            _turn: (!within).then(turn),
            within,
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        BUILDING.set(self.within);
    }
}

/// Returns the device on which parameters for `device` are drawn.
#[cfg(feature = "flex")]
fn source(device: &Device) -> Device {
    Device::flex().with_autodiff_context_from(device)
}

#[cfg(not(feature = "flex"))]
fn source(device: &Device) -> Device {
    device.clone()
}

/// Makes parameters that are still to be initialised.
struct Materialise;

impl ModuleVisitor for Materialise {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let _ = param.base();
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let _ = param.base();
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let _ = param.base();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};

    fn build(seed: u64) -> Vec<f32> {
        let linear: Linear = init(seed, &Device::flex(), |device| {
            LinearConfig::new(16, 16).init(device)
        });
        linear.weight.val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn replicas_that_build_at_once_get_the_same_parameters() {
        let alone = build(3);
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| build(3))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(together.iter().all(|weights| *weights == alone));
        assert_ne!(build(4), alone);
    }

    #[test]
    fn a_builder_may_build_its_parts_so() {
        let device = Device::flex();
        let parts: Vec<Linear> = init(1, &device, |device| {
            let part = |seed| {
                init(seed, device, |device| {
                    LinearConfig::new(16, 16).init(device)
                })
            };
            vec![part(3), part(4)]
        });
        let first: Vec<f32> = parts[0].weight.val().into_data().try_to_vec().unwrap();
        assert_eq!(first, build(3));
    }
}
