//! Complete programs that train with burn-dist, to copy from:
//!
//! - `custom_loop`: the smallest hand-written loop;
//! - `learner`: a CNN on digits with burn-train, and `learner/plain.rs`, from which it differs by the lines of a job;
//! - `mnist`: a CNN on digits, what `cargo xtask train-mnist` runs.
//!
//! `mnist` is a binary of this package, `custom_loop` and `learner` are examples; this library is empty.
