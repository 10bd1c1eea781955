//! Claude Code's `claude mcp` in the host's network: adds a server, logs in, and reports whether the server is usable.
//! Tool calls need the model, so they are not tested.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};
use tokio::{process::Command, task::spawn_blocking};

use super::{browser_stub::CompletedProgram, client_store, installation::Installation, json_lines::User, node::Node};
use crate::{program, run::Run};

/// The server's name in Claude Code.
const SERVER: &str = "e2e";

/// A Claude Code installation. Its folder keeps its state between starts.
#[derive(Clone, Debug)]
pub struct ClaudeCode {
    program: PathBuf,
    script: PathBuf,
    installation: Installation,
}

impl ClaudeCode {
    /// Installs Claude Code in its own folder.
    pub async fn install(run: &Run, installation: &str) -> Result<Self> {
        let program = spawn_blocking(Node::with_clients).await??.native("@anthropic-ai/claude-code-linux", "claude")?;
        let script = program::find("script", "bsdutils")?;
        let installation = Installation::create(run, &format!("claude-code-{installation}"))?;
        Ok(Self { program, script, installation })
    }

    /// `claude mcp add`
    pub async fn add(&self, url: &str) -> Result<()> {
        let mut command = self.command(&self.program);
        command.args(["mcp", "add", "--scope", "user", "--transport", "http", SERVER, url]);
        done(self.installation.run(&mut command, None).await?).map(drop)
    }

    /// `claude mcp list`: whether the server is connected (otherwise it needs a login).
    pub async fn is_connected(&self) -> Result<bool> {
        let mut command = self.command(&self.program);
        command.args(["mcp", "list"]);
        let list = done(self.installation.run(&mut command, None).await?)?.output;
        let begin = format!("{SERVER}: ");
        let line = list.lines().find(|line| line.starts_with(&begin)).unwrap_or_default();
        match line.rsplit_once(" - ").map(|(_, state)| state.trim()) {
            Some(state) if state.ends_with("Connected") => Ok(true),
            Some(state) if state.ends_with("Needs authentication") => Ok(false),
            _ => bail!("unexpected output of claude mcp list: {list}"),
        }
    }

    /// `claude mcp login`. Returns the number of logins.
    pub async fn log_in(&self, user: User<'_>) -> Result<usize> {
        // The command requires a terminal.
        let mut command = self.command(&self.script);
        command.args(["-qefc", "exec \"$CLAUDE\" mcp login \"$SERVER\"", "/dev/null"]);
        command.env("CLAUDE", &self.program).env("SERVER", SERVER);
        Ok(done(self.installation.run(&mut command, Some(user)).await?)?.logins)
    }

    /// Replaces the stored access token by an invalid one, as if it had expired.
    pub fn invalidate_access_token(&self) -> Result<()> {
        client_store::edit(&self.configuration().join(".credentials.json"), |credentials| {
            let servers = credentials["mcpOAuth"].as_object_mut().context("no logins are stored")?;
            let tokens = servers.values_mut().next().context("no login is stored")?;
            client_store::invalidate_token(tokens, "accessToken")
        })
    }

    fn configuration(&self) -> PathBuf {
        self.installation.folder.join("claude")
    }

    fn command(&self, program: &PathBuf) -> Command {
        let mut command = Command::new(program);
        command
            // Isolated from the environment and settings of a developer who uses Claude Code.
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm")
            .env("HOME", &self.installation.folder)
            .env("CLAUDE_CONFIG_DIR", self.configuration())
            .env("DISABLE_AUTOUPDATER", "1")
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("NODE_EXTRA_CA_CERTS", &self.installation.authority)
            .current_dir(&self.installation.folder);
        command
    }
}

fn done(exit: CompletedProgram) -> Result<CompletedProgram> {
    if exit.succeeded() { Ok(exit) } else { bail!("claude exited with {:?}: {}", exit.code, exit.output) }
}
