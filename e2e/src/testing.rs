//! `e2e test`: starts a test environment, runs the cluster tests, and removes the environment even if they fail.

use std::{fs, os::unix::process::CommandExt, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    cluster::Cluster,
    environment::Environment,
    image::workspace,
    operator::Installer,
    prepare::prepare_tests,
    progress::{Progress, catch_interrupts, stop_if_interrupted, wait_until},
    run::Run,
};

/// Several times the usual duration.
const LIMIT: Duration = Duration::from_secs(40 * 60);

#[derive(clap::Args)]
pub struct Args {
    /// Keep the environment after the tests, for debugging (remove it with e2e cluster down --run NAME).
    #[arg(long)]
    keep: bool,
    /// Run only tests whose name contains this.
    filter: Option<String>,
}

impl Args {
    pub fn run(self) -> Result<()> {
        catch_interrupts();
        Cluster::down_abandoned()?;
        let run = Run::open(&format!("test-{}", std::process::id()))?;
        let owner = run.take_ownership()?;
        let tested = self.test(&run).and_then(|()| stop_if_interrupted());
        if let (Err(_), Ok(cluster)) = (&tested, Cluster::attach(&run)) {
            cluster.save_state();
        }
        if self.keep {
            eprintln!("run {} keeps running; its logs are in {}", run.name(), run.logs().display());
            // Without an owner file, the run is not considered abandoned.
            return Ok(fs::remove_file(run.directory().join("owner"))?).and(tested);
        }
        // Keep the logs only after a failure.
        let removal = Cluster::down(&run, tested.is_err());
        drop(owner);
        if let (Err(_), Err(error)) = (&tested, &removal) {
            eprintln!("error: {error:#}");
        }
        tested.with_context(|| format!("the logs of the run are in {}", run.logs().display()))?;
        removal
    }

    fn test(&self, run: &Run) -> Result<()> {
        prepare_tests(&Progress::default())?;
        // Trace level, because tests check that logs contain no secrets.
        let environment =
            tokio::runtime::Runtime::new()?.block_on(Environment::start(run, Installer::Helm, "trace"))?;
        Progress::default().print("running the cluster tests");
        let cargo = |arguments: &[&str]| {
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.current_dir(workspace()).args(arguments);
            command.env("E2E_RUN", run.name()).env("KUBECONFIG", environment.cluster.kubeconfig());
            command
        };
        let filter = self.filter.as_deref().unwrap_or_default();
        // Two threads: each test has proxy pods and a browser, and the machine may have only two cores.
        let bed_tests_pass =
            tests_pass(&mut cargo(&["test", "--workspace", "--test", "bed", "--", "--test-threads=2", filter]))?;
        // The contract test of the session stores that needs an API server.
        let store_tests_pass = tests_pass(&mut cargo(&["test", "--workspace", "--lib", "--", "--ignored", filter]))?;
        if bed_tests_pass && store_tests_pass { Ok(()) } else { bail!("tests failed") }
    }
}

/// Whether the tests passed. A test run that hangs is killed, so that the logs are still collected.
fn tests_pass(command: &mut Command) -> Result<bool> {
    let mut child = command.process_group(0).spawn().context("cannot run cargo")?;
    let mut status = None;
    let waited = wait_until("the tests to finish", LIMIT, || {
        status = child.try_wait()?;
        Ok(status.is_some())
    });
    if let Err(error) = waited {
        if let Some(group) = Pid::from_raw(i32::try_from(child.id())?) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait()?;
        return Err(error);
    }
    Ok(status.is_some_and(|status| status.success()))
}
