//! IBM's Context Forge in front of the MCP reference server `server-everything`, configured as in the first deployment:
//! it trusts the user name in `X-Forwarded-User`.

mod fixture;
mod settings;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

pub use self::fixture::{MEMBERS, NON_MEMBER};
use super::{cache, component_state, http, netns::run_in_netns, node::Node, python};
use crate::{
    forward::free_port,
    run::{Run, RunArg},
};

const NAME: &str = "context-forge";
const UPSTREAM: &str = "everything";
/// Enough for a cold start with all migrations on a busy machine; 7 s is usual.
const START_LIMIT: Duration = Duration::from_secs(180);

/// A tool that returns `Echo: <message>`.
pub const TOOL: &str = "everything-echo";
/// The running Context Forge.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ContextForge {
    /// Host and port in the run's network.
    pub address: String,
    /// The id of the virtual server that has the tools.
    pub server: String,
    /// The virtual server's path, `/servers/<id>/mcp`. `/mcp` has everything that the user may see.
    pub path: String,
    /// Host and port of the MCP server behind it, which has the tools at `/mcp` under their original names.
    pub everything: String,
}

impl ContextForge {
    /// Starts both servers and populates Context Forge, or finds them running.
    pub async fn up(run: &Run) -> Result<Self> {
        if let Some(running) = Self::find(run) {
            return Ok(running);
        }
        Self::down(run)?;
        let (node, programs) =
            tokio::try_join!(spawn_blocking(Node::install), spawn_blocking(|| python::CONTEXT_FORGE.install()))?;
        let (node, programs) = (node?, programs?);
        let database = migrated(&programs).await?;
        let folder = run.directory().join(NAME);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        fs::copy(&database, folder.join("mcp.db")).context("cannot copy the prepared database")?;

        let upstream_port = free_port()?;
        let mut upstream = run.command(node.interpreter()?);
        upstream.arg(node.script(run, "upstream.mjs")?).arg("127.0.0.1").env("PORT", upstream_port.to_string());
        run.spawn(UPSTREAM, &mut upstream)?;

        let (host, port) = (run.address(), free_port()?);
        let mut gateway = run.command(programs.join("mcpgateway"));
        settings::apply(&mut gateway, &programs, &folder);
        gateway.args(["--host", host, "--port", &port.to_string()]).current_dir(&folder);
        run.spawn(NAME, &mut gateway)?;
        eprintln!("context-forge starting · log {}", run.log(NAME).display());
        let address = format!("{host}:{port}");
        http::wait_until_ready(run, NAME, &format!("http://{address}/ready"), START_LIMIT).await?;

        let everything = format!("127.0.0.1:{upstream_port}");
        let (base, upstream_url) = (format!("http://{address}"), format!("http://{everything}/mcp"));
        let server = run_in_netns(run, move || async move { fixture::populate(&base, &upstream_url).await })
            .await
            .with_context(|| format!("cannot populate Context Forge. Its log: {}", run.log(NAME).display()))?;
        let path = format!("/servers/{server}/mcp");
        let running = Self { address, server, path, everything };
        component_state::save(run, NAME, &running)?;
        eprintln!("context-forge http://{}{}", running.address, running.path);
        Ok(running)
    }

    /// Creates what [`Self::up`] takes from the cache.
    pub async fn prepare() -> Result<()> {
        let programs = spawn_blocking(|| python::CONTEXT_FORGE.install()).await??;
        migrated(&programs).await.map(drop)
    }

    /// Context Forge, if it is running.
    pub fn find(run: &Run) -> Option<Self> {
        run.running(UPSTREAM)?;
        component_state::load(run, NAME)
    }

    /// Stops both servers.
    pub fn down(run: &Run) -> Result<()> {
        run.stop(NAME)?;
        run.stop(UPSTREAM)
    }
}

/// A migrated database, cached because the migration takes about a minute.
async fn migrated(programs: &Path) -> Result<std::path::PathBuf> {
    let programs = programs.to_owned();
    let inputs = [python::CONTEXT_FORGE.text, settings::FINGERPRINT];
    let directory = spawn_blocking(move || {
        cache::get_or_create(NAME, &inputs, |directory| {
            eprintln!("context-forge migrating its database (once)");
            // A separate run in the host's network.
            let run = Run::open(&format!("context-forge-database-{}", std::process::id()))?;
            let port = free_port()?.to_string();
            let mut gateway = run.command(programs.join("mcpgateway"));
            settings::apply(&mut gateway, &programs, directory);
            gateway.args(["--host", "127.0.0.1", "--port", &port]).current_dir(directory);
            run.spawn(NAME, &mut gateway)?;
            let url = format!("http://127.0.0.1:{port}/ready");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ready = runtime.block_on(http::wait_until_ready(&run, NAME, &url, START_LIMIT));
            run.stop(NAME)?;
            ready?;
            Ok(fs::remove_dir_all(run.directory())?)
        })
    })
    .await??;
    Ok(directory.join("mcp.db"))
}

/// `e2e context-forge`
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start Context Forge and its MCP server, and populate it
    Up(RunArg),
    /// Stop both servers
    Down(RunArg),
}

impl Action {
    pub async fn perform(self) -> Result<()> {
        match self {
            Self::Up(run) => {
                let running = ContextForge::up(&run.open()?).await?;
                println!("{}", serde_json::to_string(&running)?);
                Ok(())
            }
            Self::Down(run) => ContextForge::down(&run.open()?),
        }
    }
}
