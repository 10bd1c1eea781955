//! The MCP SDKs as clients, by small programs of ours (`sdk-N.mjs` in `e2e/js`, `client_N.py` in `e2e/python`), on this
//! machine's own network.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::{process::Command, task::spawn_blocking};

use super::{
    certificates::Certificates,
    json_lines::{Person, Program},
    node::Node,
    python::{MCP_SDK, MCP_SDK_1},
    stored,
};
use crate::{forward::free_port, run::Run};

const BED: &str = include_str!("../../python/bed.py");
const PYTHON_1: &str = include_str!("../../python/client_1.py");
const PYTHON_2: &str = include_str!("../../python/client_2.py");

/// Which SDK, and which of its lines.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    TypeScript1,
    TypeScript2,
    Python1,
    Python2,
}

/// One computer's client: its registration and tokens stay in its folder over starts.
#[derive(Clone, Debug)]
pub struct Sdk {
    interpreter: PathBuf,
    script: PathBuf,
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

impl Sdk {
    /// Installs it for a computer of this name.
    pub async fn install(run: &Run, kind: Kind, computer: &str) -> Result<Self> {
        let name = format!("sdk-{computer}");
        let folder = run.directory().join(&name);
        fs::create_dir_all(&folder)?;
        let (of_run, of_client) = (run.clone(), folder.clone());
        let (interpreter, script) = spawn_blocking(move || programs(&of_run, kind, &of_client)).await??;
        // Nobody listens there: the browser tells where it was sent.
        let redirect_uri = format!("http://127.0.0.1:{}/callback", free_port()?);
        let authority = Certificates::of(run)?.authority();
        Ok(Self { interpreter, script, folder, log: run.log(&name), authority, redirect_uri })
    }

    /// Connects, lists the tools and calls one. The person, if there is one, logs in when asked; else a wish to log in
    /// is an error.
    pub async fn call(&self, url: &str, person: Option<Person<'_>>, tool: &str, arguments: &Value) -> Result<Called> {
        self.run(&[url, &self.store(), &self.redirect_uri, tool, &arguments.to_string()], person).await
    }

    /// The same without a person, and once more when the access token's time is over. For the SDK for Python, which
    /// knows that only while the process lives.
    pub async fn call_over_expiry(&self, url: &str, tool: &str, arguments: &Value) -> Result<Called> {
        self.run(&[url, &self.store(), &self.redirect_uri, tool, &arguments.to_string(), "expire"], None).await
    }

    /// Makes the access token that it keeps one that no server takes, as when it has expired.
    pub fn spoil_access_token(&self) -> Result<()> {
        stored::change(Path::new(&self.store()), |store| stored::spoil(&mut store["tokens"], "access_token"))
    }

    fn store(&self) -> String {
        self.folder.join("store.json").display().to_string()
    }

    async fn run(&self, arguments: &[&str], person: Option<Person<'_>>) -> Result<Called> {
        let mut command = Command::new(&self.interpreter);
        command
            .arg(&self.script)
            .args(arguments)
            .env("SSL_CERT_FILE", &self.authority)
            .env("NODE_EXTRA_CA_CERTS", &self.authority);
        let mut program = Program::start(&mut command, &self.log)?;
        let mut logins = 0;
        loop {
            let message = program.hear().await?;
            let Some(address) = message["authorize"].as_str() else {
                return Ok(Called { logins, ..serde_json::from_value(message)? });
            };
            let Some(person) = person else { bail!("the SDK asks for a login at {address}") };
            logins += 1;
            program.say(person.log_in(address).await?.url.as_str()).await?;
        }
    }
}

/// The interpreter and our script for it.
fn programs(run: &Run, kind: Kind, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let typescript = |script| {
        let node = Node::with_clients()?;
        Ok((node.interpreter()?, node.script(run, script)?))
    };
    let python = |packages: super::python::Requirements, text| {
        let script = folder.join("client.py");
        fs::write(folder.join("bed.py"), BED)?;
        fs::write(&script, text)?;
        Ok((packages.install()?.join("python"), script))
    };
    match kind {
        Kind::TypeScript1 => typescript("sdk-1.mjs"),
        Kind::TypeScript2 => typescript("sdk-2.mjs"),
        Kind::Python1 => python(MCP_SDK_1, PYTHON_1),
        Kind::Python2 => python(MCP_SDK, PYTHON_2),
    }
}
