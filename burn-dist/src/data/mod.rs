//! Data sharded by rank.
