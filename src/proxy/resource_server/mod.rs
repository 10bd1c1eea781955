//! The resource server: checks the bearer token of a request to an MCP endpoint, filters its headers and forwards it to the
//! upstream, streaming both ways. Nothing here issues a token or changes a session.

mod admission;
mod bearer;
mod body;
mod breaker;
mod context;
mod deadline;
mod exchange;
mod handler;
mod headers;
mod limits;
mod mcp_session;
mod origin;
mod pool;
mod redirect;
mod replay;
mod request_body;
mod resolver;
mod responses;
mod verified;

pub use body::{Body, BoxError};
pub use context::ResourceServer;
pub use deadline::{Deadline, TICK};
pub use handler::{Forwarder, ForwarderError, Worker, forward};
pub use limits::memory_limit;
#[cfg(feature = "fuzzing")]
pub use mcp_session::unbind;
pub use pool::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, PRUNE_INTERVAL};
pub use request_body::{IncomingBody, RequestBody};
pub use responses::{busy, invalid_request, refuse_body, without_host};
pub use verified::VerifiedTokens;
