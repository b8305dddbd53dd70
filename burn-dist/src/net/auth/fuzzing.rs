//! Properties of a handshake for any bytes of the other side, and the bytes of a good one.

use std::time::Duration;

use super::*;
use crate::fuzzing::Script;

const SECRET: &[u8] = b"what only the fuzzer knows";
const PURPOSE: &[u8] = b"fuzzing";
const HELLO: &[u8] = b"this side";
/// Always the same, so that a good handshake can be among the seeds.
const NONCE: Nonce = [7; 32];

/// Plays the side that the first byte selects. The other bytes are those of its peer.
pub(crate) fn check(bytes: &[u8]) {
    let Some((&side, sent)) = bytes.split_first() else {
        return;
    };
    let role = [Role::Connects, Role::Accepts][usize::from(side % 2)];
    let script = Script::new(sent);
    let wire = &mut Wire {
        stream: &script,
        deadline: Instant::now() + Duration::from_hours(1),
    };
    let secret = Secret::new(SECRET);
    let outcome = handshake(wire, Version::OURS, NONCE, &secret, role, PURPOSE, &|_| {
        HELLO.to_vec()
    });
    // No more than both flights; and nothing but a preamble to one who does not begin like a peer.
    assert!(script.sent().len() <= 64 + 32 + 1 + 2 + HELLO.len() + 32);
    match outcome {
        Ok(hello) => {
            // The one way in: exactly the bytes that a member would send.
            assert_eq!(script.read(), member(role.other(), &sent[32..64], &hello));
        }
        Err(rejected) => assert!(!rejected.to_string().is_empty()),
    }
    // But for those who speak TLS, who learn by a preamble that here is none.
    let stranger = sent.len() >= MAGIC.len() && !sent.starts_with(&MAGIC);
    if stranger && role == Role::Accepts && !channel::is_record([sent[0], sent[1]]) {
        assert_eq!(script.sent().len(), 0, "strangers are told nothing");
    }
}

/// Returns the bytes of a member in a role to the side that [`check`] plays.
fn member(role: Role, nonce: &[u8], hello: &[u8]) -> Vec<u8> {
    let nonce: Nonce = nonce.try_into().unwrap_or_default();
    let secret = Secret::new(SECRET);
    let transcript = match role {
        Role::Connects => Transcript::new(&secret, Version::OURS, [PURPOSE, b""], &nonce, &NONCE),
        Role::Accepts => Transcript::new(&secret, Version::OURS, [PURPOSE, b""], &NONCE, &nonce),
    };
    let preamble = [&MAGIC[..], &Version::OURS.0, &nonce].concat();
    let (proof, hello) = (transcript.proof(role), transcript.hello(role, hello));
    match role {
        Role::Connects => [&preamble[..], &[ACCEPTED], &proof, &hello].concat(),
        Role::Accepts => [&preamble[..], &proof, &[ACCEPTED], &hello].concat(),
    }
}

/// Returns handshakes of members and of strangers.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let theirs = [9; 32];
    let to_connecting = |bytes: Vec<u8>| [vec![0], bytes].concat();
    let to_accepting = |bytes: Vec<u8>| [vec![1], bytes].concat();
    let accepts = member(Role::Accepts, &theirs, b"hello");
    let connects = member(Role::Connects, &theirs, b"");
    let mut long_hello = connects.clone();
    long_hello[64 + 1 + 32..][..2].fill(0xff);
    let mut wrong_proof = connects.clone();
    wrong_proof[70] ^= 1;
    let mut version = connects.clone();
    version[8] = b'9';
    vec![
        ("accepts", to_connecting(accepts.clone())),
        ("accepts-cut", to_connecting(accepts[..100].to_vec())),
        ("echo", to_connecting(member(Role::Accepts, &NONCE, b""))),
        ("connects", to_accepting(connects.clone())),
        ("connects-cut", to_accepting(connects[..90].to_vec())),
        ("long-hello", to_accepting(long_hello)),
        ("wrong-proof", to_accepting(wrong_proof)),
        ("version", to_accepting(version)),
        ("tls", to_accepting(vec![22, 3, 1, 0, 200, 1])),
        ("http", to_accepting(b"GET / HTTP/1.1\r\n\r\n".to_vec())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_gets_in_on_either_side() {
        for (role, side) in [(Role::Accepts, 0), (Role::Connects, 1)] {
            let bytes = member(role, &[9; 32], b"hello");
            let script = Script::new(&bytes);
            let wire = &mut Wire {
                stream: &script,
                deadline: Instant::now() + Duration::from_hours(1),
            };
            let secret = Secret::new(SECRET);
            let ours = role.other();
            let hello = handshake(wire, Version::OURS, NONCE, &secret, ours, PURPOSE, &|_| {
                HELLO.to_vec()
            });
            assert_eq!(hello.unwrap(), b"hello");
            check(&[&[side][..], &bytes].concat());
        }
    }
}
