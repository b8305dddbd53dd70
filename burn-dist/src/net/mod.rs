//! Sockets: connections that are authenticated, encrypted if the job has certificates, and under deadlines.
//!
//! | file | content |
//! |---|---|
//! | `acceptor` | accepts the connections of a port, bounded in number and rate |
//! | `auth`, `secret` | proof of membership, before anything else is read |
//! | `channel` | a connection: a socket, or TLS on one |
//! | `tls` | the certificates for it, and their verification |
//! | `handshake_error` | reasons why two sides do not accept each other |
//! | `rejects` | counts and logs the connections that a port turned away |
//! | `files` | files with secrets |
//! | `timed` | reads and writes under a deadline |
//! | `proxy` | a bad network between sockets, for tests |

pub(crate) mod acceptor;
pub(crate) mod auth;
pub(crate) mod channel;
pub(crate) mod files;
pub(crate) mod handshake_error;
#[cfg(test)]
pub(crate) mod proxy;
pub(crate) mod rejects;
pub(crate) mod secret;
pub(crate) mod timed;
pub(crate) mod tls;

pub use secret::Secret;
pub use tls::Tls;
