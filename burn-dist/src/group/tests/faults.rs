//! Groups on networks that delay, break off, freeze and die: every run ends, on every rank, in the right
//! results or in an error, before the deadline. A run that doesn't is printed; its seed makes it again.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::job_on;
use super::support::{OPS, Random, all_values, assert_same, reduced};
use crate::seeds::try_seeds;
use crate::transport::faults::FaultPlan;
use crate::transport::memory::networks;
use crate::{Error, ProcessGroup, Result};

const SEEDS: u64 = 2_000;

/// Far longer than a run takes, so that a rank that waits for its deadline shows. (A rank may wait a second
/// to hear why a process has left, more than once in a run.)
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which a frozen process is found out.
const HEARTBEAT: Duration = Duration::from_millis(20);

/// Number of operations in a run. The last two are barriers.
const OPERATIONS: u64 = 14;

/// One operation, the same on all ranks, whose result is checked.
///
/// `abort` has this rank abort the group: with an asynchronous call under way, if there is one.
fn operation(
    group: &ProcessGroup,
    step: u64,
    (longest, abort): (usize, bool),
    random: &mut Random,
) -> Result<()> {
    let (rank, ranks) = (group.rank(), group.world_size());
    // Drawn before anything can fail, so that all ranks draw alike.
    let (kind, op, root) = (random.below(7), OPS[random.below(5)], random.below(ranks));
    let length = [0, 1, 33, longest][random.below(4)];
    if abort && kind != 1 {
        group.abort("enough");
    }
    if step + 2 >= OPERATIONS {
        return group.barrier();
    }
    let inputs = all_values::<f32>(step, ranks, length);
    let mut buffer = inputs[rank].clone();
    match kind {
        0 => {
            group.all_reduce(&mut buffer, op)?;
            assert_same(&buffer, &reduced(&inputs, op), "all_reduce");
        }
        1 => {
            let work = group.start().all_reduce(buffer.clone(), op);
            group.broadcast(&mut buffer, root)?;
            assert_same(&buffer, &inputs[root], "broadcast");
            if abort {
                group.abort("enough");
            }
            assert_same(&work.wait()?, &reduced(&inputs, op), "all_reduce_async");
        }
        2 => {
            group.reduce(&mut buffer, op, root)?;
            if rank == root {
                assert_same(&buffer, &reduced(&inputs, op), "reduce");
            }
        }
        3 => {
            let mut output = vec![0.0; length * ranks];
            group.all_gather((&buffer, &mut output))?;
            assert_same(&output, &inputs.concat(), "all_gather");
        }
        4 => {
            let whole = (rank == root).then(|| inputs.concat());
            group.scatter((whole.as_deref(), &mut buffer), root)?;
            assert_same(&buffer, &inputs[rank], "scatter");
        }
        5 => {
            group.send(&inputs[rank], (rank + 1) % ranks, step)?;
            let previous = (rank + ranks - 1) % ranks;
            group.recv(&mut buffer, previous, step)?;
            assert_same(&buffer, &inputs[previous], "send and recv");
        }
        _ => gather_in_halves(group)?,
    }
    Ok(())
}

fn gather_in_halves(group: &ProcessGroup) -> Result<()> {
    let half = group.split(Some((group.rank() % 2) as u64), 0)?;
    let half = half.ok_or_else(|| Error::Data {
        message: "every rank has a colour".to_owned(),
    })?;
    let mine = [half.rank() as f32];
    let mut all = vec![-1.0; half.world_size()];
    half.all_gather((&mine, &mut all))?;
    let expected: Vec<f32> = (0..half.world_size()).map(|rank| rank as f32).collect();
    assert_same(&all, &expected, "all_gather of a half");
    Ok(())
}

/// Number of operations a rank completed, and the error that stopped it.
type Ending = (u64, Option<Error>);

fn run_rank(group: &ProcessGroup, seed: u64, run: Run) -> Ending {
    let group = group.with_timeout(run.timeout);
    let mut random = Random(seed);
    for step in 0..OPERATIONS {
        let abort = run.aborts == Some((group.rank(), step));
        if let Err(error) = operation(&group, step, (run.longest, abort), &mut random) {
            // What failed once stays failed; a half may fail alone, so the whole is told.
            group.fail(&error);
            return (step, Some(error));
        }
    }
    (OPERATIONS, None)
}

