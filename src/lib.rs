//! mcp-oauth-operator: an OAuth 2.1 front door for MCP servers on Kubernetes.
//!
//! One binary with two jobs: `operator` turns an [`api::McpOAuthProxy`] into a running proxy, and `proxy` is what those
//! pods run. They know each other by one module only, [`proxy::config`]: the files that a proxy is started from. `login` is
//! a client of such a proxy, or of any other MCP server with OAuth, and knows neither.

#![warn(missing_docs)]

pub mod api;
pub mod cli;
pub mod dev;
mod foreign_text;
pub mod keys;
mod listener;
pub mod login;
pub mod operator;
pub mod proxy;
pub mod telemetry;
