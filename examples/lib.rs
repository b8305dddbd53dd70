//! Complete programs that train with burn-dist, to copy from:
//!
//! - `custom_loop`: the smallest hand-written loop;
//! - `mnist`: a CNN on digits, what `cargo xtask train-mnist` runs.
//!
//! `mnist` is a binary of this package and `custom_loop` an example; this library is empty.
