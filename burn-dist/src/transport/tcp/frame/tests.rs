use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_header_has_one_meaning(mut bytes: [u8; HEADER], magic: bool, small: bool) {
        if magic {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4] = 1 + bytes[4] % 6;
            bytes[5..8].fill(0);
        }
        if small {
            bytes[30..32].fill(0);
            bytes[36..].fill(0);
            // The parts of a tag that not all kinds have.
            bytes[16..28].fill(0);
        }
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }
}

#[test]
fn lengths_beyond_the_limits_are_refused() {
    assert!(Header::message(NO_TAG, HEAD_LIMIT, BODY_LIMIT as usize).is_ok());
    assert!(Header::message(NO_TAG, HEAD_LIMIT + 1, 0).is_err());
    assert!(Header::message(NO_TAG, 0, BODY_LIMIT as usize + 1).is_err());
    let notice = |to: usize, content: usize| NewsFrame::Notice {
        origin: 0,
        number: 1,
        to: vec![0; to],
        content: vec![0; content],
    };
    assert!(notice(DESTINATIONS_LIMIT, NOTICE_LIMIT).encode().is_ok());
    assert!(notice(DESTINATIONS_LIMIT + 1, 0).encode().is_err());
    assert!(notice(0, NOTICE_LIMIT + 1).encode().is_err());
    let loss = |cause: usize| NewsFrame::Loss {
        process: 0,
        cause: vec![0; cause],
    };
    assert!(loss(LOSS_LIMIT).encode().is_ok());
    assert!(loss(LOSS_LIMIT + 1).encode().is_err());
    let mut bytes = Header::message(NO_TAG, 0, 0).unwrap().encode();
    bytes[32..].fill(0xff);
    assert!(Header::decode(&bytes).unwrap_err().contains("body"));
}
