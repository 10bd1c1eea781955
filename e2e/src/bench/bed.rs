//! The measured processes, their upstream and the login server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;
use serde_json::json;

use super::{
    cores::{LOAD_CORE, MEASURED_CORE},
    login, logins,
    measure::resident_kib,
};
use crate::{
    forward::free_port,
    image::{MALLOC_TUNABLES, static_binary},
    peers::http,
    program,
    progress::Progress,
    run::Run,
};

#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub pid: i32,
    pub port: u16,
}

/// nginx and the proxy in front of the same upstream, and a token.
pub struct Bed {
    pub binary: PathBuf,
    pub upstream: Process,
    pub nginx: Process,
    /// The proxy as released.
    pub proxy: Process,
    /// `dev`, whose login page issues tokens. The proxies use its keys, sessions and public URL.
    pub login: Process,
    pub token: String,
    /// The proxy's resident memory after its first request, in KiB.
    pub idle: u64,
}

impl Bed {
    pub async fn up(run: &Run, progress: &Progress) -> Result<Self> {
        let nginx = program::find("nginx", "nginx-light")?;
        program::find("wrk", "wrk")?;
        let (port, peer) = (free_port()?, free_port()?);
        let pid = start_nginx(run, &nginx, "upstream", LOAD_CORE, &answering(port)).await?;
        let upstream = Process { pid, port };
        let pid = start_nginx(run, &nginx, "nginx", MEASURED_CORE, &forwarding(peer, port)).await?;
        let nginx = Process { pid, port: peer };
        progress.print("building the released static binary");
        let binary = static_binary("release")?;
        let login = start_dev(run, &binary, "login", port).await?;
        let token = login::token(&url(login), "bench@example.com").await?;
        let proxy = start_proxy(run, &binary, "proxy", login, port).await?;
        http::client(None)?.post(format!("{}/mcp", url(proxy))).bearer_auth(&token).send().await?.error_for_status()?;
        let idle = resident_kib(proxy.pid)?;
        Ok(Self { binary, upstream, nginx, proxy, login, token, idle })
    }

    /// The folder with the keys and sessions of `dev`.
    pub fn state(run: &Run) -> PathBuf {
        run.directory().join("login/state")
    }
}

pub fn url(process: Process) -> String {
    format!("http://127.0.0.1:{}", process.port)
}

async fn start_nginx(run: &Run, nginx: &Path, name: &str, core: &str, server: &str) -> Result<i32> {
    let folder = run.directory().join(name);
    fs::create_dir_all(&folder)?;
    let health = free_port()?;
    let user = if rustix::process::getuid().is_root() { "user root root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let settings = format!(
        "daemon off;\nmaster_process off;\n{user}\npid {folder}/pid;\nerror_log stderr warn;\nevents {{ worker_connections 1024; }}\nhttp {{\naccess_log off;\nkeepalive_requests 100000000;\n{temporary}{server}\nserver {{ listen 127.0.0.1:{health}; return 200; }}\n}}\n",
        folder = folder.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, settings)?;
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(nginx).args(["-e", "stderr", "-c"]).arg(file);
    let pid = run.spawn(name, &mut command)?;
    http::wait_until_ready(run, name, &format!("http://127.0.0.1:{health}/"), Duration::from_secs(10)).await?;
    Ok(pid)
}

/// A minimal upstream: responds with about 600 bytes of JSON.
fn answering(port: u16) -> String {
    let text = "x".repeat(540);
    format!(
        "server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"text\":\"{text}\"}}}}'; }} }}"
    )
}

/// nginx configured for an MCP server: no buffering, keep-alive connections.
fn forwarding(port: u16, upstream: u16) -> String {
    format!(
        "upstream mcp {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}\nserver {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; proxy_request_buffering off; }} }}"
    )
}

/// Starts `dev` with its state in a folder with its name.
pub async fn start_dev(run: &Run, binary: &Path, name: &str, upstream: u16) -> Result<Process> {
    let folder = run.directory().join(name);
    fs::create_dir_all(&folder)?;
    let resource = folder.join("proxy.yaml");
    fs::write(
        &resource,
        format!(
            "apiVersion: mcp.jomcgi.dev/v1alpha1\nkind: McpOAuthProxy\nmetadata: {{name: bench}}\nspec:\n  publicURL: https://mcp.example.com\n  identityProvider: {{issuerURL: https://accounts.google.com}}\n  credentials: {{secretRef: {{name: bench}}}}\n  access: {{policy: AnyUser}}\n  upstream: {{url: 'http://127.0.0.1:{upstream}', limits: {{streams: 100000, streamsPerUser: 100000}}}}\n"
        ),
    )?;
    let port = free_port()?;
    let mut command = Command::new("taskset");
    command.args(["-c", MEASURED_CORE]).arg(binary).arg("dev").arg("--file").arg(resource);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--state"]).arg(folder.join("state"));
    let process = Process { pid: run.spawn(name, &mut command)?, port };
    let ready = format!("{}/.well-known/oauth-authorization-server", url(process));
    http::wait_until_ready(run, name, &ready, Duration::from_secs(10)).await?;
    Ok(process)
}

/// Starts the proxy as released, with the public URL and keys of `login`, and the sessions that exist at this time.
pub async fn start_proxy(run: &Run, binary: &Path, name: &str, login: Process, upstream: u16) -> Result<Process> {
    let state = Bed::state(run);
    let (port, health) = (free_port()?, free_port()?);
    let configuration = json!({
        "publicURL": url(login),
        "listen": format!("127.0.0.1:{port}"),
        "healthListen": format!("127.0.0.1:{health}"),
        "identityProvider": {"issuerURL": logins::issuer(&url(login)).await?},
        "credentials": {"directory": state},
        "signingKeys": state.join("signing-keys.json"),
        "access": {"policy": "AnyUser"},
        "upstream": {
            "url": format!("http://127.0.0.1:{upstream}"),
            "limits": {"streams": 100_000, "streamsPerUser": 100_000},
        },
        "sessions": {"store": {"type": "SQLite", "path": state.join("sessions.db")}},
    });
    let file = run.directory().join(format!("{name}.yaml"));
    fs::write(&file, serde_yaml::to_string(&configuration)?)?;
    let mut command = Command::new("taskset");
    command.args(["-c", MEASURED_CORE]).arg(binary).args(["proxy", "--config"]).arg(&file);
    let process = Process { pid: run.spawn(name, command.env(MALLOC_TUNABLES.0, MALLOC_TUNABLES.1))?, port };
    http::wait_until_ready(run, name, &format!("http://127.0.0.1:{health}/readyz"), Duration::from_secs(10)).await?;
    Ok(process)
}
