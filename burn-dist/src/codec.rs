//! Encoder and decoder of control messages: the small typed values that ranks tell one another (parameter
//! lists, bucket orders). Tensor bytes never come through here.
//!
//! Invariant: a decode never takes more memory than its limit ([`LIMIT`] or less), whatever the bytes
//! claim, and every byte must be used. The format is private to this module, so it can be replaced here alone.
//!
//! Apart on purpose: files that later versions read (`checkpoint`: CBOR and JSON), files that tools read (`record`,
//! `observe`: JSON), and the fixed headers of `transport/tcp/frame`, which are read before a length is trusted.

use serde::{Serialize, de::DeserializeOwned};

/// Upper bound of the bytes of one control message, encoded or decoded.
const LIMIT: usize = 256 << 20;

/// Writes a message as bytes; the error says why it can't be.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
    bincode::serde::encode_to_vec(message, format::<LIMIT>()).map_err(|error| error.to_string())
}

/// Reads a message that [`encode`] wrote; the error says what is wrong with the bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode_within::<LIMIT, T>(bytes)
}

/// Reads a small message as [`decode`] does, with at most `MOST` bytes of memory, whatever the bytes claim.
pub(crate) fn decode_within<const MOST: usize, T: DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, String> {
    let (message, used) = bincode::serde::decode_from_slice(bytes, format::<MOST>())
        .map_err(|error| error.to_string())?;
    if used == bytes.len() {
        Ok(message)
    } else {
        Err(format!("{} bytes follow its end", bytes.len() - used))
    }
}

const fn format<const MOST: usize>() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MOST>,
> {
    bincode::config::standard().with_limit::<MOST>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_come_back_as_they_went(message: Vec<(String, Vec<u64>)>) {
            let bytes = encode(&message).unwrap();
            prop_assert_eq!(decode::<Vec<(String, Vec<u64>)>>(&bytes).unwrap(), message);
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            // It must return; what it returns depends on the bytes.
            let _ = decode::<Vec<(String, Vec<u64>)>>(&bytes);
        }
    }

    #[test]
    fn a_length_that_lies_costs_nothing() {
        // A vector that claims 2^60 elements: refused before memory is taken.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1_u64 << 60).to_le_bytes());
        assert!(decode::<Vec<u64>>(&bytes).is_err());
    }

    #[test]
    fn a_small_limit_holds_for_a_message_that_is_whole() {
        let bytes = encode(&vec![7_u8; 100]).unwrap();
        assert!(decode_within::<200, Vec<u8>>(&bytes).is_ok());
        assert!(decode_within::<50, Vec<u8>>(&bytes).is_err());
    }

    #[test]
    fn bytes_after_the_end_are_an_error() {
        let mut bytes = encode(&7_u32).unwrap();
        bytes.push(0);
        assert!(
            decode::<u32>(&bytes)
                .unwrap_err()
                .contains("1 bytes follow")
        );
    }
}
