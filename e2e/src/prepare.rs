//! `e2e prepare`: builds and downloads everything that is cached, with progress output. Inside a test this would be
//! silent for minutes.

use anyhow::Result;

use crate::{
    cluster::{Cluster, requirements},
    image,
    peers::{context_forge::ContextForge, node::Node, python},
    progress::{Progress, catch_interrupts},
};

/// `e2e prepare`
pub fn run() -> Result<()> {
    catch_interrupts();
    prepare_tests(&Progress::default())
}

/// Also prepares the MCP clients, which only tests need.
pub fn prepare_tests(progress: &Progress) -> Result<()> {
    requirements::check_tests()?;
    prepare(progress)?;
    Node::with_clients()?;
    python::MCP_SDK.install()?;
    python::MCP_SDK_1.install()?;
    progress.print("MCP clients installed");
    Ok(())
}

/// Checks the machine's requirements first, then prepares the components of a test environment.
pub fn prepare(progress: &Progress) -> Result<()> {
    requirements::check_environment()?;
    Cluster::prepare(progress)?;
    image::pause()?;
    Node::install()?;
    python::CONTEXT_FORGE.install()?;
    tokio::runtime::Runtime::new()?.block_on(ContextForge::prepare())?;
    progress.print("all cached components are ready");
    Ok(())
}
