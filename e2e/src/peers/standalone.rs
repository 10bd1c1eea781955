//! Our proxy as a plain process, without a cluster (docs/standalone.md).

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use super::{http, program};
use crate::{
    forward::{free_port, this_program},
    run::Run,
};

const NAME: &str = "proxy";
const CLIENT_ID: &str = "standalone";
const CLIENT_SECRET: &str = "standalone-secret";

/// What the proxy stands between.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a> {
    /// What clients connect to.
    pub public_url: &'a str,
    /// The provider.
    pub provider: &'a super::provider::Provider,
    /// Host and port of the MCP server.
    pub upstream: &'a str,
}

/// Starts the proxy; `listen` is its host and port. It logs all that it can, for what is said there is tested too.
pub async fn up(run: &Run, listen: &str, between: Between<'_>) -> Result<()> {
    let binary = this_program()?.with_file_name("mcp-oauth-operator");
    let folder = run.directory().join(NAME);
    let secrets = secrets(run);
    fs::create_dir_all(&secrets)?;
    program::output(Command::new(&binary).arg("keys").arg(&secrets))
        .context("is it built? cargo build --bin mcp-oauth-operator")?;
    fs::write(secrets.join("OAUTH_CLIENT_ID"), CLIENT_ID)?;
    fs::write(secrets.join("OAUTH_CLIENT_SECRET"), CLIENT_SECRET)?;
    between.provider.register(CLIENT_ID, CLIENT_SECRET, &[&format!("{}/callback", between.public_url)])?;
    let health = format!("127.0.0.1:{}", free_port()?);
    let configuration = json!({
        "publicURL": between.public_url,
        "listen": listen,
        "healthListen": health,
        "identityProvider": {"issuerURL": between.provider.issuer},
        "credentials": {"directory": secrets},
        "signingKeys": secrets.join("signing-keys.json"),
        "access": {"domains": ["example.com"]},
        "upstream": {"url": format!("http://{}", between.upstream), "paths": ["/mcp", "/servers/*/mcp"]},
        "sessions": {"store": {"type": "SQLite", "path": folder.join("sessions.db")}},
    });
    let file = folder.join("proxy.yaml");
    fs::write(&file, serde_yaml::to_string(&configuration)?)?;
    run.stop(NAME)?;
    run.spawn(NAME, run.command(binary).args(["proxy", "--log", "trace", "--config"]).arg(file))?;
    http::wait_until_ready(run, NAME, &format!("http://{health}/readyz"), Duration::from_secs(60)).await?;
    eprintln!("proxy         {} · log {}", between.public_url, run.log(NAME).display());
    Ok(())
}

/// What the proxy has logged.
///
/// # Errors
/// When there is no log.
pub fn log(run: &Run) -> Result<String> {
    Ok(fs::read_to_string(run.log(NAME))?)
}

/// The folder with the proxy's credentials and keys.
pub fn secrets(run: &Run) -> PathBuf {
    run.directory().join(NAME).join("secrets")
}

/// How many sessions the proxy's database has of clients of this name.
pub fn sessions_of(run: &Run, client: &str) -> Result<usize> {
    let script = "import sqlite3, sys; \
        print(sqlite3.connect(sys.argv[1]).execute(\
        \"SELECT count(*) FROM sessions WHERE json_extract(record, '$.client.name') = ?\", [sys.argv[2]]).fetchone()[0])";
    let database = run.directory().join(NAME).join("sessions.db");
    let counted = program::output(Command::new("python3").args(["-c", script]).arg(database).arg(client))?;
    Ok(counted.trim().parse()?)
}
