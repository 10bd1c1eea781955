//! `make bench`: what the proxy costs, beside nginx in the same run. Writes bench/RESULTS.md. Figures of a shared machine
//! move with its other work, so the CPU time of a process divided by its requests is quoted, and ratios of one run.

mod kill_switch;
mod kubernetes;
pub mod login;
mod logins;
mod measure;
mod paced;
pub mod soak;
mod start;
mod streams;
mod unseen;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    forward::free_port,
    image::{static_binary, workspace},
    peers::{http, program},
    progress::{Progress, catch_interrupts, stop_if_interrupted},
    run::Run,
};
use measure::{Figures, Load, Sample, Tokens, cpu_ticks, resident_kib, wrk};

/// Interleaved rounds, each of every contender.
const ROUNDS: usize = 5;

/// The one core of those who are measured; load and upstream have the other.
const MEASURED: &str = "0";
const OTHER: &str = "1";

#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> Result<()> {
        catch_interrupts();
        // Each stream is two connections, at the proxy and here.
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
        let run = Run::open(&format!("bench-{}", std::process::id()))?;
        let measured = tokio::runtime::Runtime::new()?.block_on(measure(&run));
        for (component, _) in run.components() {
            run.stop(&component)?;
        }
        let report = measured.with_context(|| format!("the logs of the run are in {}", run.logs().display()))?;
        fs::remove_dir_all(run.directory())?;
        let file = workspace().join("bench/RESULTS.md");
        fs::create_dir_all(workspace().join("bench"))?;
        fs::write(&file, &report)?;
        println!("{report}\nwritten to {}", file.display());
        Ok(())
    }
}

/// Who is measured.
struct Contender {
    name: &'static str,
    pid: i32,
    load: Load,
    samples: Vec<Sample>,
}

impl Contender {
    /// One round.
    fn measure(&mut self) -> Result<()> {
        stop_if_interrupted()?;
        let before = cpu_ticks(self.pid)?;
        let requests = wrk(OTHER, &self.load)?;
        self.samples.push(Sample::new(requests, cpu_ticks(self.pid)? - before));
        Ok(())
    }
}

