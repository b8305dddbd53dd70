//! The measuring, by threads and by processes that are threads.

use super::*;
use crate::group::ProcessGroup;
use crate::launch::launch;
use crate::transport::memory::networks;
use crate::transport::network::Network;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const HEARTBEAT: Duration = Duration::from_secs(30);

fn preflight(replicas: usize, preflight: &Preflight) -> Result<Vec<Report>> {
    launch(vec![Device::flex().autodiff(); replicas], |worker| {
        let model = LinearConfig::new(64, 32).init(worker.device());
        let batch = Tensor::<2>::ones([8, 64], worker.device());
        preflight.run(&worker, &model, |model: &Linear| {
            model.forward(batch.clone()).mean()
        })
    })
}

#[test]
fn all_replicas_get_the_same_report() {
    let known = Finding {
        severity: Severity::Note,
        topic: Topic::Devices,
        message: "known before".to_owned(),
    };
    let reports = preflight(3, &Preflight::new().with_known(known.clone())).unwrap();
    let report = &reports[0];
    assert!(reports.iter().all(|other| other == report));
    let measured = &report.measured;
    assert_eq!((measured.processes.len(), measured.replicas.len()), (1, 3));
    assert_eq!((measured.links.len(), measured.pairs), (0, 0));
    assert_eq!(measured.model.gradients, [64 * 32 * 4, 32 * 4]);
    assert!(measured.all_reduces.len() >= 3);
    let sizes = measured.all_reduces.iter().map(|one| one.bytes);
    assert!(
        sizes.is_sorted()
            && measured
                .all_reduces
                .iter()
                .any(|one| one.bytes == 64 * 33 * 4 - 128)
    );
    assert!(
        measured
            .replicas
            .iter()
            .all(|one| one.threads.is_some() && one.backward_s > 0.0)
    );
    assert!(!measured.trials.is_empty());
    assert!(report.findings.contains(&known));

    // As JSON and back; and the text names what a user looks for.
    let json = serde_json::to_string(report).unwrap();
    let again: Report = serde_json::from_str(&json).unwrap();
    // JSON keeps numbers but for their last digit.
    assert_eq!(again.to_string(), report.to_string());
    assert_eq!(again.findings, report.findings);
    let text = report.to_string();
    for part in [
        "process",
        "ranks 0 to 2 on CPU",
        "bucket_cap_mb",
        "planned",
        "known before",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn one_replica_alone_is_measured_too() {
    let reports = preflight(1, &Preflight::default()).unwrap();
    assert_eq!(reports[0].worst(), Some(Severity::Note));
    let planned = &reports[0].forecast.planned;
    assert!(planned.exposed_s.abs() < f64::EPSILON && planned.exposed_share.abs() < f64::EPSILON);
}

#[test]
fn bucket_sizes_that_are_none_are_refused() {
    let plan = DdpConfig::new().with_bucket_cap_mb(f64::NAN);
    let error = preflight(2, &Preflight::new().with_plan(plan)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("bucket_cap_mb must be a positive number"),
        "{error}"
    );
}

#[test]
fn a_model_without_autodiff_is_an_error() {
    let error = launch(vec![Device::flex()], |worker| {
        let model = LinearConfig::new(4, 4).init(worker.device());
        let batch = Tensor::<2>::ones([8, 4], worker.device());
        Preflight::new().run(&worker, &model, |model: &Linear| {
            model.forward(batch.clone()).mean()
        })
    })
    .unwrap_err();
    assert!(error.to_string().contains("without autodiff"), "{error}");
}

#[test]
fn a_tied_or_frozen_weight_is_counted_as_it_travels() {
    use burn::module::Module;
    let device = Device::flex().autodiff();
    let linear = LinearConfig::new(3, 5).init(&device);
    assert_eq!(gradients(&vec![linear.clone(), linear.clone()]), [60, 20]);
    assert_eq!(gradients(&vec![linear.clone(), linear.no_grad()]), [60, 20]);
}

/// The links of a job whose processes host so many ranks each, as every rank sees them.
fn links(ranks_per_process: &[usize]) -> Vec<Vec<Link>> {
    let networks = networks(ranks_per_process.len(), HEARTBEAT).into_iter();
    let groups: Vec<_> = networks
        .flat_map(|network| {
            let network: Arc<dyn Network> = network;
            ProcessGroup::world(network, ranks_per_process).unwrap()
        })
        .collect();
    let before = |process| ranks_per_process[..process].iter().sum();
    let speakers: Vec<usize> = (0..ranks_per_process.len()).map(before).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = groups
            .into_iter()
            .map(|group| {
                let speakers = &speakers;
                scope.spawn(move || links::measure(&group, speakers).unwrap())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn every_pair_of_processes_is_measured_and_known_to_all() {
    for ranks in [&[1, 1][..], &[2, 1], &[1, 1, 1], &[2, 2, 1, 1]] {
        let seen = links(ranks);
        let first = &seen[0];
        assert!(seen.iter().all(|other| other == first));
        let pairs: Vec<_> = first.iter().map(|link| link.processes).collect();
        let count = ranks.len();
        let expected: Vec<_> = (0..count)
            .flat_map(|one| (one + 1..count).map(move |other| [one, other]))
            .collect();
        assert_eq!(pairs, expected);
        assert!(
            first
                .iter()
                .all(|link| link.latency_s > 0.0 && link.slower() > 0.0)
        );
    }
}

#[test]
fn replicas_are_told_apart_by_process_whatever_numbers_they_tell() {
    let told = |process| RankMeasurements {
        process: Process {
            host: format!("node{process}"),
            cores: 1,
            cpus: Vec::new(),
            address: None,
            interfaces: Vec::new(),
        },
        replica: Replica {
            process,
            device: String::new(),
            software: false,
            threads: None,
            forward_s: 0.0,
            backward_s: 0.0,
        },
        known: Vec::new(),
    };
    let (processes, replicas, speakers) = RankMeasurements::sort([0, 0, 7, 3, 3].map(told).into());
    let hosts: Vec<_> = processes.iter().map(|one| one.host.as_str()).collect();
    assert_eq!(hosts, ["node0", "node7", "node3"]);
    let numbers: Vec<_> = replicas.iter().map(|one| one.process).collect();
    assert_eq!((numbers, speakers), (vec![0, 0, 1, 2, 2], vec![0, 2, 3]));
}
