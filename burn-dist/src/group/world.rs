//! The group of all ranks of a job whose ranks lie in several processes.

use std::path::PathBuf;
use std::sync::Arc;

use super::ProcessGroup;
use crate::engine::GroupState;
use crate::error::{Error, Result};
use crate::rendezvous::Crossovers;
use crate::transport::network::Network;
use crate::transport::processes::{Layout, Registry, Reporter, World};

/// The number of the group of all ranks, which begins all others' numbers.
const ALL: u64 = 0;

impl ProcessGroup {
    /// The group of all ranks of a job, of which process `p` hosts `ranks_per_process[p]`, numbered
    /// process by process: one membership for each rank that this process hosts, to be given to one
    /// thread each. The network is closed when the last handle of any group of this process is gone.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a process has no ranks, or their number is not the network's.
    #[cfg(test)]
    pub(crate) fn world(
        network: Arc<dyn Network>,
        ranks_per_process: &[usize],
    ) -> Result<Vec<Self>> {
        Self::begin(
            network,
            ranks_per_process,
            None,
            Crossovers::default(),
            false,
        )
    }

    /// As [`Self::world`], for ranks whose ends a launcher reports with [`Self::leave`], and whose records
    /// are written to the folder when they wait in vain.
    pub(crate) fn launched_world(
        network: Arc<dyn Network>,
        ranks_per_process: &[usize],
        records: PathBuf,
        crossovers: Crossovers,
    ) -> Result<Vec<Self>> {
        Self::begin(network, ranks_per_process, Some(records), crossovers, true)
    }

    pub(super) fn begin(
        network: Arc<dyn Network>,
        ranks_per_process: &[usize],
        records: Option<PathBuf>,
        crossovers: Crossovers,
        launched: bool,
    ) -> Result<Vec<Self>> {
        let (here, processes) = (network.process(), network.processes());
        let first: usize = ranks_per_process.iter().take(here).sum();
        if ranks_per_process.len() != processes || ranks_per_process.contains(&0) {
            let message = format!(
                "the network has {processes} processes where their numbers of ranks are \
                 {ranks_per_process:?}; give each process one or more"
            );
            return Err(Error::InvalidArgument {
                rank: first,
                call: "ProcessGroup::world",
                message,
            });
        }
        let hosts: Vec<usize> = (0..processes)
            .flat_map(|process| vec![process; ranks_per_process[process]])
            .collect();
        let ranks = (0..hosts.len()).collect();
        let reporter = Reporter::among(network.clone(), ranks_per_process, records);
        let registry = Registry::new(&reporter);
        let state = match Layout::new(ALL, &hosts, here) {
            Some(layout) if !layout.is_local() => {
                let layout = layout.with_crossovers(crossovers);
                GroupState::across(ranks, layout, network.clone(), &registry, &reporter)
            }
            _ => GroupState::local(ranks, &reporter),
        };
        let world = World::new(network, &registry, reporter);
        let local = first..first + ranks_per_process[here];
        Ok(Self::seats(&state, local, &world, launched))
    }
}
