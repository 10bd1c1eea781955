//! Our own `login` command, in the host's network.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    process::Command,
    time::{interval, timeout},
};

use super::{
    browser_stub::CompletedProgram,
    installation::Installation,
    json_lines::{LIMIT, Program, User},
    mcp_remote::Connection,
};
use crate::{forward::operator_program, run::Run};

/// A `login` installation. Its folder keeps its state between starts.
#[derive(Clone, Debug)]
pub struct Login {
    installation: Installation,
}

impl Login {
    /// Creates an installation in its own folder.
    pub fn install(run: &Run, installation: &str) -> Result<Self> {
        Ok(Self { installation: Installation::create(run, &format!("login-{installation}"))? })
    }

    /// The folder with the stored logins.
    pub fn store(&self) -> PathBuf {
        self.installation.store()
    }

    /// The log, at trace level.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.installation.log)?)
    }

    /// The stored login of its only server.
    pub fn stored_login(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.file()?)?)?)
    }

    /// Replaces the stored login.
    pub fn store_login(&self, login: &Value) -> Result<()> {
        Ok(fs::write(self.file()?, login.to_string())?)
    }

    /// Runs the command for a server to completion. If it requests a login, `user` logs in; without a user that is an
    /// error.
    pub async fn run(&self, url: &str, user: Option<User<'_>>, options: &[&str]) -> Result<CompletedProgram> {
        self.installation.run(&mut self.command(url, options)?, user).await
    }

    /// Runs the command without a browser: the user opens the printed URL on another machine, where `port` is closed,
    /// and pastes the final URL.
    pub async fn run_with_pasted_url(&self, url: &str, user: User<'_>, port: u16) -> Result<CompletedProgram> {
        let mut program = self.start(url, &["--no-browser", "--port", &port.to_string()])?;
        let mut ticks = interval(Duration::from_millis(50));
        let login_url = timeout(LIMIT, async {
            loop {
                ticks.tick().await;
                if let Some(login_url) = self.log()?.lines().find_map(|line| line.strip_prefix("  https://")) {
                    return anyhow::Ok(format!("https://{login_url}"));
                }
            }
        });
        let final_page = user.log_in(&login_url.await.context("`login` printed no URL")??).await?;
        if final_page.status != 0 {
            bail!("the redirect reached a server at {}", final_page.url);
        }
        program.write_line("not a URL").await?;
        program.write_line(final_page.url.as_str()).await?;
        let output = program.read_line().await?.unwrap_or_default();
        Ok(CompletedProgram { code: program.finish().await?, output, logins: 1, final_pages: vec![final_page.text] })
    }

    /// Starts the command as an MCP server on standard input and output, and initializes the connection.
    pub async fn bridge<'a>(&self, url: &str, user: Option<User<'a>>) -> Result<Connection<'a>> {
        let program = self.start(url, &["--bridge"])?;
        Connection::initialize(program, self.installation.stub.clone(), user).await
    }

    fn start(&self, url: &str, options: &[&str]) -> Result<Program> {
        self.installation.start(&mut self.command(url, options)?)
    }

    fn command(&self, url: &str, options: &[&str]) -> Result<Command> {
        let mut command = Command::new(operator_program()?);
        command
            .args(["login", "--log", "trace", url, "--store"])
            .arg(self.store())
            .args(options)
            .env("SSL_CERT_FILE", &self.installation.authority);
        Ok(command)
    }

    fn file(&self) -> Result<PathBuf> {
        let files = fs::read_dir(self.store())?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let found = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "json"));
        found.with_context(|| format!("no login is stored in {}", self.store().display()))
    }
}
