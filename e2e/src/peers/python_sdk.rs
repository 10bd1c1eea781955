//! The MCP SDK for Python as a client (`e2e/python/client.py`), on this machine's own network.

use std::{fs, path::PathBuf};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::{process::Command, task::spawn_blocking};

use super::{
    certificates::Certificates,
    json_lines::{Person, Program},
    python,
};
use crate::{forward::free_port, run::Run};

const CLIENT: &str = include_str!("../../python/client.py");

/// One computer's client: its registration and tokens stay in its folder over starts.
#[derive(Clone, Debug)]
pub struct PythonSdk {
    programs: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    authority: PathBuf,
    redirect_uri: String,
}

/// What came of a call.
#[derive(Clone, Debug, Deserialize)]
pub struct Called {
    /// The names of the tools.
    pub tools: Vec<String>,
    /// The called tool's texts.
    pub text: Vec<String>,
    /// Whether the tool says that it failed.
    pub error: bool,
    /// How many times a login was asked for.
    #[serde(skip)]
    pub logins: usize,
}

impl PythonSdk {
    /// Installs it for a computer of this name.
    pub async fn install(run: &Run, computer: &str) -> Result<Self> {
        let programs = spawn_blocking(|| python::MCP_SDK.install()).await??;
        let folder = run.directory().join(format!("python-sdk-{computer}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("client.py"), CLIENT)?;
        // Nobody listens there: the browser tells where it was sent.
        let redirect_uri = format!("http://127.0.0.1:{}/callback", free_port()?);
        let log = run.log(&format!("python-sdk-{computer}"));
        Ok(Self { programs, folder, log, authority: Certificates::of(run)?.authority(), redirect_uri })
    }

    /// Connects, lists the tools and calls one. The person, if there is one, logs in when asked; else a wish to log in
    /// is an error.
    pub async fn call(&self, url: &str, person: Option<Person<'_>>, tool: &str, arguments: &Value) -> Result<Called> {
        let mut command = Command::new(self.programs.join("python"));
        command
            .arg(self.folder.join("client.py"))
            .arg(url)
            .arg(self.folder.join("store.json"))
            .args([&self.redirect_uri, tool, &arguments.to_string()])
            .env("SSL_CERT_FILE", &self.authority);
        let mut program = Program::start(&mut command, &self.log)?;
        let mut logins = 0;
        loop {
            let message = program.hear().await?;
            let Some(address) = message["authorize"].as_str() else {
                return Ok(Called { logins, ..serde_json::from_value(message)? });
            };
            let Some(person) = person else { bail!("the Python SDK asks for a login at {address}") };
            logins += 1;
            let landing = person.browser.login(address, person.email).await?;
            if landing.parameter("code").is_none() {
                bail!("the login ended at {}: {}", landing.url, landing.text);
            }
            program.say(landing.url.as_str()).await?;
        }
    }
}
