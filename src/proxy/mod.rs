//! The data plane: the authorization server that MCP clients log in at, and the forwarder behind it.

mod audit;
mod client_address;
mod client_documents;
pub mod config;
pub(crate) mod crypto;
mod drain;
mod endpoints;
mod forward;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod identity;
mod metrics;
pub(crate) mod oauth;
mod reload;
mod secrets;
mod server;
mod session;
mod start;
mod state;
mod traces;

pub use start::{RunError, listen, run, serve};
