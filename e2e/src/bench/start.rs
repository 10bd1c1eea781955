//! P9: the time from process start to ready.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::time::sleep;

use crate::{forward::free_port, peers::http, program, run::Run};

const STARTS: usize = 15;

/// The milliseconds of each start, with existing keys and database. The issuer is unreachable, because a start does not
/// wait for it.
pub async fn measure_starts(run: &Run, binary: &Path) -> Result<Vec<f64>> {
    let folder = run.directory().join("start");
    fs::create_dir_all(&folder)?;
    program::output(Command::new(binary).arg("keys").arg(&folder))?;
    for (file, text) in [("OAUTH_CLIENT_ID", "bench"), ("OAUTH_CLIENT_SECRET", "bench")] {
        fs::write(folder.join(file), text)?;
    }
    let (listen, health) = (free_port()?, free_port()?);
    let configuration = json!({
        "publicURL": "https://mcp.example.com",
        "listen": format!("127.0.0.1:{listen}"),
        "healthListen": format!("127.0.0.1:{health}"),
        "identityProvider": {"issuerURL": "https://issuer.invalid"},
        "credentials": {"directory": folder},
        "signingKeys": folder.join("signing-keys.json"),
        "access": {"policy": "AnyUser"},
        "upstream": {"url": "http://127.0.0.1:9"},
        "sessions": {"store": {"type": "SQLite", "path": folder.join("sessions.db")}},
    });
    let file = folder.join("proxy.yaml");
    fs::write(&file, serde_yaml::to_string(&configuration)?)?;
    let mut milliseconds = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let mut command = Command::new(binary);
        command.args(["proxy", "--config"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = ChildGuard(command.spawn().context("cannot start the proxy")?);
        ready(&format!("http://127.0.0.1:{health}/readyz"), started).await?;
        milliseconds.push(started.elapsed().as_secs_f64() * 1000.0);
        process.0.kill()?;
        process.0.wait()?;
    }
    Ok(milliseconds)
}

/// Kills the process when dropped.
struct ChildGuard(Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn ready(url: &str, started: Instant) -> Result<()> {
    let client = http::client(None)?;
    while started.elapsed() < Duration::from_secs(10) {
        if client.get(url).send().await.is_ok_and(|response| response.status().is_success()) {
            return Ok(());
        }
        sleep(Duration::from_millis(1)).await;
    }
    bail!("{url} is not ready after 10 s")
}
