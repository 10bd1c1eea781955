//! The resource server: checks the bearer token of a request to an MCP endpoint, cleans its headers and forwards it to the
//! upstream, streaming both ways. Nothing here issues a token or changes a session.

mod addresses;
mod admission;
mod answers;
mod arriving;
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
mod verified;
mod watched;

pub use answers::{busy, invalid_request, refuse_body, without_host};
pub use arriving::Arriving;
pub use body::{Body, BoxError};
pub use context::ResourceServer;
#[cfg(test)]
pub use deadline::Deadlines;
pub use deadline::{Deadline, TICK};
pub use handler::{Forwarder, ForwarderError, Worker, forward};
use headers::HeaderRules;
pub use limits::memory_limit;
#[cfg(feature = "fuzzing")]
pub use mcp_session::unbind;
pub use pool::{PROBE, PROBES, PRUNE, SILENCE};
pub use request_body::RequestBody;
pub use verified::{SharedTokens, VerifiedTokens};

#[cfg(test)]
pub mod testing;
