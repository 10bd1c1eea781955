//! `e2e test`: sets a stage for the tests, runs them, and ends it, also when they fail.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    cluster::Cluster,
    image::workspace,
    operator::Installer,
    progress::{Progress, catch_interrupts},
    run::Run,
    stage::Stage,
};

#[derive(clap::Args)]
pub struct Args {
    /// Leave the stage up, to look at what failed (e2e cluster down --run NAME ends it).
    #[arg(long)]
    keep: bool,
    /// Only tests whose name holds this.
    filter: Option<String>,
}

impl Args {
    pub fn run(self) -> Result<()> {
        catch_interrupts();
        let run = Run::open(&format!("test-{}", std::process::id()))?;
        let tested = self.test(&run);
        if self.keep {
            eprintln!("run {} stays up; its logs are in {}", run.name(), run.logs().display());
            return tested;
        }
        // Logs are for failures.
        Cluster::down(&run, tested.is_err())?;
        tested.with_context(|| format!("the logs of the run are in {}", run.logs().display()))
    }

    fn test(&self, run: &Run) -> Result<()> {
        let stage = tokio::runtime::Runtime::new()?.block_on(Stage::set(run, Installer::Helm))?;
        Progress::default().say("running the tests of the bed");
        let cargo = |arguments: &[&str]| {
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.current_dir(workspace()).args(arguments);
            command.env("E2E_RUN", run.name()).env("KUBECONFIG", stage.cluster.kubeconfig());
            command
        };
        let filter = self.filter.as_deref().unwrap_or_default();
        // Two at a time: each has a proxy's pods and a browser, and there may be two cores only.
        let on_the_bed =
            cargo(&["test", "--package", "e2e", "--test", "bed", "--", "--test-threads=2", filter]).status()?;
        // The contract of the session stores, with the one that needs an API server.
        let needs_cluster =
            cargo(&["test", "--package", "mcp-oauth-operator", "--lib", "--", "--ignored", filter]).status()?;
        if on_the_bed.success() && needs_cluster.success() { Ok(()) } else { bail!("tests failed") }
    }
}
