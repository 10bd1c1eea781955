//! `make demo`: runs the main use case on real components and leaves it running.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::{
    cluster::Cluster,
    environment::{DeployedProxy, Environment, NAMESPACE},
    operator::Installer,
    peers::{
        browser::Browser,
        certificates::Certificates,
        context_forge::{MEMBERS, TOOL},
        json_lines::User,
        mcp_remote::McpRemote,
    },
    prepare::prepare,
    progress::{Progress, catch_interrupts, interrupted},
    run::{Run, RunArg},
};

const NAME: &str = "mcp-oauth-proxy";

#[derive(Subcommand)]
pub enum Action {
    /// Run the main use case and leave it running
    Up(RunArg),
    /// Stop the demo and remove everything it created
    Down(RunArg),
}

impl Action {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Up(name) => {
                catch_interrupts();
                let runtime = tokio::runtime::Runtime::new()?;
                let done = runtime.block_on(up(&name));
                // Do not wait for blocking tasks that were cancelled.
                runtime.shutdown_background();
                done
            }
            Self::Down(name) => Cluster::down(&name.open()?, false),
        }
    }
}

async fn up(name: &RunArg) -> Result<()> {
    let run = name.open()?;
    let done = tokio::select! {
        done = show(&run) => done,
        error = interrupted() => Err(error),
    };
    done.with_context(|| {
        format!(
            "the demo is incomplete. Its components keep running: `make demo` continues, `make demo-down` removes them. Logs: {}",
            run.logs().display()
        )
    })
}

async fn show(run: &Run) -> Result<()> {
    let progress = Progress::default();
    spawn_blocking(move || prepare(&progress)).await??;
    let environment = Environment::start(run, Installer::Helm, "info").await?;
    let proxy = environment.deploy_proxy(NAME, |_| ()).await?;
    progress.print(format!("McpOAuthProxy {NAMESPACE}/{NAME} is ready at {}", proxy.url()));
    let logins = try_it(&environment, &proxy).await?;
    progress.print(match logins {
        0 => "the tool responded; mcp-remote used its stored tokens",
        _ => "mcp-remote logged in through the browser and the tool responded",
    });
    print(&environment, &proxy)
}

/// Logs in with mcp-remote through a real browser and calls a tool. Returns the number of logins.
async fn try_it(environment: &Environment, proxy: &DeployedProxy) -> Result<usize> {
    let browser = Browser::start(&environment.run).await?;
    let user = User { browser: &browser, email: MEMBERS[0] };
    let client = McpRemote::install(&environment.run, "demo").await?;
    let mut connection = client.connect(&proxy.url(), Some(user), &[]).await?;
    let response = connection.call(TOOL, json!({"message": "hello from the demo"})).await?;
    let logins = connection.logins();
    drop(connection);
    browser.close().await?;
    println!("\n  {TOOL} responded to {}: {response}", MEMBERS[0]);
    if response.contains("hello from the demo") {
        Ok(logins)
    } else {
        bail!("unexpected response of the tool: {response}")
    }
}

fn print(environment: &Environment, proxy: &DeployedProxy) -> Result<()> {
    let (url, kubeconfig) = (proxy.url(), environment.cluster.kubeconfig());
    let authority = Certificates::for_run(&environment.run)?.authority();
    println!(
        "
The demo keeps running. Try it:

  MCP endpoint   {url}
  log in as      alice@example.com, any password (mallory@evil.example and bob@example.com are refused)

  MCP client     NODE_EXTRA_CA_CERTS={authority} npx mcp-remote {url}
                 (the certificate is signed by the demo's own CA: your browser warns once)

  kubectl        export KUBECONFIG={kubeconfig} PATH={programs}:$PATH
                 kubectl get mop,pods --namespace {NAMESPACE}
                 kubectl get mcpsessions --namespace {NAMESPACE}      # deleting one logs that client out immediately

  logs           {logs}
  remove         make demo-down",
        authority = authority.display(),
        kubeconfig = kubeconfig.display(),
        programs = environment.cluster.programs().display(),
        logs = environment.run.logs().display(),
    );
    Ok(())
}
