//! What a run leaves to look at: the trace of its spans, the figures of its steps.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod figures;
#[path = "../support/scrape.rs"]
mod scrape;
mod trace;
