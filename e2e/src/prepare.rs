//! `e2e prepare`: everything that is built or fetched once and then kept, with its progress shown: inside of a test it would
//! be silent for minutes.

use anyhow::Result;

use crate::{
    cluster::{Cluster, needs},
    image,
    peers::{context_forge::ContextForge, node::Node, python},
    progress::{Progress, catch_interrupts},
};

#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> Result<()> {
        catch_interrupts();
        prepare_tests(&Progress::default())
    }
}

/// Prepares what tests need beyond a stage: clients.
pub fn prepare_tests(progress: &Progress) -> Result<()> {
    needs::check_tests()?;
    prepare(progress)?;
    Node::with_clients()?;
    python::MCP_SDK.install()?;
    python::MCP_SDK_1.install()?;
    progress.say("the clients are there");
    Ok(())
}

/// Says at once what the machine lacks, then prepares all that a stage is made of.
pub fn prepare(progress: &Progress) -> Result<()> {
    needs::check_stage()?;
    Cluster::prepare(progress)?;
    image::pause()?;
    Node::install()?;
    python::CONTEXT_FORGE.install()?;
    tokio::runtime::Runtime::new()?.block_on(ContextForge::prepare())?;
    progress.say("everything that is made once is there");
    Ok(())
}
