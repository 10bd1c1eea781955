//! The data plane: the authorization server that MCP clients log in at, and the resource server that forwards their requests.

pub(crate) mod authorization_server;
pub(crate) mod client_ip;
pub(crate) mod clock;
mod cors;
pub(crate) mod identity_provider;
pub(crate) mod observability;
pub(crate) mod resource_server;
pub(crate) mod runtime;
pub(crate) mod secrets;
pub(crate) mod sessions;

pub use runtime::{RunError, listen, run, serve};
