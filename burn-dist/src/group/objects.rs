//! Collectives on values of any type that serde knows, and on byte strings.

use std::any::type_name;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ProcessGroup;
use super::call::Ticket;
use crate::codec;
use crate::collective::{self, Unfit};
use crate::error::{Detail, Error, Result};

/// The bytes that the values of one call may come to, of all ranks together.
pub(super) const LIMIT: usize = 256 << 20;

/// Collectives on values of any type that serde knows: see [`ProcessGroup::objects`].
#[derive(Debug)]
pub struct Objects<'g> {
    group: &'g ProcessGroup,
}

impl ProcessGroup {
    /// Collectives on values of any type that serde knows, such as strings, settings and lists of them. Values
    /// may differ in size between ranks; together they may come to 256 MiB as bytes. Ranks compare the name of the
    /// type. Tensors travel faster through the calls of the group itself.
    ///
    /// ```
    /// # use burn_dist::ProcessGroup;
    /// # let group = ProcessGroup::single();
    /// let names = group.objects().all_gather(&format!("rank {}", group.rank()))?;
    /// assert_eq!(names[0], "rank 0");
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn objects(&self) -> Objects<'_> {
        Objects { group: self }
    }
}

/// # Errors of all calls
/// [`Error::InvalidArgument`] on the rank whose value can't be written, and on every rank if the values of all
/// come to more than 256 MiB. [`Error::Control`], with the sender, for a value that can't be read as a `T`. The
/// others are those of [the group's calls](ProcessGroup#errors-of-all-calls).
impl Objects<'_> {
    /// Returns the values of all ranks, in rank order, on every rank.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_gather<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        let (group, call) = (self.group, "all_gather_object");
        let bytes = group.encode(call, value)?;
        let all = group.gather_strings((call, type_name::<T>()), &bytes, None)?;
        group.decode_all(&all.unwrap_or_default())
    }

    /// Returns the value of rank `root` on every rank. The others give `None`.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn broadcast<T: Serialize + DeserializeOwned>(
        &self,
        value: Option<&T>,
        root: usize,
    ) -> Result<T> {
        let (group, call) = (self.group, "broadcast_object");
        let bytes = value.map(|value| group.encode(call, value)).transpose()?;
        let bytes = group.broadcast_string((call, type_name::<T>()), bytes.as_deref(), root)?;
        group.decode(root, &bytes)
    }

    /// Returns the values of all ranks, in rank order, on rank `root`, and `None` on the others.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn gather<T: Serialize + DeserializeOwned>(
        &self,
        value: &T,
        root: usize,
    ) -> Result<Option<Vec<T>>> {
        let (group, call) = (self.group, "gather_object");
        let bytes = group.encode(call, value)?;
        let all = group.gather_strings((call, type_name::<T>()), &bytes, Some(root))?;
        all.map(|all| group.decode_all(&all)).transpose()
    }

    /// Returns value `r` of rank `root` on rank `r`. The root gives one for each rank, the others `None`.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn scatter<T: Serialize + DeserializeOwned>(
        &self,
        values: Option<&[T]>,
        root: usize,
    ) -> Result<T> {
        let (group, call) = (self.group, "scatter_object");
        let strings = values.map(|values| {
            let values = values.iter().map(|value| group.encode(call, value));
            values.collect::<Result<Vec<_>>>()
        });
        let strings = strings.transpose()?;
        let signature = (type_name::<T>(), &[][..]);
        let ticket = group.scatter_ticket(call, signature, strings.as_deref(), root)?;
        let string = ticket
            .run(|handle| collective::scatter_bytes(handle, strings.as_deref(), root, LIMIT))?;
        let string = string.map_err(|unfit| ticket.unfit(&unfit, LIMIT))?;
        group.decode(root, &string)
    }
}

impl<M> ProcessGroup<M> {
    /// Writes a value; tells the other ranks if it can't be.
    fn encode(&self, call: &'static str, value: &impl Serialize) -> Result<Vec<u8>> {
        codec::encode(value)
            .map_err(|message| self.refuse(call, format!("the value can't be written: {message}")))
    }

    fn decode<T: DeserializeOwned>(&self, from: usize, bytes: &[u8]) -> Result<T> {
        // The bytes are bounded already. A small number takes less bytes than memory.
        codec::decode_within::<{ 16 * LIMIT }, T>(bytes).map_err(|message| Error::Control {
            rank: self.global_rank(),
            peer: self.ranks()[from],
            message,
        })
    }

    fn decode_all<T: DeserializeOwned>(&self, all: &[Vec<u8>]) -> Result<Vec<T>> {
        let all = all.iter().enumerate();
        all.map(|(from, bytes)| self.decode(from, bytes)).collect()
    }

