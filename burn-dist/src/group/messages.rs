//! Calls that carry small typed messages, for the library's own arrangements.
//!
//! Callers: `ddp`, `checkpoint`, `train`, `preflight`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ProcessGroup;
use crate::codec;
use crate::error::{Error, Result};

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
}
