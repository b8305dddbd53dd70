//! What starts one process on each machine or Pod, and tells it its number there.

use std::num::ParseIntError;

use super::launchers::Names;
use super::{LaunchPosition, PortSource, Variables, unset, wrong};
use crate::error::Result;

/// Variable of Kubeflow for torchrun, read here if the program is started without torchrun.
const PET_NODES: &str = "PET_NNODES";
const PET_NODE: &str = "PET_NODE_RANK";

const SKYPILOT: Names = Names {
    process: "SKYPILOT_NODE_RANK",
    processes: "SKYPILOT_NUM_NODES",
    local_process: None,
    local_processes: None,
    job: Some("SKYPILOT_TASK_ID"),
};
const LEADER_WORKER_SET: Names = Names {
    process: "LWS_WORKER_INDEX",
    processes: "LWS_GROUP_SIZE",
    local_process: None,
    local_processes: None,
    job: None,
};

impl Variables<'_> {
    /// The place of a process that has its machine or Pod to itself, as far as its job goes.
    pub(super) fn pods(&self) -> Result<Option<LaunchPosition>> {
        let place = if self.has(PET_NODES) || self.has(PET_NODE) {
            self.kubeflow()?
        } else if self.has(SKYPILOT.process) || self.has(SKYPILOT.processes) {
            let place = self.read(&SKYPILOT)?;
            let expected = "the addresses of all nodes, one a line";
            let host = match self.text("SKYPILOT_NODE_IPS")? {
                None => None,
                Some(list) => match list.split_whitespace().next() {
                    Some(first) => Some(first.to_owned()),
                    None => return Err(wrong("SKYPILOT_NODE_IPS", list, expected.to_owned())),
                },
            };
            LaunchPosition { host, ..place }
        } else if self.has(LEADER_WORKER_SET.process) || self.has(LEADER_WORKER_SET.processes) {
            let place = self.read(&LEADER_WORKER_SET)?;
            let host = self.text("LWS_LEADER_ADDRESS")?;
            LaunchPosition { host, ..place }
        } else {
            return Ok(None);
        };
        Ok(Some(LaunchPosition {
            local_process: Some(0),
            local_processes: Some(1),
            ..place
        }))
    }

    fn kubeflow(&self) -> Result<LaunchPosition> {
        let Some(nodes) = self.text(PET_NODES)? else {
            return Err(unset(PET_NODES, "how many nodes the job has"));
        };
        let processes = fixed(&nodes).ok_or_else(|| {
            let expected = "how many nodes the job has; for a number that may change, start the program by \
                            torchrun (with --no-python)";
            wrong(PET_NODES, nodes.clone(), expected.to_owned())
        })?;
        let expected = "the number of this node, from 0; torchrun (with --no-python) finds it out where \
                        nobody tells it";
        let process = match self.number(PET_NODE, expected)? {
            Some(process) => process,
            None if processes == 1 => 0,
            None => return Err(unset(PET_NODE, expected)),
        };
        super::below(PET_NODE, process, PET_NODES, processes)?;
        let (host, port) = self.kubeflow_master()?;
        let port = match self.number("PET_MASTER_PORT", "a port from 1 to 65535")? {
            Some(port) => Some(port),
            None => port,
        };
        Ok(LaunchPosition {
            process,
            processes,
            local_process: None,
            local_processes: None,
            host,
            port: port.map_or(PortSource::Follows(None), PortSource::Known),
            job: self.text("PET_RDZV_ID")?.filter(|id| !id.trim().is_empty()),
            agent_listens: false,
            by_slurm: false,
            gpus_on_node: None,
        })
    }

    /// The machine of process 0 and its port, from what torchrun would be told.
    fn kubeflow_master(&self) -> Result<(Option<String>, Option<u16>)> {
        if let Some(host) = self.text("PET_MASTER_ADDR")? {
            return Ok((Some(host), None));
        }
        let Some(endpoint) = self.text("PET_RDZV_ENDPOINT")? else {
            return Ok((None, None));
        };
        let expected = || "process 0's machine, as host:port".to_owned();
        match endpoint.rsplit_once(':') {
            None => Ok((Some(endpoint), None)),
            Some((host, port)) => {
                let port: Result<u16, ParseIntError> = port.parse();
                let port =
                    port.map_err(|_| wrong("PET_RDZV_ENDPOINT", endpoint.clone(), expected()))?;
                Ok((Some(host.to_owned()), Some(port)))
            }
        }
    }
}

/// The number of nodes, as `4` or `4:4`; none if it may change or is no number.
fn fixed(nodes: &str) -> Option<usize> {
    let (least, most) = nodes.split_once(':').unwrap_or((nodes, nodes));
    let (least, most): (usize, usize) = (least.trim().parse().ok()?, most.trim().parse().ok()?);
    (least == most && least > 0).then_some(least)
}
