//! Clients that use the MCP SDKs through small scripts (`sdk-N.mjs` in `e2e/js`, `client_N.py` in `e2e/python`), in the
//! host's network.

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
    client_store,
    json_lines::{Program, User},
    node::Node,
    python::{MCP_SDK, MCP_SDK_1},
};
use crate::{forward::free_port, run::Run};

const BED: &str = include_str!("../../python/bed.py");
const PYTHON_1: &str = include_str!("../../python/client_1.py");
const PYTHON_2: &str = include_str!("../../python/client_2.py");

/// An SDK and its major version.
#[derive(Clone, Copy, Debug)]
pub enum SdkVersion {
    TypeScript1,
    TypeScript2,
    Python1,
    Python2,
}

/// A client installation. Its folder keeps its registration and tokens between starts.
#[derive(Clone, Debug)]
pub struct Sdk {
    interpreter: PathBuf,
    script: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    authority: PathBuf,
    redirect_uri: String,
}

/// The result of a tool call.
#[derive(Clone, Debug, Deserialize)]
pub struct CallResult {
    /// The names of all tools.
    pub tools: Vec<String>,
    /// The text parts of the tool's result.
    pub text: Vec<String>,
    /// Whether the tool reported an error.
    pub error: bool,
    /// The number of requested logins.
    #[serde(skip)]
    pub logins: usize,
}

impl Sdk {
    /// Installs the client in its own folder.
    pub async fn install(run: &Run, kind: SdkVersion, installation: &str) -> Result<Self> {
        let name = format!("sdk-{installation}");
        let folder = run.directory().join(&name);
        fs::create_dir_all(&folder)?;
        let (cloned_run, cloned_folder) = (run.clone(), folder.clone());
        let (interpreter, script) = spawn_blocking(move || programs(&cloned_run, kind, &cloned_folder)).await??;
        // A closed port: the test passes the browser's final URL to the client.
        let redirect_uri = format!("http://127.0.0.1:{}/callback", free_port()?);
        let authority = Certificates::for_run(run)?.authority();
        Ok(Self { interpreter, script, folder, log: run.log(&name), authority, redirect_uri })
    }

    /// Connects, lists the tools and calls one. If the client requests a login, `user` logs in; without a user that is
    /// an error.
    pub async fn call(&self, url: &str, user: Option<User<'_>>, tool: &str, arguments: &Value) -> Result<CallResult> {
        self.run(&[url, &self.store(), &self.redirect_uri, tool, &arguments.to_string()], user).await
    }

    /// Like [`Self::call`] without a user, but calls the tool again in the same process after the access token has
    /// expired. For the Python SDK, which knows the expiry only in the process that received the token.
    pub async fn call_before_and_after_expiry(&self, url: &str, tool: &str, arguments: &Value) -> Result<CallResult> {
        self.run(&[url, &self.store(), &self.redirect_uri, tool, &arguments.to_string(), "expire"], None).await
    }

    /// Replaces the stored access token by an invalid one, as if it had expired.
    pub fn invalidate_access_token(&self) -> Result<()> {
        client_store::edit(Path::new(&self.store()), |store| {
            client_store::invalidate_token(&mut store["tokens"], "access_token")
        })
    }

    fn store(&self) -> String {
        self.folder.join("store.json").display().to_string()
    }

    async fn run(&self, arguments: &[&str], user: Option<User<'_>>) -> Result<CallResult> {
        let mut command = Command::new(&self.interpreter);
        command
            .arg(&self.script)
            .args(arguments)
            .env("SSL_CERT_FILE", &self.authority)
            .env("NODE_EXTRA_CA_CERTS", &self.authority);
        let mut program = Program::start(&mut command, &self.log)?;
        let mut logins = 0;
        loop {
            let message = program.read_json().await?;
            let Some(login_url) = message["authorize"].as_str() else {
                return Ok(CallResult { logins, ..serde_json::from_value(message)? });
            };
            let Some(user) = user else { bail!("the SDK requested a login at {login_url}") };
            logins += 1;
            program.write_line(user.log_in(login_url).await?.url.as_str()).await?;
        }
    }
}

/// The interpreter and the client script.
fn programs(run: &Run, kind: SdkVersion, folder: &Path) -> Result<(PathBuf, PathBuf)> {
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
        SdkVersion::TypeScript1 => typescript("sdk-1.mjs"),
        SdkVersion::TypeScript2 => typescript("sdk-2.mjs"),
        SdkVersion::Python1 => python(MCP_SDK_1, PYTHON_1),
        SdkVersion::Python2 => python(MCP_SDK, PYTHON_2),
    }
}
