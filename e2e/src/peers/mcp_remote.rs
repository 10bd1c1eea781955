//! `mcp-remote`: the program that gives desktop clients a remote MCP server as one on standard input and output. Runs on
//! this machine's own network, like the person whose computer it is on.

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
    certificates::Certificates,
    json_lines::{LIMIT, Person, Program},
    node::Node,
    stored,
};
use crate::{forward::free_port, run::Run};

/// One computer's `mcp-remote`: what it knows of a server stays in its folder over starts.
#[derive(Clone, Debug)]
pub struct McpRemote {
    node: Node,
    folder: PathBuf,
    stub: BrowserStub,
    log: PathBuf,
    authority: PathBuf,
    /// Where it listens for answers. One of its own choice is among those of outgoing connections: if it is taken when it starts
    /// again, it chooses another, registers anew and asks for a login.
    port: u16,
}

impl McpRemote {
    /// Installs it for a computer of this name.
    pub async fn install(run: &Run, computer: &str) -> Result<Self> {
        let node = spawn_blocking(Node::install).await??;
        let folder = run.directory().join(format!("mcp-remote-{computer}"));
        fs::create_dir_all(&folder)?;
        let stub = BrowserStub::install(&folder)?;
        let log = run.log(&format!("mcp-remote-{computer}"));
        Ok(Self { node, folder, stub, log, authority: Certificates::of(run)?.authority(), port: free_port()? })
    }

    /// Where it keeps what it was given: client, tokens, code verifier.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Makes each access token that it keeps one that no server takes, as when it has expired.
    pub fn spoil_access_tokens(&self) -> Result<()> {
        let folder = self.store().join("mcp-remote-v1");
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let file = entry?.path();
            if file.to_string_lossy().ends_with("_tokens.json") {
                stored::change(&file, |tokens| stored::spoil(tokens, "access_token"))?;
            }
        }
        Ok(())
    }

    /// Starts it for a server and initializes the MCP connection. The person, if there is one, logs in when asked; else
    /// a wish to log in is an error. `options` are given to it as they are.
    pub async fn connect<'a>(&self, url: &str, person: Option<Person<'a>>, options: &[&str]) -> Result<Connection<'a>> {
        let mut command = Command::new(self.node.interpreter()?);
        command
            .arg(self.node.file("mcp-remote/dist/proxy.js"))
            .args([url, &self.port.to_string()])
            // Longer than we wait, so that the one who gives up is the one who says why.
            .args(["--auth-timeout", "120"])
            .args(options)
            .env("HOME", &self.folder)
            .env("MCP_REMOTE_CONFIG_DIR", self.store())
            .env("NODE_EXTRA_CA_CERTS", &self.authority);
        let program = Program::start(self.stub.of(&mut command)?, &self.log)?;
        Connection::initialize(program, self.stub.clone(), person).await
    }
}

/// An MCP connection through a running program, which ends with this.
#[derive(Debug)]
pub struct Connection<'a> {
    program: Program,
    stub: BrowserStub,
    person: Option<Person<'a>>,
    logins: usize,
    requests: u32,
}

impl<'a> Connection<'a> {
    /// Says hello. The person, if there is one, logs in when asked; else a wish to log in is an error.
    pub(super) async fn initialize(program: Program, stub: BrowserStub, person: Option<Person<'a>>) -> Result<Self> {
        let mut connection = Self { program, stub, person, logins: 0, requests: 0 };
        let client = json!({"name": "e2e", "version": "1"});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        connection.request("initialize", hello).await?;
        connection.program.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()).await?;
        Ok(connection)
    }

    /// Ends the program's input, and waits until it has ended itself. Says whether with success.
    pub async fn end(self) -> Result<bool> {
        Ok(self.program.end().await? == Some(0))
    }

    /// How many times a login was asked for.
    pub fn logins(&self) -> usize {
        self.logins
    }

    /// The names of the tools.
    pub async fn tools(&mut self) -> Result<Vec<String>> {
        let result = self.request("tools/list", json!({})).await?;
        let tools = result["tools"].as_array().context("the result has no tools")?;
        Ok(tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect())
    }

    /// Calls a tool and returns its text.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Result<String> {
        let result = self.request("tools/call", json!({"name": tool, "arguments": arguments})).await?;
        let text = result["content"][0]["text"].as_str().with_context(|| format!("{tool} answered {result}"))?;
        if result["isError"] == json!(true) {
            bail!("{tool} failed: {text}");
        }
        Ok(text.to_owned())
    }

    /// Sends a JSON-RPC request and returns its result.
    pub async fn request(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.requests += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.requests, "method": method, "params": parameters});
        self.program.say(&request.to_string()).await?;
        let id = self.requests;
        timeout(LIMIT, self.answer(id, method)).await.with_context(|| self.program.silent())?
    }

    async fn answer(&mut self, id: u32, method: &str) -> Result<Value> {
        let mut look = interval(Duration::from_millis(50));
        loop {
            // Both branches may be dropped halfway: reading a line keeps what it has read.
            tokio::select! {
                message = self.program.hear() => {
                    let mut message = message?;
                    if message["id"] != json!(id) || message.get("method").is_some() {
                        continue;
                    }
                    if let Some(error) = message.get("error") {
                        bail!("{method} was answered with the error {error}");
                    }
                    return Ok(message["result"].take());
                }
                _ = look.tick() => (),
            }
            self.log_in_if_asked().await?;
        }
    }

    async fn log_in_if_asked(&mut self) -> Result<()> {
        for url in self.stub.asked()?.into_iter().skip(self.logins) {
            let Some(person) = self.person else { bail!("the program asks for a login at {url}") };
            self.logins += 1;
            person.log_in(&url).await?;
        }
        Ok(())
    }
}
