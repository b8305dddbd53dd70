//! Distributed data-parallel training for [Burn](https://burn.dev), on every Burn backend.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod collective;
mod control;
pub mod data;
pub mod ddp;
mod element;
mod error;
mod group;
pub mod launch;
pub mod random;
mod transport;

pub use element::{Element, ReduceOp};
pub use error::{Call, Departure, Detail, Error, Result};
pub use group::{DEFAULT_TIMEOUT, ProcessGroup, Work};