    /// Gives every rank, or the root alone, the bytes of all.
    fn gather_strings(
        &self,
        (call, kind): (&'static str, &'static str),
        bytes: &[u8],
        root: Option<usize>,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let mut detail = Detail::default();
        if let Some(root) = root {
            detail.root = Some(self.check_peer(call, root)?);
        }
        let ticket = self.ticket(call, kind, &[], detail);
        let all = ticket.run(|handle| {
            if let Some(root) = root {
                collective::gather_bytes(handle, bytes, root, LIMIT)
            } else {
                let all = collective::all_gather_bytes(handle, bytes, LIMIT)?;
                Ok(all.map(Some).map_err(Unfit::TooMany))
            }
        });
        all?.map_err(|unfit| ticket.unfit(&unfit, LIMIT))
    }

    fn broadcast_string(
        &self,
        (call, kind): (&'static str, &'static str),
        bytes: Option<&[u8]>,
        root: usize,
    ) -> Result<Vec<u8>> {
        let detail = Detail {
            root: Some(self.check_peer(call, root)?),
            ..Detail::default()
        };
        self.check_side(call, "input", bytes.is_some(), root)?;
        let bytes = bytes.unwrap_or_default();
        if bytes.len() > LIMIT {
            let message = format!("it has {} bytes; give at most {LIMIT}", bytes.len());
            return Err(self.refuse(call, message));
        }
        let ticket = self.ticket(call, kind, &[], detail);
        let bytes = ticket.run(|handle| collective::broadcast_bytes(handle, bytes, root, LIMIT));
        bytes?.map_err(|unfit| ticket.unfit(&unfit, LIMIT))
    }

    /// Takes the ticket of a scatter whose parts differ in length.
    pub(super) fn scatter_ticket(
        &self,
        call: &'static str,
        (dtype, shape): (&'static str, &[usize]),
        parts: Option<&[Vec<u8>]>,
        root: usize,
    ) -> Result<Ticket> {
        let detail = Detail {
            root: Some(self.check_peer(call, root)?),
            ..Detail::default()
        };
        self.check_side(call, "input", parts.is_some(), root)?;
        if let Some(parts) = parts {
            self.check_count(call, parts.len())?;
        }
        Ok(self.ticket(call, dtype, shape, detail))
    }

    /// Gives every rank the bytes of all, in rank order. Their numbers may differ.
    ///
    /// # Errors
    /// Those of [`Objects`].
    pub(crate) fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.gather_strings(("all_gather_bytes", ""), bytes, None)?;
        Ok(all.unwrap_or_default())
    }

    /// Gives every rank the bytes of rank `root`, which passes `Some`.
    ///
    /// # Errors
    /// Those of [`Objects`].
    pub(crate) fn broadcast_bytes(&self, bytes: Option<&[u8]>, root: usize) -> Result<Vec<u8>> {
        self.broadcast_string(("broadcast_bytes", ""), bytes, root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::tests::support::on_ranks;

    #[test]
    fn too_many_bytes_are_refused_on_every_rank() {
        let half = vec![0; LIMIT / 2 + 1];
        on_ranks(2, |group| {
            let error = group.all_gather_bytes(&half).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("268435458 bytes, more than"), "{text}");
            // All found it together, so the group goes on.
            group.barrier().unwrap();
        });
    }

    #[test]
    fn types_that_differ_are_a_mismatch() {
        on_ranks(2, |group| {
            let objects = group.objects();
            // The bytes of both values are the same.
            let error = if group.rank() == 0 {
                objects.all_gather(&7_u32).map(drop).unwrap_err()
            } else {
                objects.all_gather(&7_u64).map(drop).unwrap_err()
            };
            let text = error.to_string();
            for call in ["all_gather_object #0 u32", "all_gather_object #0 u64"] {
                assert!(text.contains(call), "{text}");
            }
        });
    }

    /// A value that can be written and not read.
    #[derive(Debug, Serialize)]
    struct WriteOnly;

    impl<'de> serde::Deserialize<'de> for WriteOnly {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Err(serde::de::Error::custom("it is not for reading"))
        }
    }

    #[test]
    fn a_value_that_cannot_be_read_names_its_sender() {
        on_ranks(2, |group| {
            let error = group
                .objects()
                .broadcast((group.rank() == 1).then_some(&WriteOnly), 1);
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Control { peer: 1, .. }), "{error}");
            assert!(
                error.to_string().contains("it is not for reading"),
                "{error}"
            );
        });
    }
}
