//! Complete programs that train with burn-dist, to copy from:
//!
//! - `custom_loop`: the smallest hand-written loop;
//! - `mnist`: a CNN on digits, what `cargo xtask train-mnist` runs;
//! - `doctor`: what a job will meet, measured before it starts, what `cargo xtask doctor` runs.
//!
//! `mnist` and `doctor` are binaries of this package (`job` holds what both share) and `custom_loop` an
//! example; this library is empty.
