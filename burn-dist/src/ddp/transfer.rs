//! Gradients between their device and a bucket: put one behind the other where they are, so that a bucket
//! is one transfer and not one for each of its gradients.
//!
//! All but [`mean`] is asked of the device on the reducer's lane (see `gradient`).

use super::layout::{Bucket, Precision};
use super::parameters::Parameters;
use crate::group::in_memory;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Dispatch, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::{Device, Shape, TensorData};
use futures_lite::future::block_on;
use std::ops::Range;

/// The sum of the parts of a parameter's gradient that have come in this step.
#[derive(Debug, Default)]
pub(super) struct Sum(Option<FloatTensor<Dispatch>>);

impl Sum {
    /// Adds a part, which is as long as the others, in the type of the bucket.
    pub(super) fn add(&mut self, part: FloatTensor<Dispatch>, precision: Precision) {
        self.0 = Some(match self.0.take() {
            Some(sum) => {
                let part = Dispatch::float_reshape(part, sum.shape());
                let (sum, part) = (in_type(sum, precision), in_type(part, precision));
                // The second handles keep the backend from adding in memory of the replica's stream.
                Dispatch::float_add(sum.clone(), part.clone())
            }
            None => part,
        });
    }
}

/// The gradients of a bucket, which must have elements, in its type and order; zeros for what has not come.
pub(super) fn join(
    bucket: &Bucket,
    parameters: &Parameters,
    sums: &mut [Sum],
) -> FloatTensor<Dispatch> {
    let dtype = bucket.precision.dtype();
    let slots = bucket.slots.iter().filter(|slot| slot.len > 0);
    let parts = slots.map(|slot| {
        let flat = Shape::from(vec![slot.len]);
        let Some(sum) = std::mem::take(&mut sums[slot.parameter]).0 else {
            let device = &parameters.entries[slot.parameter].device;
            let device = device.clone().without_autodiff();
            return Dispatch::float_zeros(flat, device.as_dispatch(), dtype.into());
        };
        in_type(Dispatch::float_reshape(sum, flat), bucket.precision)
    });
    concatenated(parts.collect())
}

fn in_type(tensor: FloatTensor<Dispatch>, precision: Precision) -> FloatTensor<Dispatch> {
    let dtype = precision.dtype();
    if tensor.dtype() == dtype {
        tensor
    } else {
        Dispatch::float_cast(tensor, dtype.into())
    }
}

/// Flat tensors, at least one, as one.
pub(super) fn concatenated(mut parts: Vec<FloatTensor<Dispatch>>) -> FloatTensor<Dispatch> {
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    Dispatch::float_cat(parts, 0)
}

/// Some elements of a flat tensor.
pub(super) fn part(tensor: &FloatTensor<Dispatch>, at: &Range<usize>) -> FloatTensor<Dispatch> {
    let tensor = tensor.clone();
    if *at == (0..tensor.shape().num_elements()) {
        return tensor;
    }
    Dispatch::float_slice(tensor, &[at.clone().into()])
}

/// Waits for the device and reads a tensor. The error says what went wrong.
pub(super) fn read(tensor: FloatTensor<Dispatch>) -> Result<TensorData, String> {
    #[cfg(test)]
    hung::pass(&tensor);
    let data = asked_for(tensor)?;
    in_memory(&data)?;
    Ok(data)
}

/// Checks that the device has accepted all operations that make a tensor; the error names the refused one.
pub(super) fn check(tensor: &FloatTensor<Dispatch>) -> Result<(), String> {
    asked_for(tensor.clone()).map(drop)
}

/// A tensor's data, which may be on the device still.
fn asked_for(tensor: FloatTensor<Dispatch>) -> Result<TensorData, String> {
    block_on(Dispatch::float_into_data(tensor)).map_err(|error| format!("{error:?}"))
}

/// A tensor of a device, without autodiff.
pub(super) fn write(data: TensorData, device: &Device) -> FloatTensor<Dispatch> {
    Dispatch::float_from_data(data, device.clone().without_autodiff().as_dispatch())
}

/// A mean of so many, from their sum.
pub(super) fn mean(sum: FloatTensor<Dispatch>, of: usize) -> FloatTensor<Dispatch> {
    if of == 1 {
        return sum;
    }
    Dispatch::float_div_scalar(sum, (of as f64).into())
}

/// Devices that hang or are slow, for tests: a rank's reads of tensors of some lengths.
#[cfg(test)]
pub(super) mod hung {
    use super::{Dispatch, FloatTensor, TensorMetadata};
    use parking_lot::{Condvar, Mutex};
    use std::time::Duration;

    /// A kind of read, its duration (none: for ever), and the number under way.
    struct Slow {
        thread: String,
        length: usize,
        time: Option<Duration>,
        waiting: usize,
    }

    static SLOW: Mutex<Vec<Slow>> = Mutex::new(Vec::new());
    static RELEASED: Condvar = Condvar::new();

    fn add(rank: usize, length: usize, time: Option<Duration>) {
        SLOW.lock().push(Slow {
            thread: format!("burn-dist-reducer-{rank}"),
            length,
            time,
            waiting: 0,
        });
    }

    /// Lets every read of so many elements hang.
    pub(in crate::ddp) fn hang(rank: usize, length: usize) {
        add(rank, length, None);
    }

    /// Lets every read of so many elements take a time.
    pub(in crate::ddp) fn delay(rank: usize, length: usize, time: Duration) {
        add(rank, length, Some(time));
    }

    /// Lets them go on.
    pub(in crate::ddp) fn release(length: usize) {
        SLOW.lock().retain(|slow| slow.length != length);
        RELEASED.notify_all();
    }

    /// Returns the number of reads that hang.
    pub(in crate::ddp) fn waiting(length: usize) -> usize {
        let slow = SLOW.lock();
        slow.iter()
            .filter(|slow| slow.length == length)
            .map(|slow| slow.waiting)
            .sum()
    }

    pub(super) fn pass(tensor: &FloatTensor<Dispatch>) {
        let length = tensor.shape().num_elements();
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let find = |slow: &mut Vec<Slow>| {
            slow.iter()
                .position(|slow| slow.length == length && slow.thread == name)
        };
        let mut slow = SLOW.lock();
        let Some(at) = find(&mut slow) else { return };
        if let Some(time) = slow[at].time {
            drop(slow);
            std::thread::sleep(time);
            return;
        }
        slow[at].waiting += 1;
        RELEASED.wait_while(&mut slow, |slow| find(slow).is_some());
    }
}
