//! Calls that carry small typed messages and byte strings, for the library's own arrangements.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ProcessGroup;
use crate::error::{Detail, Error, Result};
use crate::{codec, collective};

/// The most that a gathering of byte strings may come to.
const LARGEST_GATHERING: usize = 256 << 20;

impl ProcessGroup {
    /// Gives every rank the messages of all, in rank order; together they may come to 256 MiB.
    ///
    /// # Errors
    /// [`Error::Control`] for a message that can't be written or read, which names its rank; otherwise see
    /// [the calls](Self#errors-of-all-calls).
    pub(crate) fn all_gather_messages<T: DeserializeOwned>(
        &self,
        mine: &impl Serialize,
    ) -> Result<Vec<T>> {
        let rank = self.global_rank();
        let failed = |peer| {
            move |message| Error::Control {
                rank,
                peer,
                message,
            }
        };
        let bytes = codec::encode(mine).map_err(failed(rank))?;
        let all = self.all_gather_bytes(&bytes)?;
        let all = all.iter().zip(self.ranks());
        all.map(|(bytes, &peer)| codec::decode(bytes).map_err(failed(peer)))
            .collect()
    }

    /// Gives every rank the bytes of all, in rank order. Their numbers may differ; together they may
    /// come to 256 MiB.
    ///
    /// # Errors
    /// See [the calls](Self#errors-of-all-calls).
    pub(crate) fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let call = "all_gather_bytes";
        let ticket = self.ticket(call, "", &[], Detail::default());
        let gathered =
            ticket.run(|entry| collective::all_gather_bytes(entry, bytes, LARGEST_GATHERING))?;
        gathered.map_err(|total| Error::InvalidArgument {
            rank: self.global_rank(),
            call,
            message: too_much(total),
        })
    }

    /// Gives every rank the bytes of rank `root`, which passes `Some`; up to 256 MiB.
    ///
    /// # Errors
    /// See [the calls](Self#errors-of-all-calls).
    pub(crate) fn broadcast_bytes(&self, bytes: Option<&[u8]>, root: usize) -> Result<Vec<u8>> {
        let call = "broadcast_bytes";
        let root_rank = Some(self.check_peer(call, root)?);
        self.check_side(call, "input", bytes.is_some(), root)?;
        let bytes = bytes.unwrap_or_default();
        if bytes.len() > LARGEST_GATHERING {
            return Err(self.refuse(call, too_much(bytes.len())));
        }
        let ticket = self.ticket(
            call,
            "",
            &[],
            Detail {
                root: root_rank,
                ..Detail::default()
            },
        );
        ticket.run(|entry| collective::broadcast_bytes(entry, bytes, root))
    }
}

fn too_much(total: usize) -> String {
    format!("{total} bytes are more than the {LARGEST_GATHERING} that one message may have")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::tests::support::on_ranks;

    #[test]
    fn bytes_of_unequal_lengths_reach_all() {
        on_ranks(3, |group| {
            let mine = vec![group.rank() as u8; 2 * group.rank()];
            let all = group.all_gather_bytes(&mine).unwrap();
            assert_eq!(all, [vec![], vec![1; 2], vec![2; 4]]);
            let bytes = (group.rank() == 2).then_some(&b"from two"[..]);
            assert_eq!(group.broadcast_bytes(bytes, 2).unwrap(), b"from two");
        });
    }

    #[test]
    fn too_many_bytes_are_refused_on_every_rank() {
        let half = vec![0; LARGEST_GATHERING / 2 + 1];
        on_ranks(2, |group| {
            let error = group.all_gather_bytes(&half).unwrap_err();
            assert!(
                error.to_string().contains("268435458 bytes are more than"),
                "{error}"
            );
            // All found it together, so the group goes on.
            group.barrier().unwrap();
        });
    }
}
