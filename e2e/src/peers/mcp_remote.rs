//! `mcp-remote`, which bridges a remote MCP server to standard input and output for desktop clients. Runs in the host's
//! network.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    task::spawn_blocking,
    time::{interval, timeout},
};

use super::{
    browser_stub::BrowserStub,
    client_store,
    installation::Installation,
    json_lines::{LIMIT, Program, User},
    node::Node,
};
use crate::{forward::free_port, run::Run};

/// An `mcp-remote` installation. Its folder keeps its state between starts.
#[derive(Clone, Debug)]
pub struct McpRemote {
    node: Node,
    installation: Installation,
    /// The port of its callback. By default it chooses an ephemeral port; if that is in use at a later start, it
    /// registers again and requests a login.
    port: u16,
}

impl McpRemote {
    /// Installs mcp-remote in its own folder.
    pub async fn install(run: &Run, installation: &str) -> Result<Self> {
        let node = spawn_blocking(Node::install).await??;
        let installation = Installation::create(run, &format!("mcp-remote-{installation}"))?;
        Ok(Self { node, installation, port: free_port()? })
    }

    /// The folder where it stores client, tokens and code verifier.
    pub fn store(&self) -> PathBuf {
        self.installation.store()
    }

    /// Replaces all stored access tokens by invalid ones, as if they had expired.
    pub fn invalidate_access_tokens(&self) -> Result<()> {
        let folder = self.store().join("mcp-remote-v1");
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let file = entry?.path();
            if file.to_string_lossy().ends_with("_tokens.json") {
                client_store::edit(&file, |tokens| client_store::invalidate_token(tokens, "access_token"))?;
            }
        }
        Ok(())
    }

    /// Starts mcp-remote for a server and initializes the MCP connection. If it requests a login, `user` logs in;
    /// without a user that is an error. `options` are passed to it unchanged.
    pub async fn connect<'a>(&self, url: &str, user: Option<User<'a>>, options: &[&str]) -> Result<Connection<'a>> {
        let mut command = Command::new(self.node.interpreter()?);
        command
            .arg(self.node.file("mcp-remote/dist/proxy.js"))
            .args([url, &self.port.to_string()])
            // Longer than our timeout, so that our error message is reported.
            .args(["--auth-timeout", "120"])
            .args(options)
            .env("HOME", &self.installation.folder)
            .env("MCP_REMOTE_CONFIG_DIR", self.store())
            .env("NODE_EXTRA_CA_CERTS", &self.installation.authority);
        let program = self.installation.start(&mut command)?;
        Connection::initialize(program, self.installation.stub.clone(), user).await
    }
}

/// An MCP connection through a running program, which is killed when this is dropped.
#[derive(Debug)]
pub struct Connection<'a> {
    program: Program,
    stub: BrowserStub,
    user: Option<User<'a>>,
    logins: usize,
    requests: u32,
}

impl<'a> Connection<'a> {
    /// Sends `initialize`. If the program requests a login, `user` logs in; without a user that is an error.
    pub(super) async fn initialize(program: Program, stub: BrowserStub, user: Option<User<'a>>) -> Result<Self> {
        let mut connection = Self { program, stub, user, logins: 0, requests: 0 };
        let client = json!({"name": "e2e", "version": "1"});
        let parameters = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        connection.request("initialize", parameters).await?;
        connection
            .program
            .write_line(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string())
            .await?;
        Ok(connection)
    }

    /// Closes the program's input and waits for its exit. Returns whether it succeeded.
    pub async fn finish(self) -> Result<bool> {
        Ok(self.program.finish().await? == Some(0))
    }

    /// The number of logins so far.
    pub fn logins(&self) -> usize {
        self.logins
    }

    pub async fn tools(&mut self) -> Result<Vec<String>> {
        let result = self.request("tools/list", json!({})).await?;
        let tools = result["tools"].as_array().context("the result has no tools")?;
        Ok(tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect())
    }

    pub async fn call(&mut self, tool: &str, arguments: Value) -> Result<String> {
        let result = self.request("tools/call", json!({"name": tool, "arguments": arguments})).await?;
        let text =
            result["content"][0]["text"].as_str().with_context(|| format!("unexpected result of {tool}: {result}"))?;
        if result["isError"] == json!(true) {
            bail!("{tool} failed: {text}");
        }
        Ok(text.to_owned())
    }

    pub async fn request(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.requests += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.requests, "method": method, "params": parameters});
        self.program.write_line(&request.to_string()).await?;
        let id = self.requests;
        timeout(LIMIT, self.receive_response(id, method)).await.with_context(|| self.program.timeout_error())?
    }

    async fn receive_response(&mut self, id: u32, method: &str) -> Result<Value> {
        let mut ticks = interval(Duration::from_millis(50));
        loop {
            // Both branches are cancel-safe: reading a line keeps what it has read.
            tokio::select! {
                message = self.program.read_json() => {
                    let mut message = message?;
                    if message["id"] != json!(id) || message.get("method").is_some() {
                        continue;
                    }
                    if let Some(error) = message.get("error") {
                        bail!("{method} failed: {error}");
                    }
                    return Ok(message["result"].take());
                }
                _ = ticks.tick() => (),
            }
            self.log_in_if_requested().await?;
        }
    }

    async fn log_in_if_requested(&mut self) -> Result<()> {
        for url in self.stub.requested_urls()?.into_iter().skip(self.logins) {
            let Some(user) = self.user else { bail!("the program requested a login at {url}") };
            self.logins += 1;
            user.log_in(&url).await?;
        }
        Ok(())
    }
}
