//! `dev`, as a person starts it: the sample served on this machine's own network.

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
    forward::{free_port, this_program},
    image::workspace,
};

/// Ends with its value.
pub struct Dev {
    child: Child,
    /// Where it serves.
    pub url: String,
    health: mpsc::Receiver<String>,
}

impl Dev {
    /// Starts it with its logins and keys in a folder. It need not serve yet.
    pub fn start(state: &Path) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut child = Command::new(this_program()?.with_file_name("mcp-oauth-operator"))
            .args(["dev", "--upstream", "demo", "--listen", &listen, "--file"])
            .arg(workspace().join("config/samples/mcp-oauth-proxy.yaml"))
            .arg("--state")
            .arg(state)
            .stderr(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(child.stderr.take().context("it has no standard error")?);
        let (sender, health) = mpsc::channel();
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
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

    /// Where its health and metrics are, as it says itself once the ports are open.
    ///
    /// # Errors
    /// When it does not say so.
    pub fn health(&self) -> Result<String> {
        self.health.recv_timeout(Duration::from_secs(60)).context("it does not say where its metrics are")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
