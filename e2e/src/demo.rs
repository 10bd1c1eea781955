//! `make demo`: runs the main use case on real components and leaves it running.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;
use tokio::task::spawn_blocking;

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
    prepare::prepare,
    progress::{Progress, catch_interrupts, interrupted},
    run::{Name, Run},
    stage::{Front, NAMESPACE, Stage},
};

const NAME: &str = "mcp-oauth-proxy";

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the main use case and leave it running
    Up(Name),
    /// Stop the demo and remove everything it created
    Down(Name),
}

impl Args {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Up(name) => {
                catch_interrupts();
                let runtime = tokio::runtime::Runtime::new()?;
                let done = runtime.block_on(up(&name));
                // Do not wait for blocking tasks that were cancelled.
                runtime.shutdown_background();
                done
            }
            Action::Down(name) => Cluster::down(&name.open()?, false),
        }
    }
}

async fn up(name: &Name) -> Result<()> {
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
    let stage = Stage::set(run, Installer::Helm, "info").await?;
    let front = stage.front(NAME, |_| ()).await?;
    progress.say(format!("McpOAuthProxy {NAMESPACE}/{NAME} is ready at {}", front.url()));
    let logins = try_it(&stage, &front).await?;
    progress.say(match logins {
        0 => "the tool responded; mcp-remote used its stored tokens",
        _ => "mcp-remote logged in through the browser and the tool responded",
    });
    print(&stage, &front)
}

/// Logs in with mcp-remote through a real browser and calls a tool. Returns the number of logins.
async fn try_it(stage: &Stage, front: &Front) -> Result<usize> {
    let browser = Browser::start(&stage.run).await?;
    let person = Person { browser: &browser, email: MEMBERS[0] };
    let client = McpRemote::install(&stage.run, "demo").await?;
    let mut connection = client.connect(&front.url(), Some(person), &[]).await?;
    let answer = connection.call(TOOL, json!({"message": "hello from the demo"})).await?;
    let logins = connection.logins();
    drop(connection);
    browser.close().await?;
    println!("\n  {TOOL} responded to {}: {answer}", MEMBERS[0]);
    if answer.contains("hello from the demo") { Ok(logins) } else { bail!("unexpected response of the tool: {answer}") }
}

fn print(stage: &Stage, front: &Front) -> Result<()> {
    let (url, kubeconfig) = (front.url(), stage.cluster.kubeconfig());
    let authority = Certificates::of(&stage.run)?.authority();
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
        programs = stage.cluster.programs().display(),
        logs = stage.run.logs().display(),
    );
    Ok(())
}
