//! What a shared machine does beside, kept out of latencies: for all who are measured alike.

use std::process::{self, Command};

use anyhow::{Context, Result};

use super::cores::{LOAD_CORE, MEASURED_CORE};
use crate::{program, run::Run};

/// What keeps a core awake.
const AWAKE: [(&str, &str); 2] = [(MEASURED_CORE, "awake-0"), (LOAD_CORE, "awake-1")];

/// Measures what these processes and this one do before all else.
pub async fn undisturbed<T>(run: &Run, pids: &[i32], measured: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let pids = [pids, &[process::id().cast_signed()]].concat();
    // What else the machine does takes more than 1 of 100 moments, and would be all of p99.
    schedule(&pids, "--fifo", "1").context("latencies are measured as root: what is measured goes before all else")?;
    // A core of a virtual machine that has gone to sleep is woken when its host finds the time, which is no proxy's doing. What
    // gives way to everything keeps it awake.
    for (core, name) in AWAKE {
        let mut command = Command::new("chrt");
        run.spawn(name, command.args(["--idle", "0", "taskset", "-c", core, "sh", "-c", "while :; do :; done"]))?;
    }
    let measured = measured().await;
    AWAKE.iter().try_for_each(|(_, name)| run.stop(name))?;
    schedule(&pids, "--other", "0")?;
    measured
}

/// Sets the policy and priority (sched(7)) of all threads of some processes.
fn schedule(pids: &[i32], policy: &str, priority: &str) -> Result<()> {
    for pid in pids {
        let mut command = Command::new("chrt");
        program::output(command.args(["--all-tasks", policy, "--pid", priority, &pid.to_string()]))?;
    }
    Ok(())
}
