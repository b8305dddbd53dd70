//! Rendezvous: the processes of a job find one another.
//!
//! | file | content |
//! |---|---|
//! | `config`, `env` | the configuration of a process, also from the variables of launchers |
//! | `join` | from the configuration to a list of all processes, or an error that names the cause |
//! | `store` | the key-value store in which the list is made |
//! | `address` | addresses to listen on, and the check that they are safe |
//! | `crossovers` | sizes at which collectives change their algorithm, and the file of those that were measured |
//! | `options` | options that a program declares, equal in all processes |

mod address;
mod config;
mod crossovers;
mod env;
mod join;
mod options;
mod store;

#[cfg(any(test, fuzzing))]
pub(crate) use env::fuzzing::{check_nodes, check_variables};
#[cfg(any(test, fuzzing))]
pub(crate) use join::check_records;
#[cfg(any(test, fuzzing))]
pub(crate) use store::fuzzing::check as check_store;
#[cfg(test)]
pub(crate) use {
    env::fuzzing::{node_seeds, variable_seeds},
    join::record_seeds,
    store::fuzzing::seeds as store_seeds,
};

pub use config::JobConfig;
pub(crate) use config::VisibleGpus;
pub use crossovers::{Crossovers, Tuned};
pub(crate) use env::operation_timeout;
pub(crate) use join::{Host, Joined, join};
