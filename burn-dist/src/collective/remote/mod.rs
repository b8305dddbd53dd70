//! Collectives of a group whose ranks lie in several processes.
//!
//! The ranks of a process lend their inputs and pack parcels for the other processes; its leader trades
//! them; then each rank takes what it needs from what has come (`transport::threads::across`). A parcel
//! is plain bytes in the order of the sender's ranks, whose number both sides know from the call; all
//! processes have one byte order.
//!
//! With S bytes of one rank's input (the root's, for scatter), n ranks in this process of N in all, P
//! processes and k partial results of this process's ranks (1 if their number is a power of two at a
//! multiple of it in the group), one process sends, besides one call of about 50 bytes to each other:
//!
//! | operation | rounds | bytes sent |
//! |---|---|---|
//! | barrier | 1 | 0 |
//! | broadcast | 1 | (P-1) S from the root's process, 0 from others |
//! | scatter | 1 | S (N-n)/N from the root's process, 0 from others |
//! | gather | 1 | n S to the root's process |
//! | all_gather | 1 | (P-1) n S |
//! | all_to_all | 1 | n S (N-n)/N |
//! | reduce | 1 | k S to the root's process |
//! | reduce_scatter | 1 | k S (N-n)/N |
//! | all_reduce where (P-1) S is up to [`SMALL`] | 1 | (P-1) k S |
//! | all_reduce where S is [`MIDDLING`] and P > 2 a power of two, with n = 1 | log2 P | S log2 P |
//! | all_reduce | a stream | k S (P-1)/P and S (P-1)/P |
//!
//! Partial means of 16-bit floats and integers travel in the wider type they are summed in.
//!
//! Callers: each operation's own module.

mod doubling;
mod moves;
mod reductions;
mod stream;

use std::ops::RangeInclusive;

use crate::transport::threads::wrong_length;

pub(super) use moves::{
    all_gather, all_gather_bytes, all_to_all, barrier, broadcast, broadcast_bytes, gather, scatter,
};
pub(super) use reductions::{all_reduce, all_reduce_shared, reduce, reduce_scatter};

/// A buffer is reduced by everybody from everybody's partial results as long as it makes each process send
/// no more than this: one round of more bytes takes less time than two. Measured over loopback: with 2
/// processes it pays up to between 32 and 64 KiB, with 4 up to between 16 and 32 KiB a buffer.
/// (Tests inside the crate stream little.)
const SMALL: usize = if cfg!(test) { 8 << 10 } else { 48 << 10 };

/// A buffer of so many bytes is reduced by recursive doubling where the ranks lie so that they can. Measured
/// over loopback in µs, one round or a stream against doubling: with 4 processes 8 KiB 27 and 67, 16 KiB 98 and
/// 49, 64 KiB 127 and 98, 96 KiB 143 and 140, 128 KiB 155 and 173; with 8 processes 4 KiB 302 and 215, 64 KiB
/// 611 and 371, 128 KiB 746 and 716.
/// (Tests inside the crate double little.)
const MIDDLING: RangeInclusive<usize> = if cfg!(test) {
    1 << 10..=5 << 10
} else {
    12 << 10..=96 << 10
};

/// Checks a parcel's length.
fn check_length(bytes: &[u8], due: usize) -> Result<(), String> {
    if bytes.len() == due {
        return Ok(());
    }
    Err(wrong_length(bytes.len(), due))
}
