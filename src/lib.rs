//! mcp-oauth-operator: OAuth 2.1 logins for MCP servers on Kubernetes. docs/architecture.md describes the modules.

mod access;
pub mod api;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod dev;
mod end_reasons;
mod error_chain;
mod http1;
mod http_client;
pub mod keys;
mod listener;
pub mod login;
mod media_type;
mod oauth;
pub mod operator;
mod private_file;
pub mod proxy;
mod session;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text_enums;
mod untrusted_text;
mod yaml;
