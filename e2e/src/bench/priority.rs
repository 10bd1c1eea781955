//! Reduces the influence of the machine's other load on latencies, for all contenders alike.

use std::process::{self, Command};

use anyhow::{Context, Result};

use super::cores::{LOAD_CORE, MEASURED_CORE};
use crate::{program, run::Run};

/// The core and component name of each busy loop.
const BUSY_LOOPS: [(&str, &str); 2] = [(MEASURED_CORE, "awake-0"), (LOAD_CORE, "awake-1")];

/// Runs the measurement with real-time priority for these processes and this one.
pub async fn with_realtime_priority<T>(
    run: &Run,
    pids: &[i32],
    measurement: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let pids = [pids, &[process::id().cast_signed()]].concat();
    // Other load takes more than 1 % of the time, and would dominate p99.
    schedule(&pids, "--fifo", "1").context("latency benchmarks need root for real-time priority")?;
    // The host wakes a sleeping core of a virtual machine late, which would be measured. Busy loops with idle priority
    // keep the cores awake.
    for (core, name) in BUSY_LOOPS {
        let mut command = Command::new("chrt");
        run.spawn(name, command.args(["--idle", "0", "taskset", "-c", core, "sh", "-c", "while :; do :; done"]))?;
    }
    let measurement = measurement().await;
    BUSY_LOOPS.iter().try_for_each(|(_, name)| run.stop(name))?;
    schedule(&pids, "--other", "0")?;
    measurement
}

/// Sets the scheduling policy and priority (sched(7)) of all threads of the processes.
fn schedule(pids: &[i32], policy: &str, priority: &str) -> Result<()> {
    for pid in pids {
        let mut command = Command::new("chrt");
        program::output(command.args(["--all-tasks", policy, "--pid", priority, &pid.to_string()]))?;
    }
    Ok(())
}
