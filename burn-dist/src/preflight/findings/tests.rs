//! Each finding, by a made-up job that shows it and nothing else.

use super::*;
use crate::ddp::DdpConfig;
use crate::preflight::forecast::forecast;
use crate::preflight::{AllReduce, Interface, Link, Model, Trial};
use std::net::IpAddr;

fn interface(name: &str, address: &str, megabits: Option<u64>) -> Interface {
    let address: IpAddr = address.parse().unwrap();
    Interface {
        name: name.to_owned(),
        addresses: vec![address],
        loopback: address.is_loopback(),
        megabits,
    }
}

/// A healthy job of so many machines, with two GPUs each and a network of 10 Gbit/s.
fn job(machines: usize) -> Measurements {
    let process = |number: usize| {
        let address = format!("10.0.0.{}", number + 1);
        Process {
            host: format!("node{number}"),
            cores: 8,
            cpus: (0..8).collect(),
            address: Some(address.parse().unwrap()),
            interfaces: vec![
                interface("eth0", &address, Some(10_000)),
                interface("lo", "127.0.0.1", None),
            ],
        }
    };
    let replica = |rank: usize| Replica {
        process: rank / 2,
        device: "GPU".to_owned(),
        software: false,
        threads: None,
        forward_s: 0.01,
        backward_s: 0.02,
    };
    let mut links = Vec::new();
    for other in 1..machines {
        links.extend((0..other).map(|one| Link {
            processes: [one, other],
            latency_s: 30e-6,
            bytes_per_s: [1.1e9, 1.15e9],
        }));
    }
    let all_reduce = |bytes: usize| AllReduce {
        bytes,
        seconds: 50e-6 + bytes as f64 * 1e-9,
    };
    Measurements {
        pairs: links.len(),
        processes: (0..machines).map(process).collect(),
        replicas: (0..2 * machines).map(replica).collect(),
        links,
        model: Model {
            gradients: vec![100_000; 40],
        },
        all_reduces: [1 << 10, 1 << 16, 1 << 20, 1 << 23].map(all_reduce).into(),
        trials: vec![Trial {
            bucket_cap_mb: 25.0,
            compute_s: 0.03,
            step_s: 0.0312,
            exposed_share: 0.04,
        }],
    }
}

fn judged(measured: &Measurements) -> Vec<Finding> {
    let forecast = forecast(measured, &DdpConfig::new().with_bucket_cap_mb(1.0));
    judge(measured, &forecast, Vec::new())
}