async fn measure(run: &Run) -> Result<String> {
    let progress = Progress::default();
    let nginx = program::find("nginx", "nginx-light")?;
    program::find("wrk", "wrk")?;
    let (upstream, peer, ours) = (free_port()?, free_port()?, free_port()?);
    start_nginx(run, &nginx, "upstream", OTHER, &answering(upstream)).await?;
    let peer_pid = start_nginx(run, &nginx, "nginx", MEASURED, &forwarding(peer, upstream)).await?;
    progress.say("building the static binary that is shipped");
    let binary = static_binary("release")?;
    let proxy_pid = start_proxy(run, &binary, "proxy", ours, upstream).await?;
    let token = login::token(&format!("http://127.0.0.1:{ours}"), "bench@example.com").await?;
    let idle = resident_kib(proxy_pid)?;

    let contender = |name, pid, port, tokens: &Tokens| -> Result<Contender> {
        Ok(Contender { name, pid, load: Load::new(run, name, port, tokens)?, samples: Vec::new() })
    };
    let mut contenders = [
        contender("nginx", peer_pid, peer, &Tokens::None)?,
        contender("mcp-oauth-operator", proxy_pid, ours, &Tokens::One(token.clone()))?,
    ];
    for round in 1..=ROUNDS {
        for contender in &mut contenders {
            contender.measure()?;
        }
        progress.say(format!("round {round} of {ROUNDS}"));
    }
    let loaded = resident_kib(proxy_pid)?;

    let request = |authorization: &str| {
        let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}";
        format!(
            "POST /mcp HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{authorization}\r\n{body}",
            body.len()
        )
    };
    let with_token = request(&format!("Authorization: Bearer {token}\r\n"));
    let mut paced = Vec::new();
    for (name, port, request) in
        [("direct", upstream, request("")), ("nginx", peer, request("")), ("mcp-oauth-operator", ours, with_token)]
    {
        paced.push((name, paced::latency(port, request.as_bytes()).await?));
    }
    progress.say("latency at a steady rate");

    let (events, streaming) = (streams::upstream().await?, free_port()?);
    let streaming_pid = start_proxy(run, &binary, "streaming", streaming, events).await?;
    let of_streams = login::token(&format!("http://127.0.0.1:{streaming}"), "bench@example.com").await?;
    let late = [
        ("direct", streams::lateness(events, None).await?),
        ("mcp-oauth-operator", streams::lateness(streaming, Some(&of_streams)).await?),
    ];
    let idle_streams = streams::idle(streaming, &of_streams, streaming_pid).await?;
    run.stop("streaming")?;
    progress.say("streams");

    let (unseen, keys) = (run.directory().join("unseen"), run.directory().join("proxy/state/signing-keys.json"));
    let verification = unseen::write(&keys, &token, &unseen)?;
    let mut with_unseen = contender("unseen", proxy_pid, ours, &Tokens::EachAnother(unseen))?;
    for _ in 0..ROUNDS {
        with_unseen.measure()?;
    }
    progress.say("requests with tokens not seen before");
    let url = format!("http://127.0.0.1:{ours}");
    let logins = logins::logins(&url, proxy_pid).await?;
    let refreshes = logins::refreshes(&url, proxy_pid).await?;
    progress.say("logins and refreshes");
    let state = run.directory().join("proxy/state");
    let kubernetes = kubernetes::measure(run, &binary, &url, &state).await?;
    progress.say("logins and refreshes with sessions in Kubernetes");
    let starts = start::starts(run, &binary).await?;
    Ok(measure::report(&Figures {
        forwarding: contenders.map(|contender| (contender.name, contender.samples)).to_vec(),
        unseen: with_unseen.samples,
        verification,
        logins,
        refreshes,
        kubernetes,
        paced,
        late,
        idle_streams,
        starts,
        idle,
        loaded,
        binary: fs::metadata(&binary)?.len(),
    }))
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

/// An upstream that costs next to nothing: about 600 bytes of JSON.
fn answering(port: u16) -> String {
    let text = "x".repeat(540);
    format!(
        "server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"text\":\"{text}\"}}}}'; }} }}"
    )
}

/// nginx as one would put it before an MCP server: no buffering, connections kept.
fn forwarding(port: u16, upstream: u16) -> String {
    format!(
        "upstream mcp {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}\nserver {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; proxy_request_buffering off; }} }}"
    )
}

/// Our proxy as `dev` runs it: the request path is that of a cluster.
async fn start_proxy(run: &Run, binary: &PathBuf, name: &str, port: u16, upstream: u16) -> Result<i32> {
    let folder = run.directory().join(name);
    fs::create_dir_all(&folder)?;
    let resource = folder.join("proxy.yaml");
    fs::write(
        &resource,
        format!(
            "apiVersion: mcp.jomcgi.dev/v1alpha1\nkind: McpOAuthProxy\nmetadata: {{name: bench}}\nspec:\n  publicURL: https://mcp.example.com\n  identityProvider: {{issuerURL: https://accounts.google.com}}\n  credentials: {{secretRef: {{name: bench}}}}\n  access: {{policy: AnyUser}}\n  upstream: {{url: 'http://127.0.0.1:{upstream}', limits: {{streams: 100000, streamsPerUser: 100000}}}}\n"
        ),
    )?;
    let mut command = Command::new("taskset");
    command.args(["-c", MEASURED]).arg(binary).arg("dev").arg("--file").arg(resource);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--state"]).arg(folder.join("state"));
    let pid = run.spawn(name, &mut command)?;
    let ready = format!("http://127.0.0.1:{port}/.well-known/oauth-authorization-server");
    http::wait_until_ready(run, name, &ready, Duration::from_secs(10)).await?;
    Ok(pid)
}
