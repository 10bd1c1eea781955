//! The programs around the operator: identity provider, Context Forge, browser, TLS edge, MCP clients, and a stand-in
//! for 1Password's operator. Servers run in the run's network namespace, browser and clients in the host's.

pub mod api_relay;
pub mod browser;
mod browser_stub;
mod cache;
pub mod certificates;
pub mod claude_code;
mod client_store;
mod component_state;
pub mod conformance;
pub mod context_forge;
pub mod dev;
pub mod document_host;
pub mod edge;
pub mod gateway;
mod host_ports;
pub mod http;
pub mod inspector;
mod installation;
pub mod json_lines;
pub mod login;
pub mod mcp_remote;
pub mod netns;
mod nginx;
pub mod node;
pub mod one_password;
pub mod provider;
pub mod python;
pub mod scenarios;
pub mod sdk;
pub mod standalone;
pub mod tap;

use anyhow::Result;
use clap::Subcommand;

/// Components with their own subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Manage the OpenID Connect provider
    #[command(subcommand)]
    Provider(provider::Action),
    /// Manage Context Forge and its MCP server
    #[command(subcommand)]
    ContextForge(context_forge::Action),
    /// Manage the recording reverse proxy in front of Context Forge
    #[command(subcommand)]
    Tap(tap::Action),
    /// Manage the stand-in for 1Password's operator
    #[command(subcommand)]
    OnePassword(one_password::Action),
    /// Manage a TLS edge
    #[command(subcommand)]
    Edge(edge::Action),
}

impl Command {
    pub fn run(self) -> Result<()> {
        tokio::runtime::Runtime::new()?.block_on(self.perform())
    }

    async fn perform(self) -> Result<()> {
        match self {
            Self::Provider(action) => action.perform().await,
            Self::ContextForge(action) => action.perform().await,
            Self::Tap(action) => action.perform().await,
            Self::OnePassword(action) => action.perform().await,
            Self::Edge(action) => action.perform().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Command::augment_subcommands(clap::Command::new("e2e")).debug_assert();
    }
}
