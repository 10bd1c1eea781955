//! The proxy as a plain process, without a cluster (docs/standalone.md).

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{certificates::Certificates, document_host::DocumentHost, http};
use crate::{
    forward::{free_port, operator_program},
    program,
    progress::wait_until,
    run::Run,
};

const CLIENT_ID: &str = "standalone";
const CLIENT_SECRET: &str = "standalone-secret";

/// How a proxy is configured.
#[derive(Clone, Copy, Debug)]
pub struct ProxyOptions<'a> {
    pub public_url: &'a str,
    pub provider: &'a super::provider::Provider,
    /// Host and port of the MCP server, or an https URL whose certificate is signed by the run's CA.
    pub upstream: &'a str,
    /// `identityProvider.recheckOnRefresh`.
    pub recheck_on_refresh: bool,
    /// The hosts of client metadata documents. Without them, metadata documents are disabled, because there is no
    /// internet access.
    pub documents: Option<&'a DocumentHost>,
    /// Additional top-level members of the configuration.
    pub settings: &'a [(&'a str, Value)],
}

/// A running proxy. A run may have several.
#[derive(Clone, Debug)]
pub struct Proxy {
    run: Run,
    name: String,
    health: String,
    documents: Option<DocumentHost>,
    /// The CA file that replaces the system's, if needed.
    authorities: Option<PathBuf>,
}

impl Proxy {
    /// Starts the proxy at `listen`, a host and port. It logs at trace level, because tests check that logs contain no
    /// secrets.
    pub async fn up(run: &Run, name: &str, listen: &str, options: ProxyOptions<'_>) -> Result<Self> {
        let health = format!("127.0.0.1:{}", free_port()?);
        let documents = options.documents.cloned();
        let (upstream, authorities) = match options.upstream {
            url if url.starts_with("https://") => (url.to_owned(), Some(Certificates::for_run(run)?.authority())),
            address => (format!("http://{address}"), None),
        };
        let proxy = Self { run: run.clone(), name: name.to_owned(), health, documents, authorities };
        let secrets = proxy.secrets();
        fs::create_dir_all(&secrets)?;
        program::output(Command::new(operator_program()?).arg("keys").arg(&secrets))
            .context("build it with cargo build --bin mcp-oauth-operator")?;
        fs::write(secrets.join("OAUTH_CLIENT_ID"), CLIENT_ID)?;
        fs::write(secrets.join("OAUTH_CLIENT_SECRET"), CLIENT_SECRET)?;
        options.provider.register(CLIENT_ID, CLIENT_SECRET, &[&format!("{}/callback", options.public_url)])?;
        let mut configuration = json!({
            "publicURL": options.public_url,
            "listen": listen,
            "healthListen": proxy.health,
            "identityProvider": {
                "issuerURL": options.provider.issuer,
                "recheckOnRefresh": if options.recheck_on_refresh { "Enabled" } else { "Disabled" },
            },
            "credentials": {"directory": secrets},
            "signingKeys": secrets.join("signing-keys.json"),
            "access": {"domains": ["example.com"]},
            "clients": {"metadataDocuments": if options.documents.is_some() { "Known" } else { "Disabled" }},
            "upstream": {"url": upstream, "paths": ["/mcp", "/servers/*/mcp"]},
            "sessions": {"store": {"type": "SQLite", "path": proxy.database()}},
        });
        for (name, value) in options.settings {
            configuration[*name] = value.clone();
        }
        fs::write(proxy.configuration(), serde_yaml::to_string(&configuration)?)?;
        proxy.restart().await?;
        eprintln!("{name:13} {} · log {}", options.public_url, run.log(name).display());
        Ok(proxy)
    }

    /// Restarts the process with the same database and keys.
    pub async fn restart(&self) -> Result<()> {
        let mut command = match &self.documents {
            Some(documents) => documents.command(&operator_program()?)?,
            None => self.run.command(operator_program()?),
        };
        command.args(["proxy", "--log", "trace", "--config"]).arg(self.configuration());
        if let Some(authorities) = &self.authorities {
            command.env("SSL_CERT_FILE", authorities);
        }
        http::start(&self.run, &self.name, &mut command, &format!("http://{}/readyz", self.health)).await
    }

