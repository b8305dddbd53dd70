//! How the processes of a job find, name and authenticate one another.
//!
//! | file | idea |
//! |---|---|
//! | `config`, `env` | what a process must know; what launchers tell it |
//! | `join` | from that to a list of all processes, or an error that names who is wrong |
//! | `store` | the key-value store in which the list is made |
//! | `address` | where to listen, and where not without a secret |
//! | `options` | what a program declares, which must be the same in all processes |
//! | `auth`, `secret` | proof of membership, before anything else is read |
//! | `channel` | the connection itself: a socket, or TLS on one |
//! | `tls` | the certificates for it, and how they are verified |
//! | `rejected` | why a connection was turned away |
//! | `rejects` | how many connections a port turned away: counted, logged |
//! | `files` | reading files that prove something |
//! | `timed` | connections under a deadline |
//!
//! Callers: `launch` joins a job; `transport` authenticates its connections.

mod address;
pub(crate) mod auth;
pub(crate) mod channel;
mod config;
mod env;
mod files;
mod join;
mod options;
#[cfg(test)]
pub(crate) mod proxy;
mod rejected;
pub(crate) mod rejects;
mod secret;
mod store;
pub(crate) mod timed;
mod tls;

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
pub(crate) use env::operation_timeout;
pub(crate) use join::{Host, Joined, join};
pub use secret::Secret;
pub use tls::Tls;
