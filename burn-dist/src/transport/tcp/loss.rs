//! Causes of losses, as they travel.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::LOSS_LIMIT;
use crate::codec;
use crate::transport::network::Cause;

/// Longest text of a cause that travels.
const MAX_CAUSE_TEXT: usize = 1 << 10;

/// Cause of a loss as it travels.
#[derive(Debug, Serialize, Deserialize)]
enum LossCause {
    Disconnected(String),
    Silent(Duration),
    Deadline(Duration),
    Malformed(String),
}

/// Encodes a cause; none if it is no loss.
pub(super) fn encode_cause(cause: &Cause) -> Option<Vec<u8>> {
    let cause = match cause {
        Cause::Disconnected(detail) => LossCause::Disconnected(shortened(detail)),
        Cause::Silent(time) => LossCause::Silent(*time),
        Cause::Deadline(time) => LossCause::Deadline(*time),
        Cause::Malformed(detail) => LossCause::Malformed(shortened(detail)),
        Cause::Left | Cause::Stopped | Cause::TooLarge(_) => return None,
    };
    codec::encode(&cause).ok()
}

/// Decodes a cause.
///
/// # Errors
/// The bytes are no cause.
pub(super) fn decode_cause(bytes: &[u8]) -> Result<Cause, String> {
    Ok(match codec::decode_within::<LOSS_LIMIT, _>(bytes)? {
        LossCause::Disconnected(detail) => Cause::Disconnected(detail.into()),
        LossCause::Silent(time) => Cause::Silent(time),
        LossCause::Deadline(time) => Cause::Deadline(time),
        LossCause::Malformed(detail) => Cause::Malformed(detail.into()),
    })
}

/// Returns the beginning of a text, if it is long.
fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_CAUSE_TEXT);
    text[..end].to_owned()
}

/// Checks the properties of the decoder of causes for any bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_loss(bytes: &[u8]) {
    crate::fuzzing::check_message::<LossCause>(bytes);
    if let Ok(cause) = decode_cause(bytes) {
        assert!(!cause.to_string().is_empty());
        // It is passed on in turn.
        let again = encode_cause(&cause);
        assert!(again.is_some_and(|again| again.len() <= LOSS_LIMIT));
    }
}

/// Returns an encoded cause.
#[cfg(test)]
pub(crate) fn loss_seed() -> Vec<u8> {
    encode_cause(&Cause::Silent(Duration::from_millis(1500))).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_of_losses_come_as_they_went() {
        let long = "ä".repeat(MAX_CAUSE_TEXT);
        for cause in [
            Cause::Disconnected("reset".into()),
            Cause::Silent(Duration::from_millis(1250)),
            Cause::Deadline(Duration::from_secs(3)),
            Cause::Malformed("magic".into()),
        ] {
            let back = decode_cause(&encode_cause(&cause).unwrap()).unwrap();
            assert_eq!(back.to_string(), cause.to_string());
        }
        let encoded = encode_cause(&Cause::Malformed(long.into())).unwrap();
        assert!(encoded.len() < LOSS_LIMIT);
        assert!(encode_cause(&Cause::Left).is_none());
    }
}