/// The one finding of a job.
#[track_caller]
fn only(measured: &Measurements, severity: Severity, topic: Topic) -> String {
    let mut findings = judged(measured);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let finding = findings.remove(0);
    assert_eq!(
        (finding.severity, finding.topic),
        (severity, topic),
        "{finding}"
    );
    finding.message
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

fn on_cpu(measured: &mut Measurements, threads: usize) {
    for replica in &mut measured.replicas {
        replica.threads = Some(threads);
        replica.device = "CPU".to_owned();
    }
}

#[test]
fn a_healthy_job_has_no_findings() {
    for machines in 1..6 {
        assert_eq!(judged(&job(machines)), [], "{machines}");
    }
    let mut cpu = job(3);
    on_cpu(&mut cpu, 4);
    assert_eq!(judged(&cpu), []);
}

#[test]
fn what_was_known_before_is_told_once_and_the_worst_comes_first() {
    let known = |severity| Finding {
        severity,
        topic: Topic::Devices,
        message: "no GPU found".to_owned(),
    };
    let (note, error) = (known(Severity::Note), known(Severity::Error));
    let measured = job(2);
    let forecast = forecast(&measured, &DdpConfig::new().with_bucket_cap_mb(1.0));
    let findings = judge(
        &measured,
        &forecast,
        vec![note.clone(), error.clone(), note.clone()],
    );
    assert_eq!(findings, [error, note]);
}

#[test]
fn more_replicas_than_cores() {
    let mut measured = job(2);
    on_cpu(&mut measured, 1);
    measured.processes[1].cores = 1;
    measured.processes[1].cpus = vec![0];
    let text = only(&measured, Severity::Warning, Topic::Cores);
    says(&text, &["node1 has 1 core(s) for 2 replicas", "at most 1"]);
}

#[test]
fn more_threads_than_cores() {
    let mut measured = job(2);
    on_cpu(&mut measured, 8);
    measured.processes[1].host = "node0".to_owned();
    measured.links.clear();
    let text = only(&measured, Severity::Warning, Topic::Cores);
    says(
        &text,
        &[
            "node0",
            "4 replicas",
            "32 threads on 8 core(s)",
            "give each replica 2 thread(s)",
        ],
    );

    // Each has cores of its own, as Slurm binds tasks.
    measured.processes[1].cpus = (8..16).collect();
    for replica in &mut measured.replicas {
        replica.threads = Some(4);
    }
    assert_eq!(judged(&measured), []);
    // Less time than the cores have: the number that is granted counts.
    measured.processes[0].cores = 4;
    only(&measured, Severity::Warning, Topic::Cores);
}

#[test]
fn a_gpu_in_software() {
    let mut measured = job(2);
    measured.replicas[1].software = true;
    measured.replicas[1].device = "llvmpipe (LLVM 15)".to_owned();
    let text = only(&measured, Severity::Warning, Topic::Devices);
    says(
        &text,
        &[
            "rank 1 computes on llvmpipe (LLVM 15)",
            "Vulkan driver",
            "--backend cpu",
        ],
    );
}

#[test]
fn some_on_gpus_and_some_not() {
    let mut measured = job(2);
    for rank in [2, 3] {
        measured.replicas[rank].threads = Some(4);
    }
    let text = only(&measured, Severity::Warning, Topic::Devices);
    says(
        &text,
        &[
            "ranks 2 and 3 computes on the CPU",
            "process 1",
            "node1 at 10.0.0.2",
        ],
    );
}

#[test]
fn a_slow_replica() {
    let mut measured = job(2);
    measured.replicas[3].backward_s = 0.05;
    let text = only(&measured, Severity::Warning, Topic::Replicas);
    says(
        &text,
        &["rank 3", "in 60.0 ms", "most others in 30.0 ms", "node1"],
    );
    // Of two, too.
    let mut measured = job(1);
    measured.replicas[0].backward_s = 0.05;
    only(&measured, Severity::Warning, Topic::Replicas);
    measured.replicas[0].backward_s = 0.03;
    assert_eq!(judged(&measured), []);
}

#[test]
fn loopback_between_machines() {
    let mut measured = job(2);
    measured.processes[1].address = Some("127.0.0.1".parse().unwrap());
    let text = only(&measured, Severity::Warning, Topic::Interface);
    says(
        &text,
        &[
            "process 1 is reached at a loopback",
            "node0, node1",
            "--interface",
            "MASTER_ADDR",
        ],
    );
    // On one machine it is right.
    measured.processes[1].host = "node0".to_owned();
    assert_eq!(judged(&measured), []);
}

#[test]
fn a_faster_interface_that_was_not_chosen() {
    let mut measured = job(3);
    for number in [0, 2] {
        let fast = interface("ib0", "10.1.0.1", Some(100_000));
        measured.processes[number].interfaces.push(fast);
    }
    let text = only(&measured, Severity::Warning, Topic::Interface);
    says(
        &text,
        &[
            "processes 0 and 2",
            "eth0 (10 Gbit/s)",
            "ib0 (100 Gbit/s)",
            "BURN_DIST_INTERFACE",
        ],
    );
}

#[test]
fn interfaces_of_different_names() {
    let mut measured = job(3);
    measured.processes[1].interfaces[0].name = "wlan0".to_owned();
    let text = only(&measured, Severity::Note, Topic::Interface);
    says(&text, &["processes 0 and 2 by eth0", "process 1 by wlan0"]);
}

#[test]
fn a_narrow_way_names_both_ends() {
    let mut measured = job(4);
    let link = &mut measured.links[0];
    link.bytes_per_s = [0.3e9, 0.3e9];
    for process in &mut measured.processes {
        process.interfaces[0].megabits = None;
    }
    let text = only(&measured, Severity::Warning, Topic::Bandwidth);
    says(
        &text,
        &[
            "process 0 (ranks 0 and 1, on node0 at 10.0.0.1)",
            "process 1 (ranks 2 and 3, on node1 at 10.0.0.2)",
            "carries 300 MB/s, others 1.10 GB/s",
        ],
    );
}

#[test]
fn a_process_whose_ways_are_all_narrow_is_named_once() {
    let mut measured = job(5);
    for link in &mut measured.links {
        if link.processes.contains(&3) {
            link.bytes_per_s = [0.2e9, 0.2e9];
        }
    }
    for process in &mut measured.processes {
        process.interfaces[0].megabits = None;
    }
    let text = only(&measured, Severity::Warning, Topic::Bandwidth);
    says(
        &text,
        &[
            "every way of process 3 (ranks 6 and 7, on node3",
            "200 MB/s",
        ],
    );
}

#[test]
fn many_narrow_ways_are_counted() {
    let mut measured = job(10);
    for process in &mut measured.processes {
        process.interfaces[0].megabits = None;
    }
    let bad = |link: &Link| link.processes[0] + link.processes[1] == 9 || link.processes == [0, 1];
    for link in measured.links.iter_mut().filter(|link| bad(link)) {
        link.bytes_per_s = [0.1e9, 0.1e9];
    }
    let findings = judged(&measured);
    assert_eq!(findings.len(), NAMED_WAYS, "{findings:#?}");
    assert!(
        findings
            .iter()
            .any(|one| one.message.contains("(and 1 more)"))
    );
}
const NAMED_WAYS: usize = 5;

#[test]
fn a_way_within_a_machine_is_not_compared_with_those_between() {
    let mut measured = job(4);
    measured.processes[1].host = "node0".to_owned();
    measured.links[0].bytes_per_s = [5e9, 5e9];
    assert_eq!(judged(&measured), []);
}

#[test]
fn a_way_that_is_narrow_in_one_direction() {
    let mut measured = job(2);
    measured.links[0].bytes_per_s = [1e9, 0.4e9];
    for process in &mut measured.processes {
        process.interfaces[0].megabits = None;
    }
    let text = only(&measured, Severity::Warning, Topic::Bandwidth);
    says(
        &text,
        &[
            "from process 1",
            "to process 0",
            "400 MB a second",
            "1.00 GB",
        ],
    );
}

#[test]
fn less_than_the_interface_promises() {
    let mut measured = job(2);
    measured.links[0].bytes_per_s = [0.11e9, 0.11e9];
    let text = only(&measured, Severity::Note, Topic::Bandwidth);
    says(&text, &["110 MB a second", "promise 10 Gbit/s"]);
}

#[test]
fn a_late_way() {
    let mut measured = job(4);
    measured.links[2].latency_s = 900e-6;
    let text = only(&measured, Severity::Warning, Topic::Latency);
    says(
        &text,
        &["900 µs", "30.0 µs on others", "process 1", "process 2"],
    );
    // Three times the usual is nothing where that is little.
    measured.links[2].latency_s = 120e-6;
    assert_eq!(judged(&measured), []);
}

#[test]
fn one_replica_has_nothing_to_average() {
    let mut measured = job(1);
    measured.replicas.truncate(1);
    let text = only(&measured, Severity::Note, Topic::Exposed);
    says(&text, &["one replica"]);
}

#[test]
fn averaging_that_can_not_hide() {
    let mut measured = job(2);
    for one in &mut measured.all_reduces {
        one.seconds *= 20.0;
    }
    measured.trials[0].exposed_share = 0.6;
    let text = only(&measured, Severity::Warning, Topic::Exposed);
    says(
        &text,
        &[
            "60.0 % of a step waits",
            "and backward, behind which it hides, 20.0 ms",
            "no_sync",
        ],
    );
}

#[test]
fn averaging_that_takes_cores_from_backward() {
    let mut measured = job(2);
    measured.trials[0].exposed_share = 0.3;
    let text = only(&measured, Severity::Warning, Topic::Exposed);
    says(
        &text,
        &["30.0 % of a step waits", "takes cores from backward"],
    );
}

#[test]
fn better_buckets_are_advised_only_if_steps_were_shorter() {
    let mut measured = job(2);
    // 40 ms to average in 20 ms of backward: all in one bucket, nothing hides.
    measured.model.gradients = vec![1_000_000; 20];
    let plan = DdpConfig::new();
    let forecast = forecast(&measured, &plan);
    assert_ne!(forecast.best, forecast.planned);
    let trial = |bucket_cap_mb, step_s: f64, exposed_share| Trial {
        bucket_cap_mb,
        compute_s: 0.03,
        step_s,
        exposed_share,
    };
    let best = forecast.best.bucket_cap_mb;
    measured.trials = vec![trial(25.0, 0.04, 0.25), trial(best, 0.032, 0.05)];
    let findings = judge(&measured, &forecast, Vec::new());
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(
        (findings[0].severity, findings[0].topic),
        (Severity::Warning, Topic::Buckets)
    );
    says(
        &findings[0].message,
        &["waited 5.0 %", "planned 25 25.0 %", "with_bucket_cap_mb("],
    );

    measured.trials = vec![trial(25.0, 0.032, 0.05), trial(best, 0.0319, 0.05)];
    let findings = judge(&measured, &forecast, Vec::new());
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(
        (findings[0].severity, findings[0].topic),
        (Severity::Note, Topic::Buckets)
    );
    says(&findings[0].message, &["keep the planned buckets"]);
}
