//! Which variables each launcher sets, and which launcher counts where several have left theirs.

use super::{LaunchPosition, PortSource, Variables, below, unset, wrong};
use crate::error::Result;

/// True if torchrun's own agent listens at `MASTER_ADDR` and `MASTER_PORT`: its usual way.
const AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";

/// The names of a launcher's variables.
pub(super) struct Names {
    pub(super) process: &'static str,
    pub(super) processes: &'static str,
    pub(super) local_process: Option<&'static str>,
    pub(super) local_processes: Option<&'static str>,
    /// The launcher's own name of the job.
    pub(super) job: Option<&'static str>,
}

const TORCHRUN: Names = Names {
    process: "RANK",
    processes: "WORLD_SIZE",
    local_process: Some("LOCAL_RANK"),
    local_processes: Some("LOCAL_WORLD_SIZE"),
    job: Some("TORCHELASTIC_RUN_ID"),
};
const MPI: [Names; 5] = [
    Names {
        process: "OMPI_COMM_WORLD_RANK",
        processes: "OMPI_COMM_WORLD_SIZE",
        local_process: Some("OMPI_COMM_WORLD_LOCAL_RANK"),
        local_processes: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
        job: Some("PMIX_NAMESPACE"),
    },
    Names {
        process: "MV2_COMM_WORLD_RANK",
        processes: "MV2_COMM_WORLD_SIZE",
        local_process: Some("MV2_COMM_WORLD_LOCAL_RANK"),
        local_processes: Some("MV2_COMM_WORLD_LOCAL_SIZE"),
        job: None,
    },
    Names {
        process: "JSM_NAMESPACE_RANK",
        processes: "JSM_NAMESPACE_SIZE",
        local_process: Some("JSM_NAMESPACE_LOCAL_RANK"),
        local_processes: Some("JSM_NAMESPACE_LOCAL_SIZE"),
        job: None,
    },
    Names {
        process: "HOROVOD_RANK",
        processes: "HOROVOD_SIZE",
        local_process: Some("HOROVOD_LOCAL_RANK"),
        local_processes: Some("HOROVOD_LOCAL_SIZE"),
        job: None,
    },
    FLUX,
];
const FLUX: Names = Names {
    process: "FLUX_TASK_RANK",
    processes: "FLUX_JOB_SIZE",
    local_process: Some("FLUX_TASK_LOCAL_ID"),
    local_processes: None,
    job: Some("FLUX_JOB_ID"),
};
/// MPICH and what comes from it; the number of a process on its machine has one of two names.
const PMI: [Names; 2] = [
    Names {
        process: "PMI_RANK",
        processes: "PMI_SIZE",
        local_process: Some("MPI_LOCALRANKID"),
        local_processes: Some("MPI_LOCALNRANKS"),
        job: None,
    },
    Names {
        process: "PMI_RANK",
        processes: "PMI_SIZE",
        local_process: Some("PMI_LOCAL_RANK"),
        local_processes: Some("PMI_LOCAL_SIZE"),
        job: None,
    },
];
const KUBERNETES: Names = Names {
    process: "JOB_COMPLETION_INDEX",
    processes: "WORLD_SIZE",
    local_process: None,
    local_processes: None,
    job: None,
};
/// Variables that number a process among several, of launchers that do not tell how many there are.
const NUMBERS_ALONE: [&str; 3] = ["PMIX_RANK", "PALS_RANKID", "ALPS_APP_PE"];

