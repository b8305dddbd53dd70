//! Distributed data-parallel training for [Burn](https://burn.dev), on every Burn backend.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod data;
mod error;

pub use error::{Call, Departure, Detail, Error, Result};
