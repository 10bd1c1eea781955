//! The resource server: checks the bearer token of a request to an MCP endpoint, cleans its headers and forwards it to the
//! upstream, streaming both ways. Nothing here issues a token or changes a session.

mod bearer;
mod body;
mod connection;
mod deadline;
mod handler;
mod headers;
mod mcp_session;
mod origin;
mod pool;
mod redirect;
mod replay;
mod request_body;
mod verified;

pub use body::Body;
use body::BoxError;
pub use deadline::TICK;
pub use handler::{Forwarder, ForwarderError, Worker, forward};
use headers::HeaderRules;
pub use headers::REQUEST_HEADERS;
#[cfg(feature = "fuzzing")]
pub use mcp_session::unbind;

#[cfg(test)]
pub mod testing {
    pub use super::{bearer::verify, verified::VerifiedTokens};
}
