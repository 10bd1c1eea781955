//! HTTP/1.1 to the upstream (RFC 9112), as far as a forwarder needs it: a request goes out whose headers are ours, its answer comes
//! in, both may be streams. Ours, because a general client costs as much as all else that forwarding does in user space
//! (docs/performance.md). httparse reads heads and sizes of chunks. What is the same on clients' side (`proxy/server`) is used there
//! too.

mod answer;
mod connection;
mod fields;
mod framing;
mod request;
mod scratch;
#[cfg(test)]
pub mod testing;

use std::io;

#[cfg(feature = "fuzzing")]
pub use answer::Head;
#[cfg(any(test, feature = "fuzzing"))]
pub use answer::read_head;
pub use connection::Connection;
pub use fields::{HeaderFilter, is_hop_by_hop, nominated};
pub use framing::{Framing, content_length, skip};
pub use request::{Outgoing, RequestHead, write_field};
pub use scratch::Scratch;
use thiserror::Error;

/// An error of a body, whichever it is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an exchange came to no end.
#[derive(Debug, Error)]
pub enum WireError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It was closed before the head of the answer.
    #[error("the connection was closed without an answer")]
    Unanswered,
    /// It was closed before the end of the content.
    #[error("the connection was closed in the middle")]
    Incomplete,
    /// What came is not HTTP/1, or may be understood in more than one way.
    #[error("not HTTP: {0}")]
    Malformed(&'static str),
    /// The request's body is not there to its end.
    #[error("{0}")]
    Body(#[source] BoxError),
}

impl From<httparse::Error> for WireError {
    fn from(error: httparse::Error) -> Self {
        Self::Malformed(what_is_wrong(error))
    }
}

/// What of a head is not as it should be.
pub fn what_is_wrong(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "the name of a header",
        httparse::Error::HeaderValue => "the value of a header",
        httparse::Error::NewLine => "the end of a line",
        httparse::Error::Status => "the status",
        httparse::Error::Token => "a character that may not be there",
        httparse::Error::TooManyHeaders => "too many headers",
        httparse::Error::Version => "the version",
    }
}
