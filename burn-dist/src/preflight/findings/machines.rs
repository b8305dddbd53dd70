//! Cores, devices and network interfaces: what each machine brings.

use super::{Findings, by_host, place};
use crate::preflight::host::Interface;
use crate::preflight::report::{Measurements, Severity, Topic};
use crate::preflight::text::{Megabits, Numbers};
use std::collections::{BTreeMap, BTreeSet};

/// Factor by which another interface must be faster to be worth a change.
const FASTER: u64 = 2;

pub(super) fn judge(measured: &Measurements, findings: &mut Findings) {
    cores(measured, findings);
    devices(measured, findings);
    interfaces(measured, findings);
}

/// Replicas on the CPU that have too few cores.
fn cores(measured: &Measurements, findings: &mut Findings) {
    for (host, processes) in by_host(measured) {
        let cores = cores_of(measured, &processes);
        let here = measured
            .replicas
            .iter()
            .filter(|one| processes.contains(&one.process));
        let threads: Vec<usize> = here.filter_map(|one| one.threads).collect();
        let (replicas, all) = (threads.len(), threads.iter().sum::<usize>());
        if replicas > cores {
            let message = format!(
                "{host} has {cores} core(s) for {replicas} replicas on the CPU, which take turns: start at \
                 most {cores} there, or more machines"
            );
            findings.add(Severity::Warning, Topic::Cores, message);
        } else if all > cores {
            let message = format!(
                "on {host}, {replicas} replicas compute with {all} threads on {cores} core(s): the launcher \
                 did not tell each process how many others its machine has; give each replica {} thread(s) \
                 with Launcher::with_threads_per_replica",
                cores / replicas
            );
            findings.add(Severity::Warning, Topic::Cores, message);
        }
    }
}

/// The cores that processes of one machine have together.
fn cores_of(measured: &Measurements, processes: &[usize]) -> usize {
    let processes = processes.iter().map(|&number| &measured.processes[number]);
    // What each may use is known by number, unless it may use less of it than that.
    if processes.clone().all(|one| one.cores == one.cpus.len()) {
        let together: BTreeSet<u32> = processes.flat_map(|one| one.cpus.iter().copied()).collect();
        return together.len();
    }
    processes.map(|one| one.cores).max().unwrap_or_default()
}

/// Devices that are not what a job expects.
fn devices(measured: &Measurements, findings: &mut Findings) {
    let of = |wanted: fn(&crate::preflight::Replica) -> bool| -> Vec<usize> {
        let replicas = measured.replicas.iter().enumerate();
        replicas
            .filter(|(_, one)| wanted(one))
            .map(|(rank, _)| rank)
            .collect()
    };
    let software = of(|one| one.software);
    if let Some(&first) = software.first() {
        let message = format!(
            "{} computes on {}, a GPU in software: install the GPU's Vulkan driver, or train on the CPU \
             backend, which is faster (--backend cpu)",
            Numbers("rank", &software),
            measured.replicas[first].device
        );
        findings.add(Severity::Warning, Topic::Devices, message);
    }
    let on_cpu = of(|one| one.threads.is_some());
    if !on_cpu.is_empty() && on_cpu.len() < measured.replicas.len() {
        let message = format!(
            "{} computes on the CPU, the others on GPUs: look for the GPUs that {} should have found, or \
             ask for the backend by name, so that a missing GPU is an error",
            Numbers("rank", &on_cpu),
            place(measured, measured.replicas[on_cpu[0]].process)
        );
        findings.add(Severity::Warning, Topic::Devices, message);
    }
}

/// Interfaces that a job over several machines should not use.
fn interfaces(measured: &Measurements, findings: &mut Findings) {
    let hosts = by_host(measured);
    if hosts.len() < 2 {
        return;
    }
    let mut looped = Vec::new();
    let mut better = BTreeMap::<(String, String), Vec<usize>>::new();
    let mut chosen = BTreeMap::<String, Vec<usize>>::new();
    for (number, process) in measured.processes.iter().enumerate() {
        if process
            .address
            .is_some_and(|address| address.to_canonical().is_loopback())
        {
            looped.push(number);
        } else if let Some(interface) = process.interface() {
            chosen
                .entry(interface.name.clone())
                .or_default()
                .push(number);
            if let Some(other) = faster(interface, &process.interfaces) {
                better
                    .entry((described(interface), described(other)))
                    .or_default()
                    .push(number);
            }
        }
    }
    if !looped.is_empty() {
        let names: Vec<&str> = hosts.keys().copied().collect();
        let message = format!(
            "{} is reached at a loopback address, which only its own machine reaches, in a job of the \
             machines {}: unless these are one machine, give MASTER_ADDR an address that the others reach, or \
             choose the interface (--interface, BURN_DIST_INTERFACE)",
            Numbers("process", &looped),
            names.join(", ")
        );
        findings.add(Severity::Warning, Topic::Interface, message);
    }
    for ((slow, fast), processes) in better {
        let message = format!(
            "{} is reached by {slow}, and its machine has {fast} too: if the machines reach one another by \
             it, choose it (--interface, BURN_DIST_INTERFACE)",
            Numbers("process", &processes)
        );
        findings.add(Severity::Warning, Topic::Interface, message);
    }
    if chosen.len() > 1 {
        let each = chosen
            .iter()
            .map(|(name, processes)| format!("{} by {name}", Numbers("process", processes)));
        let each: Vec<_> = each.collect();
        let message = format!(
            "processes are reached by interfaces of different names, {}: if that is not meant, choose one \
             (--interface, BURN_DIST_INTERFACE)",
            each.join("; ")
        );
        findings.add(Severity::Note, Topic::Interface, message);
    }
}

/// An interface whose link carries much more.
fn faster<'a>(than: &Interface, all: &'a [Interface]) -> Option<&'a Interface> {
    let least = than.megabits?.saturating_mul(FASTER);
    let others = all
        .iter()
        .filter(|one| !one.loopback && one.megabits >= Some(least));
    others.max_by_key(|one| one.megabits)
}

fn described(interface: &Interface) -> String {
    match interface.megabits {
        Some(megabits) => format!("{} ({})", interface.name, Megabits(megabits)),
        None => interface.name.clone(),
    }
}
