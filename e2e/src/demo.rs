//! `make demo`: the main job, end to end, on real parts, and then left running to try.

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::json;

use crate::{
    cluster::Cluster,
    operator::Installer,
    peers::{
        browser::Browser,
        certificates::Certificates,
        context_forge::{MEMBERS, TOOL},
        json_lines::Person,
        mcp_remote::McpRemote,
    },
    progress::{Progress, catch_interrupts},
    run::Name,
    stage::{Front, NAMESPACE, Stage},
};

/// The demo's proxy.
const NAME: &str = "mcp-oauth-proxy";

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show the main job, and leave everything running
    Up(Name),
    /// End all of it
    Down(Name),
}

impl Args {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Up(name) => {
                catch_interrupts();
                tokio::runtime::Runtime::new()?.block_on(up(&name))
            }
            Action::Down(name) => Cluster::down(&name.open()?, false),
        }
    }
}

async fn up(name: &Name) -> Result<()> {
    let progress = Progress::default();
    let stage = Stage::set(&name.open()?, Installer::Helm).await?;
    let front = stage.front(NAME, |_| ()).await?;
    progress.say(format!("McpOAuthProxy {NAMESPACE}/{NAME} is ready at {}", front.url()));
    try_it(&stage, &front).await?;
    progress.say("mcp-remote logged in through the browser and the tool answered");
    print(&stage, &front)
}

/// The whole login with the real mcp-remote and the real browser, and a call of the tool.
async fn try_it(stage: &Stage, front: &Front) -> Result<()> {
    let browser = Browser::start(&stage.run).await?;
    let person = Person { browser: &browser, email: MEMBERS[0] };
    let client = McpRemote::install(&stage.run, "demo").await?;
    let mut connection = client.connect(&front.url(), Some(person), &[]).await?;
    let answer = connection.call(TOOL, json!({"message": "hello from the demo"})).await?;
    drop(connection);
    browser.close().await?;
    println!("\n  {TOOL} answered {}: {answer}", MEMBERS[0]);
    if answer.contains("hello from the demo") { Ok(()) } else { bail!("the tool did not answer: {answer}") }
}

fn print(stage: &Stage, front: &Front) -> Result<()> {
    let (url, kubeconfig) = (front.url(), stage.cluster.kubeconfig());
    let authority = Certificates::of(&stage.run)?.authority();
    println!(
        "
It stays up. Try it:

  MCP endpoint   {url}
  log in as      alice@example.com, any password (mallory@evil.example and bob@example.com are refused)

  a client       NODE_EXTRA_CA_CERTS={authority} npx mcp-remote {url}
                 (the certificate is the demo's own: your browser warns once)

  kubectl        export KUBECONFIG={kubeconfig}
                 kubectl get mop,pods --namespace {NAMESPACE}
                 kubectl get mcpsessions --namespace {NAMESPACE}      # delete one: that client is logged out at once

  logs           {logs}
  the end        make demo-down",
        authority = authority.display(),
        kubeconfig = kubeconfig.display(),
        logs = stage.run.logs().display(),
    );
    Ok(())
}
