//! Complete programs that train with burn-dist, to copy from:
//!
//! - `custom_loop`: the smallest hand-written loop;
//! - `mnist`: a CNN on digits, what `cargo xtask train-mnist` runs.
//!
//! The programs are this package's examples; this library is empty.