impl Variables<'_> {
    /// Reads the position from the innermost launcher: `mpirun` or torchrun within an allocation of Slurm or a Pod.
    pub(super) fn place(&self) -> Result<Option<LaunchPosition>> {
        if self.has(TORCHRUN.process) {
            return self.torchrun().map(Some);
        }
        for names in &MPI {
            // Flux and Slurm tell what MPICH's interface tells too, and more.
            let other = names.process == FLUX.process && self.pmi_differs(FLUX.process)?;
            if self.has_any(names) && !other {
                return self.read(names).map(Some);
            }
        }
        let in_step = self.in_slurm_step();
        if self.has("PMI_RANK") || self.has("PMI_SIZE") {
            let half = !self.has("PMI_RANK") || !self.has("PMI_SIZE");
            if !in_step || (!half && self.pmi_differs("SLURM_PROCID")?) {
                let [hydra, cray] = &PMI;
                let names = if self.has("PMI_LOCAL_RANK") {
                    cray
                } else {
                    hydra
                };
                return self.read(names).map(Some);
            }
        }
        if in_step {
            return self.slurm().map(Some);
        }
        if let Some(place) = self.pods()? {
            return Ok(Some(place));
        }
        if self.has(KUBERNETES.process) {
            // Every indexed Job has an index; only one that is told of others is distributed.
            if self.has("WORLD_SIZE") || self.has("MASTER_ADDR") {
                return self.read(&KUBERNETES).map(Some);
            }
            tracing::warn!(
                "this process of an indexed Job trains alone, because neither WORLD_SIZE nor MASTER_ADDR is \
                 set; set both to train together with the others"
            );
            return Ok(None);
        }
        self.refuse_halves().map(|()| None)
    }

    fn torchrun(&self) -> Result<LaunchPosition> {
        let agent_listens = self.text(AGENT_STORE)?.is_some_and(|told| told == "True");
        let place = self.read(&TORCHRUN)?;
        Ok(LaunchPosition {
            agent_listens,
            port: PortSource::Told,
            // What torchrun calls a job that was given no name.
            job: place.job.filter(|name| name != "none"),
            ..place
        })
    }

    /// True if `PMI_RANK` is another number than this one: then a second launcher was started by the first.
    fn pmi_differs(&self, number: &'static str) -> Result<bool> {
        let expected = "the number of this process, from 0";
        let pmi: Option<usize> = self.number("PMI_RANK", expected)?;
        let other: Option<usize> = self.number(number, expected)?;
        let size: Option<usize> = self.number("PMI_SIZE", "how many processes the job has")?;
        let all = match number {
            "SLURM_PROCID" => self.slurm_tasks()?,
            _ => self.number(FLUX.processes, "how many processes the job has")?,
        };
        Ok(pmi.is_some() && (pmi != other || size != all))
    }

    /// Refuses what only a part of a job's processes would have.
    fn refuse_halves(&self) -> Result<()> {
        for name in [
            "WORLD_SIZE",
            "MASTER_ADDR",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
        ] {
            if let Some(value) = self.text(name)? {
                let expected = format!("the number of this process, because {name} is {value:?}");
                return Err(unset("RANK", &expected));
            }
        }
        for name in NUMBERS_ALONE {
            if let Some(value) = self.text(name)? {
                let expected = format!(
                    "the number of this process, with WORLD_SIZE, MASTER_ADDR and MASTER_PORT beside it: a \
                     launcher has started this process ({name} is {value:?}), but does not tell how many \
                     there are"
                );
                return Err(unset("RANK", &expected));
            }
        }
        // SageMaker: a list in JSON.
        if let Some(hosts) = self.text("SM_HOSTS")?
            && hosts.contains(',')
        {
            let expected = format!(
                "the number of this process, with WORLD_SIZE, MASTER_ADDR and MASTER_PORT beside it, \
                 because SM_HOSTS is {hosts:?}"
            );
            return Err(unset("RANK", &expected));
        }
        Ok(())
    }

    fn has_any(&self, names: &Names) -> bool {
        let local = [names.local_process, names.local_processes];
        let always = [names.process, names.processes];
        let mut all = always.into_iter().chain(local.into_iter().flatten());
        all.any(|name| self.has(name))
    }

    /// Reads and checks a launcher's variables.
    pub(super) fn read(&self, names: &Names) -> Result<LaunchPosition> {
        let process = self.required(names.process, "the number of this process, from 0")?;
        let processes = self.required(names.processes, "how many processes the job has")?;
        if processes == 0 {
            let expected = "how many processes the job has, at least 1".to_owned();
            return Err(wrong(names.processes, processes.to_string(), expected));
        }
        below(names.process, process, names.processes, processes)?;
        let optional = |name: Option<&'static str>| match name {
            Some(name) => self.number(name, "a number of processes on this machine"),
            None => Ok(None),
        };
        let local_process = optional(names.local_process)?;
        let local_processes = optional(names.local_processes)?;
        if let (Some(name), Some(count)) = (names.local_processes, local_processes)
            && !(1..=processes).contains(&count)
        {
            let expected = format!("from 1 to {processes} ({})", names.processes);
            return Err(wrong(name, count.to_string(), expected));
        }
        if let (Some(name), Some(number)) = (names.local_process, local_process) {
            let of = names.local_processes.unwrap_or(names.processes);
            let (of, count) = match local_processes {
                Some(count) => (of, count),
                None => (names.processes, processes),
            };
            below(name, number, of, count)?;
        }
        let job = match names.job {
            Some(name) => self.text(name)?.filter(|name| !name.trim().is_empty()),
            None => None,
        };
        Ok(LaunchPosition {
            process,
            processes,
            local_process,
            local_processes,
            host: None,
            port: PortSource::Follows(None),
            job,
            agent_listens: false,
            by_slurm: false,
            gpus_on_node: None,
        })
    }
}
