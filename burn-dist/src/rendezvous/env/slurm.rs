//! What Slurm's `srun` tells a task of a step.

use super::launchers::Names;
use super::{LaunchPosition, PortSource, Variables, nodes, wrong};
use crate::error::Result;

/// Set for the tasks of a step, which `srun` starts, and not for the script of a batch job.
const STEP_NODES: &str = "SLURM_STEP_NODELIST";
/// The number of tasks of the step, which may be fewer than those of the job.
const STEP_TASKS: &str = "SLURM_STEP_NUM_TASKS";
const STEP_TASKS_PER_NODE: &str = "SLURM_STEP_TASKS_PER_NODE";
/// Far enough from one another that all steps of a job, up to 20,000, have ports of their own.
const STEP_STRIDE: u64 = 7919;

const NAMES: Names = Names {
    process: "SLURM_PROCID",
    processes: "SLURM_NTASKS",
    local_process: Some("SLURM_LOCALID"),
    local_processes: None,
    job: None,
};

impl Variables<'_> {
    /// True in a task of a step. The script of a batch job has a number too, and counts the tasks that it may
    /// start.
    pub(super) fn in_slurm_step(&self) -> bool {
        self.has(NAMES.process) && self.has(STEP_NODES)
    }

    /// Returns the number of tasks of the step.
    pub(super) fn slurm_tasks(&self) -> Result<Option<usize>> {
        let expected = "how many tasks the step has";
        match self.number(STEP_TASKS, expected)? {
            Some(tasks) => Ok(Some(tasks)),
            None => self.number(NAMES.processes, expected),
        }
    }

    pub(super) fn slurm(&self) -> Result<LaunchPosition> {
        let processes = if self.has(STEP_TASKS) {
            STEP_TASKS
        } else {
            NAMES.processes
        };
        let place = self.read(&Names { processes, ..NAMES })?;
        // The step's nodes may be a part of the job's.
        let host = match self.text(STEP_NODES)? {
            Some(list) => Some(nodes::first(&list).ok_or_else(|| {
                let expected = "a list of nodes, as node[01-04,7]".to_owned();
                wrong(STEP_NODES, list, expected)
            })?),
            None => None,
        };
        let job: Option<u64> = self.number("SLURM_JOB_ID", "the number of the job")?;
        let step: Option<u64> = self.number("SLURM_STEP_ID", "the number of the step")?;
        let number = job.map(|job| {
            let step = step.unwrap_or(0).wrapping_mul(STEP_STRIDE);
            job.wrapping_add(step)
        });
        let name = job.map(|job| match step {
            Some(step) => format!("Slurm {job}.{step}"),
            None => format!("Slurm {job}"),
        });
        Ok(LaunchPosition {
            host,
            port: PortSource::Follows(number),
            job: name,
            local_processes: self.tasks_of_this_node(&place)?,
            by_slurm: true,
            gpus_on_node: self.number("SLURM_GPUS_ON_NODE", "the number of GPUs of the step")?,
            ..place
        })
    }

    /// Returns the number of the step's tasks on this node, if the variables are consistent.
    fn tasks_of_this_node(&self, place: &LaunchPosition) -> Result<Option<usize>> {
        let fits = |tasks: &usize| {
            (1..=place.processes).contains(tasks)
                && place.local_process.is_none_or(|local| local < *tasks)
        };
        let expected = "the number of this node in the step, from 0";
        let node: Option<usize> = self.number("SLURM_NODEID", expected)?;
        for name in [STEP_TASKS_PER_NODE, "SLURM_TASKS_PER_NODE"] {
            let Some(list) = self.text(name)? else {
                continue;
            };
            let expected = "tasks for each node, as 2(x3),1";
            let groups = groups(&list).ok_or_else(|| wrong(name, list, expected.to_owned()))?;
            let all = groups.iter().try_fold(0_usize, |sum, &(tasks, times)| {
                sum.checked_add(tasks.checked_mul(times)?)
            });
            // That of the job may be of more tasks than the step has.
            if all == Some(place.processes)
                && let Some(tasks) = of_node(&groups, node.unwrap_or(0)).filter(fits)
                && (node.is_some() || groups.len() == 1)
            {
                return Ok(Some(tasks));
            }
        }
        let asked = self.number("SLURM_NTASKS_PER_NODE", "a number of tasks")?;
        Ok(asked.filter(fits))
    }
}

/// Slurm's `2(x3),1` as pairs: two tasks on each of three nodes, then one on one.
fn groups(list: &str) -> Option<Vec<(usize, usize)>> {
    let group = |text: &str| match text.split_once('(') {
        None => Some((text.parse().ok()?, 1)),
        Some((tasks, times)) => {
            let times = times.strip_prefix('x')?.strip_suffix(')')?;
            Some((tasks.parse().ok()?, times.parse().ok()?))
        }
    };
    list.split(',').map(|text| group(text.trim())).collect()
}

/// The number of tasks of a node.
fn of_node(groups: &[(usize, usize)], mut node: usize) -> Option<usize> {
    for &(tasks, times) in groups {
        if node < times {
            return Some(tasks);
        }
        node -= times;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_every_node_are_found() {
        let all = |list| {
            let groups = groups(list)?;
            Some(
                (0..5)
                    .map_while(|node| of_node(&groups, node))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(all("2(x3),1"), Some(vec![2, 2, 2, 1]));
        assert_eq!(all("4"), Some(vec![4]));
        assert_eq!(all("1,3(x2)"), Some(vec![1, 3, 3]));
        assert_eq!(all("1(x18446744073709551615)"), Some(vec![1; 5]));
        for list in [
            "",
            "x",
            "2(3)",
            "2(x3",
            "2(x)",
            "-1",
            "2,,1",
            "2(x99999999999999999999)",
        ] {
            assert_eq!(all(list), None, "{list}");
        }
    }
}
