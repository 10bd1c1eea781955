//! The `dev` command with the sample, in the host's network.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    forward::{free_port, operator_program},
    image::workspace,
};

/// Stops when dropped.
pub struct Dev {
    child: Child,
    /// The proxy's URL.
    pub url: String,
    health: mpsc::Receiver<String>,
}

impl Dev {
    /// Starts `dev` with this state folder. It may not serve yet when this returns.
    pub fn start(state: &Path) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut child = Command::new(operator_program()?)
            .args(["dev", "--upstream", "demo", "--listen", &listen, "--file"])
            .arg(workspace().join("config/samples/mcp-oauth-proxy.yaml"))
            .arg("--state")
            .arg(state)
            .stderr(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stderr.take().context("no standard error")?);
        let (sender, health) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                eprintln!("{line}");
                if let Some((health, _)) =
                    line.strip_prefix("health and metrics: ").and_then(|rest| rest.split_once("/readyz"))
                {
                    let _ = sender.send(health.to_owned());
                }
            }
        });
        Ok(Self { child, url: format!("http://{listen}"), health })
    }

    /// The URL of health and metrics, from the startup output.
    pub fn health(&self) -> Result<String> {
        self.health.recv_timeout(Duration::from_secs(60)).context("`dev` did not print the URL of its metrics")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
