//! Our own `login` command, in the host's network.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    process::Command,
    time::{interval, timeout},
};

use super::{
    browser_stub::{BrowserStub, Ended},
    certificates::Certificates,
    json_lines::{LIMIT, Person, Program},
    mcp_remote::Connection,
};
use crate::{forward::this_program, run::Run};

/// A `login` installation. Its folder keeps its state between starts.
#[derive(Clone, Debug)]
pub struct Login {
    folder: PathBuf,
    stub: BrowserStub,
    log: PathBuf,
    authority: PathBuf,
}

impl Login {
    /// Creates an installation in its own folder.
    pub fn install(run: &Run, computer: &str) -> Result<Self> {
        let folder = run.directory().join(format!("login-{computer}"));
        fs::create_dir_all(&folder)?;
        let (stub, log) = (BrowserStub::install(&folder)?, run.log(&format!("login-{computer}")));
        Ok(Self { folder, stub, log, authority: Certificates::of(run)?.authority() })
    }

    /// The folder with the stored logins.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// The log, at trace level.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// The stored login of its only server.
    pub fn kept(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.file()?)?)?)
    }

    /// Replaces the stored login.
    pub fn keep(&self, login: &Value) -> Result<()> {
        Ok(fs::write(self.file()?, login.to_string())?)
    }

    /// Runs the command for a server to completion. If it requests a login, `user` logs in; without a user that is an
    /// error.
    pub async fn run(&self, url: &str, person: Option<Person<'_>>, options: &[&str]) -> Result<Ended> {
        self.stub.run(&mut self.command(url, options)?, person, &self.log).await
    }

    /// Runs the command without a browser: the user opens the printed URL on another machine, where `port` is closed,
    /// and pastes the final URL.
    pub async fn run_pasting(&self, url: &str, person: Person<'_>, port: u16) -> Result<Ended> {
        let mut program = self.start(url, &["--no-browser", "--port", &port.to_string()])?;
        let mut look = interval(Duration::from_millis(50));
        let address = timeout(LIMIT, async {
            loop {
                look.tick().await;
                if let Some(address) = self.log()?.lines().find_map(|line| line.strip_prefix("  https://")) {
                    return anyhow::Ok(format!("https://{address}"));
                }
            }
        });
        let landing = person.log_in(&address.await.context("`login` printed no URL")??).await?;
        if landing.status != 0 {
            bail!("the redirect reached a server at {}", landing.url);
        }
        program.say("not a URL").await?;
        program.say(landing.url.as_str()).await?;
        let output = program.line().await?.unwrap_or_default();
        Ok(Ended { code: program.end().await?, output, logins: 1, landings: vec![landing.text] })
    }

    /// Starts the command as an MCP server on standard input and output, and initializes the connection.
    pub async fn bridge<'a>(&self, url: &str, person: Option<Person<'a>>) -> Result<Connection<'a>> {
        let program = self.start(url, &["--bridge"])?;
        Connection::initialize(program, self.stub.clone(), person).await
    }

    fn start(&self, url: &str, options: &[&str]) -> Result<Program> {
        Program::start(self.stub.of(&mut self.command(url, options)?)?, &self.log)
    }

    fn command(&self, url: &str, options: &[&str]) -> Result<Command> {
        let mut command = Command::new(this_program()?.with_file_name("mcp-oauth-operator"));
        command
            .args(["login", "--log", "trace", url, "--store"])
            .arg(self.store())
            .args(options)
            .env("SSL_CERT_FILE", &self.authority);
        Ok(command)
    }

    fn file(&self) -> Result<PathBuf> {
        let files = fs::read_dir(self.store())?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let found = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "json"));
        found.with_context(|| format!("no login is stored in {}", self.store().display()))
    }
}
