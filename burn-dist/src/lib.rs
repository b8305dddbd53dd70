//! Distributed data-parallel training for [Burn](https://burn.dev), on every Burn backend.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod collective;
pub mod data;
mod element;
mod error;
mod group;
mod launch;
mod transport;

pub use element::{Element, ReduceOp};
pub use error::{Call, Departure, Detail, Error, Result};
pub use group::{DEFAULT_TIMEOUT, ProcessGroup, Work};
pub use launch::{Launcher, Worker, launch};
