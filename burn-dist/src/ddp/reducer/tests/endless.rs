//! Devices that wait without end, as real ones do: for one another in a sum, or for themselves.

use super::*;
use parking_lot::{Condvar, Mutex};
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Devices that add up in memory, and wait for one another without a deadline.
#[derive(Debug)]
pub(super) struct Endless {
    rank: usize,
    meeting: Arc<DeviceSum>,
    /// The number of sums it was asked for.
    sums: AtomicUsize,
    /// True if it takes part.
    works: bool,
}

/// State shared by some devices.
#[derive(Debug)]
struct DeviceSum {
    ranks: usize,
    /// For each sum, what each device has given.
    given: Mutex<Vec<Vec<Option<Vec<f32>>>>>,
    moved: Condvar,
    /// The number of threads that wait for devices.
    waiting: AtomicUsize,
}

/// By the number that a group's first rank has told the others.
static ALL: Mutex<Vec<Weak<DeviceSum>>> = Mutex::new(Vec::new());

impl Endless {
    pub(super) fn new(group: &ProcessGroup) -> Self {
        Self::broken(group, false)
    }

    /// Devices of which this rank's may not take part in sums.
    fn broken(group: &ProcessGroup, broken: bool) -> Self {
        let fresh = (group.rank() == 0).then(|| {
            Arc::new(DeviceSum {
                ranks: group.world_size(),
                given: Mutex::default(),
                moved: Condvar::new(),
                waiting: AtomicUsize::new(0),
            })
        });
        let number = fresh.as_ref().map(|devices| {
            let mut all = ALL.lock();
            all.push(Arc::downgrade(devices));
            (all.len() as u64 - 1).to_le_bytes()
        });
        let number = number.as_ref().map(|number| &number[..]);
        let number = group.broadcast_bytes(number, 0).unwrap();
        let number = u64::from_le_bytes(number.try_into().unwrap());
        let known = ALL.lock()[number as usize].upgrade();
        let meeting = known.expect("the first rank has it until all have");
        group.barrier().unwrap();
        Self {
            rank: group.rank(),
            meeting,
            sums: AtomicUsize::new(0),
            works: !broken,
        }
    }
}

impl DeviceReduce for Endless {
    fn sum(&self, tensor: FloatTensor<Dispatch>) -> DeferredTensor {
        let data = Tensor::<1>::from_dispatch(tensor).into_data();
        let number = self.sums.fetch_add(1, Ordering::Relaxed);
        let devices = Arc::clone(&self.meeting);
        {
            let mut given = devices.given.lock();
            if given.len() == number {
                given.push(vec![None; devices.ranks]);
            }
            given[number][self.rank] = self.works.then(|| data.iter::<f32>().collect());
            devices.moved.notify_all();
        }
        DeferredTensor::new(move || {
            devices.waiting.fetch_add(1, Ordering::Relaxed);
            let mut given = devices.given.lock();
            let missing = |given: &mut Vec<Vec<Option<Vec<f32>>>>| given[number].contains(&None);
            devices.moved.wait_while(&mut given, missing);
            devices.waiting.fetch_sub(1, Ordering::Relaxed);
            let mut all = given[number].iter().flatten();
            let mut sum = all.next().unwrap().clone();
            for one in all {
                for (sum, one) in sum.iter_mut().zip(one) {
                    *sum += one;
                }
            }
            Tensor::<1>::from_floats(&sum[..], &Device::flex()).into_dispatch()
        })
    }
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_sum_of_devices_that_never_ends_is_an_error_on_all_ranks_and_left_behind() {
    on_four(|group| {
        let device_reduce = Endless::broken(&group, group.rank() == 2);
        let devices = Arc::clone(&device_reduce.meeting);
        let strategy = Strategy::DeviceReduce(Arc::new(strategy::DeviceSum {
            device_reduce: Box::new(device_reduce),
            hierarchy: None,
        }));
        let mut reducer = reducer(group.with_timeout(SHORT), strategy, 1, PACKED);
        let error = finish(&reducer, vec![gradient(0, 1.0)], Vec::new());
        let error = error.unwrap_err().to_string();
        let what = "adding gradients up on their devices: of bucket 0, parameter `0.weight`";
        assert!(error.contains(what), "{error}");
        reducer.stop(false);
        // The device's sum is waited for still.
        assert!(devices.waiting.load(Ordering::Relaxed) > 0);
    });
}

/// Rank 2's device never gives this many elements.
fn hang(strategy: fn() -> Strategy, elements: usize, bucket: f64) {
    transfer::hung::hang(2, elements);
    on_four(|group| {
        let rank = group.rank();
        // Only the deadline of the rank whose device hangs passes.
        let patient = if rank == 2 {
            group.with_timeout(SHORT)
        } else {
            group.clone()
        };
        let mut reducer = reducer_of(elements, patient, strategy(), 1, bucket);
        let gradient = gradient_of(elements, 0, 1.0);
        let error = finish(&reducer, vec![gradient], Vec::new()).unwrap_err();
        let what = "of bucket 0, parameter `0.weight`: the device has not answered for 0.";
        assert!(error.to_string().contains(what), "{error}");
        match error {
            Error::Tensor { rank: 2, .. } if rank == 2 => {}
            Error::Aborted { rank: 2, .. } if rank != 2 => {}
            _ => panic!("{error}"),
        }
        reducer.stop(false);
        if rank == 2 {
            assert_eq!(transfer::hung::waiting(elements), 1, "it hangs still");
        }
    });
    transfer::hung::release(elements);
}

#[test]
fn a_device_that_gives_no_gradient_is_an_error_on_all_ranks_and_left_behind() {
    hang(
        || Strategy::HostPack { in_pieces: false },
        ELEMENTS + 8,
        ALONE,
    );
}

#[test]
fn a_device_that_gives_no_bucket_is_an_error_on_all_ranks_and_left_behind() {
    hang(|| Strategy::DeviceConcat, ELEMENTS + 16, TOGETHER);
}

#[test]
fn a_slow_device_is_waited_for_as_long_as_reads_make_progress() {
    // Each of the reads takes most of the timeout, all together several.
    let elements = ELEMENTS + 24;
    let groups = ProcessGroup::threads(1).unwrap();
    let group = groups[0].with_timeout(SHORT);
    transfer::hung::delay(0, elements, SHORT / 2);
    let strategy = Strategy::HostPack { in_pieces: false };
    let mut reducer = reducer_of(elements, group, strategy, 4, ALONE);
    let all = (0..4).map(|parameter| gradient_of(elements, parameter, 1.0));
    finish(&reducer, all.collect(), Vec::new()).unwrap();
    reducer.stop(false);
}
