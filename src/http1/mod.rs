//! An HTTP/1.1 client connection (RFC 9112) with only what a forwarder needs: streaming requests and responses. A general client
//! costs 7 % more CPU and 15 KiB more per stream (docs/adr/0005-http.md). httparse parses heads and chunk sizes. The server side
//! (`proxy/runtime/server`) shares the framing.

mod connection;
mod fields;
mod framing;
mod request;
mod response;
mod scratch;

use std::io;

pub use connection::Connection;
pub use fields::{HeaderFilter, is_hop_by_hop, nominated};
pub use framing::{Framing, content_length, skip};
pub use request::{Outgoing, RequestHead, write_field};
#[cfg(feature = "fuzzing")]
pub use response::ResponseHead;
#[cfg(any(test, feature = "fuzzing"))]
pub use response::read_head;
pub use scratch::Scratch;
use thiserror::Error;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an exchange failed.
#[derive(Debug, Error)]
pub enum WireError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the connection closed before a response")]
    NoResponse,
    #[error("the connection closed before the end of the content")]
    Incomplete,
    #[error("invalid or ambiguous HTTP/1: {0}")]
    Malformed(&'static str),
    /// The request body failed.
    #[error("{0}")]
    Body(#[source] BoxError),
}

impl From<httparse::Error> for WireError {
    fn from(error: httparse::Error) -> Self {
        Self::Malformed(invalid_part(error))
    }
}

/// The part of a head that is invalid.
pub fn invalid_part(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "invalid header name",
        httparse::Error::HeaderValue => "invalid header value",
        httparse::Error::NewLine => "invalid line ending",
        httparse::Error::Status => "invalid status",
        httparse::Error::Token => "invalid character",
        httparse::Error::TooManyHeaders => "too many headers",
        httparse::Error::Version => "unsupported version",
    }
}
