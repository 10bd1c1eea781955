//! The MCP project's conformance suite: the scenarios for authorization servers and for MCP servers.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{certificates::Certificates, http, json_lines::User, node::Node};
use crate::{forward::free_port, progress::tail, run::Run};

/// The checks of both scenarios. The third, client ID metadata documents, only warns.
const CHECKS: [&str; 2] = ["authorization-server-metadata", "authorization-code-grant"];

/// The results of the authorization scenarios.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The suite's output.
    pub report: String,
    /// The checks of all scenarios, from the suite's JSON files.
    pub checks: Vec<Value>,
}

impl Verdict {
    /// Fails unless all expected checks ran and none failed.
    pub fn check(&self) -> Result<()> {
        let failures = self.with_status("FAILURE");
        let ran = |id: &str| self.with_status("SUCCESS").iter().any(|check| check["id"] == json!(id));
        let missing: Vec<_> = CHECKS.iter().filter(|id| !ran(id)).collect();
        if failures.is_empty() && missing.is_empty() {
            return Ok(());
        }
        bail!("failed: {failures:?}, not run: {missing:?}: {}", self.report)
    }

    /// The checks with a status such as `SUCCESS`, `FAILURE` or `WARNING`.
    pub fn with_status(&self, status: &str) -> Vec<&Value> {
        self.checks.iter().filter(|check| check["status"] == json!(status)).collect()
    }
}

/// Runs all authorization scenarios against the authorization server at `url`, for one of its resources. `user` logs
/// in.
pub async fn authorization(run: &Run, url: &str, resource: &str, user: User<'_>) -> Result<Verdict> {
    let node = spawn_blocking(Node::with_clients).await??;
    let port = free_port()?;
    let authority = Certificates::for_run(run)?.authority();
    let client = register(url, port, &authority).await?;
    let folder = run.directory().join("conformance");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let log = run.log("conformance");
    let mut suite = suite(&node, &folder, &log)?;
    suite.args(["authorization", "--url", url, "--client-id", &client, "--resource", resource]);
    suite.args(["-p", &port.to_string(), "-o"]).arg(&folder).env("NODE_EXTRA_CA_CERTS", &authority);
    let mut child = suite.spawn().context("cannot start the conformance suite")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let begin = format!("{url}/authorize");
    let login_url = loop {
        let text = fs::read_to_string(&log)?;
        if let Some(found) = text.lines().map(str::trim).find(|line| line.starts_with(&begin)) {
            break found.to_owned();
        }
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            bail!("the conformance suite requested no login. Its log {}:{}", log.display(), tail(&log));
        }
        sleep(Duration::from_millis(100)).await;
    };
    user.browser.login(&login_url, user.email).await?;
    let exit =
        timeout(Duration::from_secs(120), child.wait()).await.context("the conformance suite did not exit")??;
    if !exit.success() {
        bail!("the conformance suite exited with {exit}. Its log {}:{}", log.display(), tail(&log));
    }
    Ok(Verdict { report: fs::read_to_string(&log)?, checks: checks(&folder)? })
}

/// Name and status of each check, in order, by scenario.
pub type Scenarios = BTreeMap<String, Vec<(String, String)>>;

/// Runs all server scenarios of a specification revision against the MCP server at `url`. The suite cannot send a
/// token, so the server must not require one. The results stay in a folder with this name.
pub async fn server(run: &Run, name: &str, url: &str, revision: &str) -> Result<Scenarios> {
    let node = spawn_blocking(Node::with_clients).await??;
    let component = format!("conformance-{name}-{revision}");
    let folder = run.directory().join(&component);
    fs::create_dir_all(&folder)?;
    let log = run.log(&component);
    let mut suite = suite(&node, &folder, &log)?;
    suite.args(["server", "--url", url, "--requirements", revision, "-o"]).arg(&folder);
    let mut child = suite.spawn().context("cannot start the conformance suite")?;
    // The exit status depends on every scenario; the caller compares them one by one.
    timeout(Duration::from_secs(300), child.wait()).await.context("the conformance suite did not exit")??;
    let mut scenarios = Scenarios::new();
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let text = |check: &Value, member: &str| check[member].as_str().unwrap_or_default().to_owned();
        let found = checks(&entry.path())?;
        let results = found.iter().map(|check| (text(check, "id"), text(check, "status"))).collect();
        scenarios.insert(scenario(&entry.file_name().to_string_lossy()), results);
    }
    if scenarios.is_empty() {
        bail!("the conformance suite ran no scenario. Its log {}:{}", log.display(), tail(&log));
    }
    Ok(scenarios)
}

/// The suite's command without arguments, in its own folder.
fn suite(node: &Node, folder: &Path, log: &Path) -> Result<Command> {
    let file = fs::File::create(log)?;
    let mut command = Command::new(node.interpreter()?);
    command.arg(node.file("@modelcontextprotocol/conformance/dist/index.js")).current_dir(folder);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
    Ok(command)
}

/// The scenario's name, from a folder such as `server-tools-list-2026-11-25T04-21-12-914Z`.
fn scenario(folder: &str) -> String {
    const TIME: usize = "-2026-11-25T04-21-12-914Z".len();
    let name = folder.strip_prefix("server-").unwrap_or(folder);
    name.get(..name.len().saturating_sub(TIME)).unwrap_or(name).to_owned()
}

async fn register(url: &str, port: u16, authority: &Path) -> Result<String> {
    let registration = json!({
        "client_name": "conformance",
        "redirect_uris": [format!("http://127.0.0.1:{port}/callback")],
        "token_endpoint_auth_method": "none",
    });
    let trusted = url.starts_with("https:").then_some(authority);
    let response = http::client(trusted)?.post(format!("{url}/register")).json(&registration).send().await?;
    let response: Value = response.error_for_status()?.json().await?;
    Ok(response["client_id"].as_str().context("the registration has no client_id")?.to_owned())
}

/// The checks in all `checks.json` files below the folder.
fn checks(folder: &Path) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(checks(&path)?);
        } else if path.file_name().is_some_and(|name| name == "checks.json") {
            found.extend(serde_json::from_slice::<Vec<Value>>(&fs::read(path)?)?);
        }
    }
    Ok(found)
}
