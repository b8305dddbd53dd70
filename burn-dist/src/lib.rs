//! Distributed data-parallel training for [Burn](https://burn.dev), on every Burn backend.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod control;
pub mod data;
mod error;
pub mod random;

pub use error::{Call, Departure, Detail, Error, Result};
