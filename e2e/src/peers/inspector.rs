//! The MCP Inspector's command line, in the host's network.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{process::Command, task::spawn_blocking};

use super::{client_store, installation::Installation, json_lines::User, node::Node};
use crate::{forward::free_port, run::Run};

/// An Inspector installation. Its folder keeps its state between starts.
#[derive(Clone, Debug)]
pub struct Inspector {
    node: Node,
    installation: Installation,
    callback: String,
}

impl Inspector {
    /// Installs the Inspector in its own folder.
    pub async fn install(run: &Run, installation: &str) -> Result<Self> {
        let node = spawn_blocking(Node::with_clients).await??;
        let installation = Installation::create(run, &format!("inspector-{installation}"))?;
        // The default port 6276 may be in use by another run.
        let callback = format!("http://127.0.0.1:{}/oauth/callback", free_port()?);
        Ok(Self { node, installation, callback })
    }

    /// Calls a tool and returns its text and the number of logins. If a login is requested, `user` logs in; without a
    /// user that is an error.
    pub async fn call(&self, url: &str, user: Option<User<'_>>, tool: &str, argument: &str) -> Result<(String, usize)> {
        let mut command = Command::new(self.node.interpreter()?);
        command
            .arg(self.node.file("@modelcontextprotocol/inspector/clients/launcher/build/index.js"))
            .args(["--cli", url, "--transport", "http", "--method", "tools/call", "--tool-name", tool])
            .args(["--tool-arg", argument, "--callback-url", &self.callback, "--format", "json", "-q"])
            .env("HOME", &self.installation.folder)
            .env("MCP_STORAGE_DIR", self.installation.store())
            // Without a keychain, the Inspector would not store tokens.
            .env("MCP_INSPECTOR_SECRET_STORE", "file")
            // Without a terminal, the Inspector would not open a browser.
            .env("MCP_AUTO_OPEN_ENABLED", "true")
            .env("NODE_EXTRA_CA_CERTS", &self.installation.authority);
        let exit = self.installation.run(&mut command, user).await?;
        if exit.code != Some(0) {
            bail!(
                "the Inspector exited with {:?}: {} Its log: {}",
                exit.code,
                exit.output,
                self.installation.log.display()
            );
        }
        let response: Value = serde_json::from_str(exit.output.lines().next_back().unwrap_or_default())
            .with_context(|| format!("the Inspector's last line is not JSON: {}", exit.output))?;
        let text = response["result"]["content"][0]["text"].as_str();
        Ok((text.with_context(|| format!("unexpected result of {tool}: {response}"))?.to_owned(), exit.logins))
    }

    /// Replaces the stored access token by an invalid one, as if it had expired.
    pub fn invalidate_access_token(&self) -> Result<()> {
        client_store::edit(&self.installation.store().join("secrets.json"), |store| {
            let secrets = store["secrets"].as_object_mut().context("no secrets are stored")?;
            let tokens =
                secrets.iter_mut().find(|(name, _)| name.contains(":tokens:")).context("no tokens are stored")?.1;
            // The tokens are JSON in a JSON string.
            let mut inner: Value = serde_json::from_str(tokens.as_str().unwrap_or_default())?;
            client_store::invalidate_token(&mut inner, "access_token")?;
            *tokens = inner.to_string().into();
            Ok(())
        })
    }
}
