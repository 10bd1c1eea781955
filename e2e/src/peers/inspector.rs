//! The MCP Inspector's command line, on this machine's own network.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{process::Command, task::spawn_blocking};

use super::{browser_stub::BrowserStub, certificates::Certificates, json_lines::Person, node::Node, stored};
use crate::{forward::free_port, run::Run};

/// One computer's Inspector: what it knows of a server stays in its folder over starts.
#[derive(Clone, Debug)]
pub struct Inspector {
    node: Node,
    folder: PathBuf,
    stub: BrowserStub,
    log: PathBuf,
    authority: PathBuf,
    callback: String,
}

impl Inspector {
    /// Installs it for a computer of this name.
    pub async fn install(run: &Run, computer: &str) -> Result<Self> {
        let node = spawn_blocking(Node::with_clients).await??;
        let name = format!("inspector-{computer}");
        let folder = run.directory().join(&name);
        fs::create_dir_all(&folder)?;
        let stub = BrowserStub::install(&folder)?;
        // By itself it takes port 6276, which another run of this bed may hold.
        let callback = format!("http://127.0.0.1:{}/oauth/callback", free_port()?);
        Ok(Self { node, folder, stub, log: run.log(&name), authority: Certificates::of(run)?.authority(), callback })
    }

    /// Calls a tool; returns its text, and how many times a login was asked for. The person, if there is one, logs in then;
    /// else a wish to log in is an error.
    pub async fn call(
        &self,
        url: &str,
        person: Option<Person<'_>>,
        tool: &str,
        argument: &str,
    ) -> Result<(String, usize)> {
        let mut command = Command::new(self.node.interpreter()?);
        command
            .arg(self.node.file("@modelcontextprotocol/inspector/clients/launcher/build/index.js"))
            .args(["--cli", url, "--transport", "http", "--method", "tools/call", "--tool-name", tool])
            .args(["--tool-arg", argument, "--callback-url", &self.callback, "--format", "json", "-q"])
            .env("HOME", &self.folder)
            .env("MCP_STORAGE_DIR", self.store())
            // Without a keychain, as here, it would forget the tokens when it ends.
            .env("MCP_INSPECTOR_SECRET_STORE", "file")
            // It has no terminal, so it would not open a browser.
            .env("MCP_AUTO_OPEN_ENABLED", "true")
            .env("NODE_EXTRA_CA_CERTS", &self.authority);
        let ended = self.stub.run(&mut command, person, &self.log).await?;
        if ended.code != Some(0) {
            bail!("the Inspector ended with {:?}: {} Its log: {}", ended.code, ended.output, self.log.display());
        }
        let answer: Value = serde_json::from_str(ended.output.lines().next_back().unwrap_or_default())
            .with_context(|| format!("the Inspector's last line is not JSON: {}", ended.output))?;
        let text = answer["result"]["content"][0]["text"].as_str();
        Ok((text.with_context(|| format!("{tool} answered {answer}"))?.to_owned(), ended.logins))
    }

    /// Makes the access token that it keeps one that no server takes, as when it has expired.
    pub fn spoil_access_token(&self) -> Result<()> {
        stored::change(&self.store().join("secrets.json"), |store| {
            let secrets = store["secrets"].as_object_mut().context("it keeps no secrets")?;
            let tokens =
                secrets.iter_mut().find(|(name, _)| name.contains(":tokens:")).context("it keeps no tokens")?.1;
            // JSON inside of JSON.
            let mut inner: Value = serde_json::from_str(tokens.as_str().unwrap_or_default())?;
            stored::spoil(&mut inner, "access_token")?;
            *tokens = inner.to_string().into();
            Ok(())
        })
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }
}
