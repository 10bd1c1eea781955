//! The controller: turns each `McpOAuthProxy` into a running proxy and says in its status what is missing.
//!
//! A reconcile is `validate -> fetch -> build -> apply -> update_status` (`controller`). `fetch` does every read; `validate`,
//! `build` and `conditions` are pure; only `apply`, `status` and the event recorder write to the API server.

mod apply;
mod backoff;
mod build;
mod conditions;
mod controller;
mod credentials;
mod error;
#[cfg(test)]
mod fake_api;
mod fetch;
mod health;
mod item_paths;
mod metrics;
mod mounts;
mod ownership;
mod pods;
mod render;
mod signing_keys;
mod status;
mod unread;
mod validate;
mod watch;

use std::net::SocketAddr;

pub use controller::run;
pub use error::Error;
pub use render::{RenderError, render};
pub use validate::Settings;

/// The field manager of every object that we apply. Never to be renamed: the API server would keep what the old name
/// owned.
const FIELD_MANAGER: &str = "mcp-oauth-operator";

/// How the controller is started.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) settings: Settings,

    /// Where /healthz, /readyz and /metrics are answered
    #[arg(long, env = "MCP_OAUTH_HEALTH_LISTEN", default_value = "[::]:8080")]
    pub(super) health_listen: SocketAddr,

    /// How many resources are worked on at a time
    #[arg(long, env = "MCP_OAUTH_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) concurrency: u16,
}
