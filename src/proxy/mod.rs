//! The data plane: the authorization server that MCP clients log in at, and the resource server that forwards their requests.

mod authorization_server;
mod client_ip;
mod clock;
mod cors;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity_provider;
mod observability;
mod resource_server;
mod runtime;
mod secrets;
mod sessions;

pub use runtime::{RunError, listen, run, serve};
