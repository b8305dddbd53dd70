use std::sync::mpsc;

use super::*;
use crate::transport::memory::{self, MemoryNetwork};
use crate::transport::network::Cause;

/// Time for which a frozen process stays unnoticed.
const HEARTBEAT: Duration = Duration::from_millis(10);
/// The deadline of every wait: never reached, since every fault is found.
const DEADLINE: Duration = Duration::from_secs(30);

fn tag(sequence: u64) -> Tag {
    Tag {
        group: 0,
        sequence,
        part: 0,
    }
}

/// Every process sends to every other one, over and over; one that fails says so and leaves.
fn talk(network: &dyn Network, rounds: u64) -> Result<(), Lost> {
    let deadline = Instant::now() + DEADLINE;
    let others = || (0..network.processes()).filter(|&other| other != network.process());
    let body = |from: usize, to: usize, round: u64| [from as u8, to as u8, round as u8].repeat(9);
    let talked: Result<(), Lost> = (0..rounds).try_for_each(|round| {
        for to in others() {
            let body = body(network.process(), to, round);
            network.send(to, tag(round), b"head", &body, deadline)?;
        }
        others().try_for_each(|from| {
            let received = network.receive(from, tag(round), deadline)?;
            assert_eq!(
                received,
                (b"head".to_vec(), body(from, network.process(), round))
            );
            Ok(())
        })
    });
    if let Err(lost) = &talked {
        network.notify(lost.to_string().as_bytes());
    }
    network.close();
    talked
}

fn run<N: Breakable>(plan: &FaultPlan, networks: Vec<Arc<N>>) -> Vec<Result<(), Lost>> {
    thread::scope(|scope| {
        let talks: Vec<_> = networks
            .into_iter()
            .map(|network| scope.spawn(move || talk(&plan.apply(network), 12)))
            .collect();
        talks.into_iter().map(|talk| talk.join().unwrap()).collect()
    })
}

/// Checks that under every plan all processes end before the deadline, in the right result or in an
/// error that is not a deadline; and that delays alone do no harm.
pub(crate) fn try_seeds<N: Breakable>(
    seeds: u64,
    networks: impl Fn(usize) -> Vec<Arc<N>> + Send + Copy,
) {
    // Seeds are shared out over a few threads: most of the time is spent in waits.
    thread::scope(|scope| {
        for part in 0..8 {
            scope.spawn(move || {
                for seed in (part..seeds).step_by(8) {
                    let processes = 1 + seed as usize % 5;
                    let plan = FaultPlan::from_seed(seed, processes);
                    let networks = networks(processes);
                    let start = Instant::now();
                    let results = run(&plan, networks);
                    let failed: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
                    let late = |lost: &&Lost| matches!(lost.cause, Cause::Deadline(_));
                    assert!(start.elapsed() < DEADLINE, "{plan}: {failed:?}");
                    assert!(plan.breaks() || failed.is_empty(), "{plan}: {failed:?}");
                    assert!(!failed.iter().any(late), "{plan}: {failed:?}");
                }
            });
        }
    });
}

#[test]
fn every_plan_ends_in_the_right_result_or_an_error() {
    try_seeds(2000, |processes| memory::networks(processes, HEARTBEAT));
}

#[test]
fn a_seed_makes_its_plan_again() {
    let plan = FaultPlan::from_seed(7, 4);
    assert_eq!(plan, FaultPlan::from_seed(7, 4));
    let all: Vec<_> = (0..500).map(|seed| FaultPlan::from_seed(seed, 4)).collect();
    let text = all.iter().map(ToString::to_string).collect::<String>();
    for kind in ["delay", "cut off", "freeze", "death", "no faults"] {
        assert!(text.contains(kind), "no plan has a {kind}");
    }
}

/// A plan with one fault, at the first message of process 0.
fn plan_of(kind: FaultKind) -> FaultPlan {
    FaultPlan {
        seed: 0,
        faults: vec![Fault {
            process: 0,
            message: 0,
            kind,
        }],
    }
}

fn causes(plan: &FaultPlan) -> Vec<String> {
    let results = run(plan, memory::networks(3, HEARTBEAT));
    let text = |result: &Result<(), Lost>| match result {
        Ok(()) => "fine".to_owned(),
        Err(lost) => lost.to_string(),
    };
    results.iter().map(text).collect()
}

#[test]
fn each_kind_of_fault_is_felt() {
    let causes_of = |kind| causes(&plan_of(kind));
    let delayed = causes_of(FaultKind::Delay(Duration::from_millis(5)));
    assert_eq!(delayed, ["fine"; 3]);
    let died = causes_of(FaultKind::Death);
    assert!(died[0].contains("broke its connection: died"), "{died:?}");
    assert!(
        died[1..].iter().all(|cause| cause.starts_with("process 0")),
        "{died:?}"
    );
    let cut = causes_of(FaultKind::Cut { peer: 1 });
    assert!(cut[0].contains("process 1 (memory:1) broke"), "{cut:?}");
    assert!(cut.iter().all(|cause| cause != "fine"), "{cut:?}");
    let frozen = causes_of(FaultKind::Freeze);
    assert!(
        frozen
            .iter()
            .all(|cause| cause.contains("silent") || cause.contains("left"))
    );
}

#[test]
fn watchers_hear_of_each_loss_once_and_of_no_departure() {
    struct Count(mpsc::Sender<String>);
    impl Watcher for Count {
        fn lost(&self, lost: &Lost) {
            self.0.send(lost.to_string()).unwrap();
        }
        fn notice(&self, from: usize, notice: &[u8]) {
            let notice = String::from_utf8_lossy(notice);
            self.0.send(format!("{from}: {notice}")).unwrap();
        }
    }
    let networks: Vec<Arc<MemoryNetwork>> = memory::networks(4, HEARTBEAT);
    let (told, heard) = mpsc::channel();
    networks[0].watch(Arc::new(Count(told)));
    networks[1].notify(b"why");
    assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), "1: why");
    networks[1].cut(0);
    networks[1].die();
    assert!(heard.recv_timeout(DEADLINE).unwrap().contains("cut off"));
    networks[2].close();
    networks[3].freeze();
    assert!(
        heard
            .recv_timeout(DEADLINE)
            .unwrap()
            .starts_with("process 3")
    );
    networks[0].close();
    // The watcher is let go, and had nothing more to tell.
    assert!(heard.recv_timeout(DEADLINE).is_err());
}
