//! What must hold of everything that a launcher may tell in the environment.

use std::collections::HashMap;
use std::ffi::OsString;

use super::{JobConfig, nodes};
use crate::error::{Error, JoinFailure};
use crate::net::secret::SECRET_FILE;

/// Reads the bytes as Slurm's list of nodes.
pub(crate) fn check_nodes(bytes: &[u8]) {
    let list = String::from_utf8_lossy(bytes);
    if let Some(node) = nodes::first(&list) {
        assert!(!node.is_empty() && node.len() <= list.len());
        let separates = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
        assert!(!node.contains(separates), "{node:?}");
        // A name alone is its own first.
        assert_eq!(nodes::first(&node), Some(node));
    }
}

/// Reads the bytes as lines of `NAME=value`, and these as an environment.
pub(crate) fn check_variables(bytes: &[u8]) {
    let mut variables = HashMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let name = String::from_utf8_lossy(&line[..equals]).into_owned();
        variables.insert(name, value(&line[equals + 1..]));
    }
    // It would read files of the machine.
    variables.remove(SECRET_FILE);
    match JobConfig::from_variables(&|name| variables.get(name).cloned()) {
        Ok(None) => {}
        Ok(Some(config)) => {
            assert!(config.process() < config.processes());
            assert!(config.local_processes() != Some(0));
            // What is accepted here is a place to connect to, or said to be none.
            let checked = config.check();
            assert!(checked.is_ok() || matches!(failure(checked), JoinFailure::Configuration(_)));
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(matches!(
                failure::<()>(Err(error)),
                JoinFailure::Variable { .. } | JoinFailure::Configuration(_)
            ));
        }
    }
}

fn failure<T>(result: Result<T, Error>) -> JoinFailure {
    match result {
        Err(Error::Rendezvous { failure, .. }) => failure,
        _ => JoinFailure::Unresolved("another error than one of joining".to_owned()),
    }
}

#[cfg(unix)]
fn value(bytes: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn value(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// Lists, good and bad.
#[cfg(test)]
pub(crate) fn node_seeds() -> Vec<(&'static str, Vec<u8>)> {
    [
        ("plain", "node7"),
        ("names", "a,b,c"),
        ("range", "node[01-04,7]"),
        ("two-ranges", "rack[2-3]-n[008-010].cluster"),
        ("open", "node["),
        ("no-number", "node[x-y]"),
        ("space", " a b"),
    ]
    .map(|(name, list)| (name, list.as_bytes().to_vec()))
    .to_vec()
}

/// Environments of all launchers, and some that are none.
#[cfg(test)]
pub(crate) fn variable_seeds() -> Vec<(&'static str, Vec<u8>)> {
    [
        (
            "torchrun",
            "RANK=5\nWORLD_SIZE=8\nLOCAL_RANK=1\nLOCAL_WORLD_SIZE=4\nMASTER_ADDR=node0\nMASTER_PORT=1234",
        ),
        (
            "open-mpi",
            "OMPI_COMM_WORLD_RANK=3\nOMPI_COMM_WORLD_SIZE=4\nOMPI_COMM_WORLD_LOCAL_RANK=0\n\
             OMPI_COMM_WORLD_LOCAL_SIZE=2\nMASTER_ADDR=fe80::1",
        ),
        (
            "slurm",
            "SLURM_PROCID=2\nSLURM_NTASKS=16\nSLURM_LOCALID=2\nSLURM_NODELIST=gpu[07-09,12],cpu1\n\
             SLURM_JOB_ID=4200017",
        ),
        (
            "kubernetes",
            "JOB_COMPLETION_INDEX=1\nWORLD_SIZE=2\nMASTER_ADDR=train-0.train\nBURN_DIST_SECRET=abc\n\
             BURN_DIST_INTERFACE=eth0",
        ),
        (
            "file",
            "RANK=0\nWORLD_SIZE=2\nMASTER_ADDR=[::1]\nMASTER_PORT=0\nBURN_DIST_ADDRESS_FILE=/tmp/a",
        ),
        (
            "slurm-step",
            "SLURM_PROCID=2\nSLURM_STEP_NUM_TASKS=7\nSLURM_STEP_TASKS_PER_NODE=2(x3),1\nSLURM_NODEID=1\n\
             SLURM_STEP_NODELIST=gpu[07-10]\nSLURM_JOB_ID=4200017\nSLURM_STEP_ID=3\nBURN_DIST_JOB=mnist",
        ),
        (
            "mpich",
            "PMI_RANK=1\nPMI_SIZE=2\nMPI_LOCALRANKID=0\nMPI_LOCALNRANKS=1\nMASTER_ADDR=a\n\
             BURN_DIST_HEARTBEAT=0.5",
        ),
        (
            "kubeflow",
            "PET_NODE_RANK=1\nPET_NNODES=2:2\nPET_RDZV_ENDPOINT=a:29500\nBURN_DIST_JOIN_TIMEOUT=1e3",
        ),
        (
            "skypilot",
            "SKYPILOT_NODE_RANK=0\nSKYPILOT_NUM_NODES=1\nSKYPILOT_NODE_IPS=10.0.0.1",
        ),
        ("half", "WORLD_SIZE=2\nMASTER_ADDR= "),
        (
            "too-many",
            "RANK=9\nWORLD_SIZE=99999999999999999999\nMASTER_PORT=65536",
        ),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .to_vec()
}
