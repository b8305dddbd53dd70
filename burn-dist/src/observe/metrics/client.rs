//! One client of the metrics' endpoint: its request, the reply, and the end of the connection.
//!
//! Nothing here blocks: [`Client::attend`] goes as far as the socket allows.

use super::Metrics;
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// The most bytes of a request. Prometheus sends a few hundred.
pub(super) const MAX_REQUEST_BYTES: usize = 8 << 10;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// The most bytes that are read and forgotten after the reply.
const MAX_DRAINED_BYTES: usize = 16 << 10;

/// How long one client may take in all.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The type of Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A connection.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) deadline: Instant,
    stage: Stage,
}

enum Stage {
    /// What it has sent so far is the beginning of a request.
    Asking(Vec<u8>),
    /// So many bytes of the reply are sent.
    Answering { reply: String, sent: usize },
    /// Forgets what still comes, of which so many bytes have: a socket that is closed with bytes unread resets the
    /// connection, and a system may then drop the reply.
    Parting { drained: usize },
}

/// Whether a client is to be attended to again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attended {
    /// Once its socket is ready.
    Waits,
    /// Never: the connection is over.
    Done,
}

impl Client {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            deadline: Instant::now() + CLIENT_TIMEOUT,
            stage: Stage::Asking(Vec::new()),
        }
    }

    /// Returns whether it has sent a whole request.
    pub(super) fn has_asked(&self) -> bool {
        !matches!(self.stage, Stage::Asking(_))
    }

    /// Reads and writes as much as is possible now. A client that breaks off gets nothing, and is its own loss.
    pub(super) fn attend(&mut self, metrics: &Metrics) -> Attended {
        loop {
            match self.advance(metrics) {
                Ok(Attended::Waits) => {}
                Ok(Attended::Done) => return Attended::Done,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Attended::Waits,
                    _ => return Attended::Done,
                },
            }
        }
    }

    fn advance(&mut self, metrics: &Metrics) -> io::Result<Attended> {
        let mut chunk = [0; 1024];
        match &mut self.stage {
            Stage::Asking(head) => {
                let room = (MAX_REQUEST_BYTES - head.len()).min(chunk.len());
                let count = self.stream.read(&mut chunk[..room])?;
                if count == 0 {
                    return Ok(Attended::Done);
                }
                head.extend(&chunk[..count]);
                let request = match parse(head) {
                    None if head.len() == MAX_REQUEST_BYTES => Request::TooLong,
                    None => return Ok(Attended::Waits),
                    Some(request) => request,
                };
                let reply = answer(request, metrics);
                self.stage = Stage::Answering { reply, sent: 0 };
            }
            Stage::Answering { reply, sent } => {
                let count = self.stream.write(&reply.as_bytes()[*sent..])?;
                *sent += count;
                if count == 0 {
                    return Ok(Attended::Done);
                }
                if *sent == reply.len() {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.stage = Stage::Parting { drained: 0 };
                }
            }
            Stage::Parting { drained } => {
                let count = self.stream.read(&mut chunk)?;
                *drained += count;
                if count == 0 || *drained >= MAX_DRAINED_BYTES {
                    return Ok(Attended::Done);
                }
            }
        }
        Ok(Attended::Waits)
    }
}

/// The request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Metrics,
    Elsewhere,
    OtherMethod,
    Malformed,
    TooLong,
}

/// Reads the head of a request; returns nothing if there is more to come. A body is of no interest.
fn parse(head: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Request::TooLong),
        Err(_) => return Some(Request::Malformed),
    }
    let path = request.path.and_then(|path| path.split('?').next());
    Some(match (request.method, path) {
        (Some("GET"), Some("/metrics")) => Request::Metrics,
        (Some("GET"), _) => Request::Elsewhere,
        _ => Request::OtherMethod,
    })
}

fn answer(request: Request, metrics: &Metrics) -> String {
    match request {
        Request::Metrics => reply("200 OK", EXPOSITION, &metrics.text()),
        Request::Elsewhere => refusal("404 Not Found", "there is only /metrics"),
        Request::OtherMethod => refusal("405 Method Not Allowed", "only GET is answered"),
        Request::Malformed => refusal("400 Bad Request", "that is no HTTP request"),
        Request::TooLong => refusal("431 Request Header Fields Too Large", "it is too long"),
    }
}

fn reply(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

fn refusal(status: &str, reason: &str) -> String {
    reply(status, "text/plain; charset=utf-8", &format!("{reason}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A request that is well-formed by construction, and what it asks for.
    fn requests() -> impl Strategy<Value = (String, Request)> {
        let method = prop_oneof![Just("GET".to_owned()), "[A-Z]{1,7}"];
        let path = prop_oneof![Just("/metrics".to_owned()), "/[a-z/.]{0,12}"];
        let query = prop_oneof![Just(String::new()), "[?][a-z=&]{0,9}"];
        let headers = prop::collection::vec("[A-Za-z-]{1,9}: [ -~]{0,20}\r\n", 0..9);
        (method, path, query, "[01]", headers).prop_map(|(method, path, query, minor, headers)| {
            let expected = match (method.as_str(), path.as_str()) {
                ("GET", "/metrics") => Request::Metrics,
                ("GET", _) => Request::Elsewhere,
                _ => Request::OtherMethod,
            };
            let headers = headers.concat();
            let text = format!("{method} {path}{query} HTTP/1.{minor}\r\n{headers}\r\n");
            (text, expected)
        })
    }

    proptest! {
        #[test]
        fn a_request_is_what_it_asks_for_once_it_is_whole((text, expected) in requests()) {
            let bytes = text.as_bytes();
            prop_assert_eq!(parse(bytes), Some(expected));
            for length in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..length]), None, "{:?}", &text[..length]);
            }
        }

        #[test]
        fn a_request_with_a_byte_that_none_may_have_is_malformed(
            (text, _) in requests(),
            at: prop::sample::Index,
            byte in prop_oneof![Just(0_u8), Just(1), Just(0x7F)],
        ) {
            // Before the last line end.
            let at = at.index(text.len() - 4);
            let mut bytes = text.into_bytes();
            bytes[at] = byte;
            prop_assert_eq!(parse(&bytes), Some(Request::Malformed));
        }
    }
}
