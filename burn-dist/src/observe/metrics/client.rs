//! One client of the metrics endpoint: its request and the reply.

use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::Metrics;
use crate::net::timed::{self, Broken};

/// Most bytes of a request. Prometheus sends a few hundred.
pub(super) const MAX_REQUEST_BYTES: usize = 8 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// Content type of Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers the request of a client, and waits until it has read the answer.
pub(super) fn answer(
    socket: &TcpStream,
    metrics: &Metrics,
    deadline: Instant,
) -> Result<(), Broken> {
    let request = read_request(socket, deadline)?;
    timed::write(socket, reply_to(request, metrics).as_bytes(), deadline)?;
    socket.shutdown(Shutdown::Write)?;
    timed::drain(socket, deadline);
    Ok(())
}

fn read_request(socket: &TcpStream, deadline: Instant) -> Result<Scrape, Broken> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while head.len() < MAX_REQUEST_BYTES {
        let room = (MAX_REQUEST_BYTES - head.len()).min(chunk.len());
        let count = timed::read_some(socket, &mut chunk[..room], deadline)?;
        head.extend(&chunk[..count]);
        if let Some(request) = parse(&head) {
            return Ok(request);
        }
    }
    Ok(Scrape::TooLong)
}

/// Scrape of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scrape {
    Metrics,
    Elsewhere,
    OtherMethod,
    Malformed,
    TooLong,
}

/// Parses the head of a request; none if it is incomplete. A body is ignored.
fn parse(head: &[u8]) -> Option<Scrape> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Scrape::TooLong),
        Err(_) => return Some(Scrape::Malformed),
    }
    let path = request.path.and_then(|path| path.split('?').next());
    Some(match (request.method, path) {
        (Some("GET"), Some("/metrics")) => Scrape::Metrics,
        (Some("GET"), _) => Scrape::Elsewhere,
        _ => Scrape::OtherMethod,
    })
}

fn reply_to(request: Scrape, metrics: &Metrics) -> String {
    match request {
        Scrape::Metrics => reply("200 OK", EXPOSITION, &metrics.text()),
        Scrape::Elsewhere => refusal("404 Not Found", "there is only /metrics"),
        Scrape::OtherMethod => refusal("405 Method Not Allowed", "only GET is answered"),
        Scrape::Malformed => refusal("400 Bad Request", "that is no HTTP request"),
        Scrape::TooLong => refusal("431 Request Header Fields Too Large", "it is too long"),
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
    fn requests() -> impl Strategy<Value = (String, Scrape)> {
        let method = prop_oneof![Just("GET".to_owned()), "[A-Z]{1,7}"];
        let path = prop_oneof![Just("/metrics".to_owned()), "/[a-z/.]{0,12}"];
        let query = prop_oneof![Just(String::new()), "[?][a-z=&]{0,9}"];
        let headers = prop::collection::vec("[A-Za-z-]{1,9}: [ -~]{0,20}\r\n", 0..9);
        (method, path, query, "[01]", headers).prop_map(|(method, path, query, minor, headers)| {
            let expected = match (method.as_str(), path.as_str()) {
                ("GET", "/metrics") => Scrape::Metrics,
                ("GET", _) => Scrape::Elsewhere,
                _ => Scrape::OtherMethod,
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
            prop_assert_eq!(parse(&bytes), Some(Scrape::Malformed));
        }
    }
}