    /// Rotates the encryption key, keeps the old one as the previous key, and waits until the proxy has loaded both.
    pub fn change_encryption_key(&self) -> Result<()> {
        let key = self.secrets().join("ENCRYPTION_KEY");
        fs::copy(&key, self.secrets().join("PREVIOUS_ENCRYPTION_KEY"))?;
        fs::write(key, self.new_encryption_key()?)?;
        self.wait_until_logged("reloaded credentials and keys", Duration::from_secs(30))
    }

    /// Replaces all encryption keys by a new one, waits until the proxy exits because of this, and restarts it.
    pub async fn replace_encryption_key(&self) -> Result<()> {
        let previous = self.secrets().join("PREVIOUS_ENCRYPTION_KEY");
        let key = self.new_encryption_key()?;
        fs::write(self.secrets().join("ENCRYPTION_KEY"), key)?;
        fs::remove_file(previous)?;
        wait_until("the proxy to exit", Duration::from_secs(30), || Ok(self.run.running(&self.name).is_none()))?;
        self.restart().await
    }

    /// Waits until a log line contains the text.
    pub fn wait_until_logged(&self, text: &str, limit: Duration) -> Result<()> {
        wait_until(text, limit, || Ok(self.log()?.lines().any(|line| line.contains(text))))
    }

    fn new_encryption_key(&self) -> Result<Vec<u8>> {
        let folder = self.folder().join("new-keys");
        program::output(Command::new(operator_program()?).arg("keys").arg(&folder))?;
        let key = fs::read(folder.join("ENCRYPTION_KEY"))?;
        fs::remove_dir_all(folder)?;
        Ok(key)
    }

    /// The log since the last start.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.run.log(&self.name))?)
    }

    /// The folder with the proxy's credentials and keys.
    pub fn secrets(&self) -> PathBuf {
        self.folder().join("secrets")
    }

    /// The number of sessions of clients with this name.
    pub fn sessions_of(&self, client: &str) -> Result<usize> {
        self.query_client("count(*)", client)
    }

    /// The refresh token generation of the only session of clients with this name.
    pub fn generation_of(&self, client: &str) -> Result<usize> {
        ensure!(self.sessions_of(client)? == 1, "{client} does not have exactly one session");
        self.query_client("json_extract(record, '$.rotation')", client)
    }

    fn query_client(&self, what: &str, client: &str) -> Result<usize> {
        let select = format!("SELECT {what} FROM sessions WHERE json_extract(record, '$.client.name') = ?");
        self.query(&format!("print(database.execute(\"{select}\", sys.argv[2:]).fetchone()[0])"), &[client])
    }

    /// Deletes all sessions from the database, as docs/standalone.md describes, and returns their number. Waits until
    /// the proxy has noticed it, because a request that is in flight at that moment would be cut and fail in the
    /// client.
    pub async fn delete_sessions(&self) -> Result<usize> {
        let ended = self.query("print(database.execute(\"DELETE FROM sessions\").rowcount); database.commit()", &[])?;
        let (client, metrics) = (http::client(None)?, format!("http://{}/metrics", self.health));
        let limit = Duration::from_secs(30);
        let none = async || -> Result<bool> {
            let text = client.get(&metrics).send().await?.error_for_status()?.text().await?;
            Ok(text.lines().any(|line| line == "mcp_oauth_proxy_sessions 0"))
        };
        timeout(limit, async {
            while !none().await? {
                sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(ended)
        })
        .await
        .context("the proxy did not notice the deleted sessions")?
    }

    /// Uses Python's sqlite3 module.
    fn query(&self, statements: &str, arguments: &[&str]) -> Result<usize> {
        let script = format!("import sqlite3, sys; database = sqlite3.connect(sys.argv[1]); {statements}");
        let mut command = Command::new("python3");
        command.args(["-c", &script]).arg(self.database()).args(arguments);
        Ok(program::output(&mut command)?.trim().parse()?)
    }

    fn folder(&self) -> PathBuf {
        self.run.directory().join(&self.name)
    }

    fn configuration(&self) -> PathBuf {
        self.folder().join("proxy.yaml")
    }

    fn database(&self) -> PathBuf {
        self.folder().join("sessions.db")
    }
}
