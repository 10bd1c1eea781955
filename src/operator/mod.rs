//! The controller: deploys a proxy for each `McpOAuthProxy` and reports in its status what is missing.
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
mod validate;
mod watch;

use std::net::SocketAddr;

pub use controller::run;
pub use error::Error;
pub use render::{RenderError, render};
pub use validate::Settings;

/// The field manager of every applied object. It must never change: fields owned by the old name would stay forever.
const FIELD_MANAGER: &str = "mcp-oauth-operator";

/// Command-line options of the controller.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) settings: Settings,

    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "MCP_OAUTH_HEALTH_LISTEN", default_value = "[::]:8080")]
    pub(super) health_listen: SocketAddr,

    /// Maximum number of concurrent reconciles
    #[arg(long, env = "MCP_OAUTH_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) concurrency: u16,
}