/// Parameters of a run.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// Of the ranks.
    pub(super) timeout: Duration,
    /// The most values of an operation.
    pub(super) longest: usize,
    /// True if a fault may stop the ranks.
    pub(super) breaks: bool,
    /// A rank that aborts the group, and in which operation.
    pub(super) aborts: Option<(usize, u64)>,
}

/// Has all ranks do their operations; tells whether all did all, or what is wrong with it.
pub(super) fn play(groups: Vec<ProcessGroup>, seed: u64, run: Run) -> Result<bool, String> {
    let start = Instant::now();
    let endings: Vec<Option<Ending>> = thread::scope(|scope| {
        let threads: Vec<_> = groups
            .into_iter()
            .map(|group| scope.spawn(move || run_rank(&group, seed, run)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().ok())
            .collect()
    });
    let mut story = String::new();
    for (rank, ending) in endings.iter().enumerate() {
        let text = match ending {
            None => "panicked".to_owned(),
            Some((_, None)) => "did all".to_owned(),
            Some((done, Some(error))) => format!("did {done}, then: {error}"),
        };
        let _ = write!(story, "\n  rank {rank} {text}");
    }
    let Some(endings) = endings.into_iter().collect::<Option<Vec<Ending>>>() else {
        return Err(format!("a wrong result: {story}"));
    };
    let least = endings.iter().map(|ending| ending.0).min().unwrap_or(0);
    let unaware = endings.iter().any(|ending| ending.1.is_none());
    let timed_out = |ending: &Ending| matches!(ending.1, Some(Error::Timeout { .. }));
    if least + 1 < OPERATIONS && unaware {
        return Err(format!("a rank heard nothing of a failure: {story}"));
    }
    if least < OPERATIONS && !run.breaks {
        return Err(format!("a failure without a fault: {story}"));
    }
    if endings.iter().any(timed_out) || start.elapsed() >= run.timeout {
        return Err(format!("a rank waited for its deadline: {story}"));
    }
    Ok(least == OPERATIONS)
}

/// Runs one job with the faults of a seed.
fn run(seed: u64) -> Result<bool, String> {
    let mut random = Random(seed);
    let processes = [2, 3, 4, 5, 6, 8][random.below(6)];
    let ranks_per_process: Vec<usize> = (0..processes).map(|_| 1 + random.below(2)).collect();
    let plan = FaultPlan::from_seed(seed, processes);
    let ranks = ranks_per_process.iter().sum();
    let aborts = (random.below(4) == 0).then(|| {
        (
            random.below(ranks),
            random.below(OPERATIONS as usize) as u64,
        )
    });
    let networks = networks(processes, HEARTBEAT);
    let networks: Vec<_> = networks
        .into_iter()
        .map(|network| Arc::new(plan.apply(network)))
        .collect();
    let groups = job_on(networks.clone(), &ranks_per_process);
    // The plan's aborts are by the first rank of a process, whose group is held for as long as that.
    let held: Arc<Mutex<Vec<ProcessGroup>>> = Arc::default();
    if plan.aborts() {
        let mut first = 0;
        for (network, ranks) in networks.iter().zip(&ranks_per_process) {
            let (number, group) = (held.lock().unwrap().len(), groups[first].clone());
            held.lock().unwrap().push(group);
            let held = Arc::downgrade(&held);
            network.set_aborts(Arc::new(move || {
                let held = held.upgrade();
                let group = held.and_then(|held| Some(held.lock().unwrap().get(number)?.clone()));
                group.inspect(|group| group.abort("as planned"));
            }));
            first += ranks;
        }
    }
    let run = Run {
        timeout: TIMEOUT,
        longest: 3000,
        breaks: plan.breaks() || aborts.is_some(),
        aborts,
    };
    let outcome = play(groups, seed, run);
    held.lock().unwrap().clear();
    outcome.map_err(|story| {
        format!("{plan}, aborts {aborts:?}, processes of {ranks_per_process:?} ranks: {story}")
    })
}

#[test]
fn every_run_ends_in_the_right_results_or_in_an_error() {
    let Some(came_through) = try_seeds(SEEDS, 4, run) else {
        return;
    };
    // Both kinds of end are there in number, so the test tests something.
    let range = SEEDS / 10..SEEDS * 9 / 10;
    assert!(
        range.contains(&came_through),
        "{came_through} of {SEEDS} came through"
    );
}
