//! `dev`: serves an `McpOAuthProxy` on this machine, without a cluster: an in-process login page in the issuer's place,
//! SQLite for the sessions, and a small MCP server if the resource's own is not at hand. Everything else is the real thing.

mod issuer;
mod mcp_server;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{McpOAuthProxy, proxy::CredentialKeys},
    keys::{self, KeysError, write_new},
    proxy::{
        StartError,
        config::{ConfigError, CredentialFiles, ProxyConfig, SessionsConfig, StoreConfig},
    },
};

/// What `dev` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The file with the McpOAuthProxy
    #[arg(short, long)]
    file: PathBuf,

    /// Where to listen; clients connect to http://ADDR
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// The MCP server to forward to, instead of spec.upstream.url; "demo" starts a small one in this process
    #[arg(long)]
    upstream: Option<String>,

    /// Where keys and logins are kept between runs [default: ~/.local/state/mcp-oauth-operator/NAME]
    #[arg(long)]
    state: Option<PathBuf>,
}

/// Why `dev` cannot start.
#[derive(Debug, Error)]
pub enum DevError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no such resource in it.
    #[error("{} holds no McpOAuthProxy that can be read: {message}", .path.display())]
    Resource {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Others would reach the login page, which asks for no password.
    #[error("--listen must be an address of this machine only, such as 127.0.0.1:8080: anybody may log in as anybody")]
    NotLoopback,
    /// The home folder is unknown.
    #[error("HOME is not set: say with --state where to keep keys and logins")]
    NoHome,
    /// The resource is not right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Keys cannot be made.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A file or socket cannot be had.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// The proxy cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Runs until `shutdown`.
///
/// # Errors
/// Why it cannot start.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), DevError> {
    if !options.listen.ip().is_loopback() {
        return Err(DevError::NotLoopback);
    }
    let resource = read(&options.file)?;
    let name = resource.metadata.name.as_deref().unwrap_or("dev");
    let state = match &options.state {
        Some(state) => state.clone(),
        None => default_state(name)?,
    };
    keys::make(&state)?;
    write_new(&state.join("OAUTH_CLIENT_ID"), "dev")?;
    write_new(&state.join("OAUTH_CLIENT_SECRET"), "dev")?;

    let issuer_listener = loopback()?;
    let issuer_url = format!("http://{}", issuer_listener.local_addr()?);
    let upstream = match options.upstream.as_deref() {
        Some("demo") => {
            let listener = loopback()?;
            let url = format!("http://{}", listener.local_addr()?);
            tokio::spawn(mcp_server::serve(listener));
            url
        }
        Some(url) => url.to_owned(),
        None => resource.spec.upstream.url.clone(),
    };
    let config = config(&resource, &options, &state, &issuer_url, upstream);
    config.validate()?;
    let path = config.upstream.paths.iter().find(|path| !path.contains('*')).cloned().unwrap_or_default();
    let login = issuer::Issuer::new(issuer_url, format!("{}/callback", config.public_url)).map_err(KeysError::from)?;
    tokio::spawn(issuer::serve(issuer_listener, login));
    eprintln!(
        "{name} is at {url}{path} (forwards to {upstream}; logins in {state})\nconnect with: npx mcp-remote {url}{path}\nstop with Ctrl-C",
        url = config.public_url,
        upstream = config.upstream.url,
        state = state.display(),
    );
    Ok(crate::proxy::run(config, shutdown).await?)
}

fn config(
    resource: &McpOAuthProxy,
    options: &Options,
    state: &Path,
    issuer_url: &str,
    upstream: String,
) -> ProxyConfig {
    let spec = resource.spec.clone();
    ProxyConfig {
        public_url: format!("http://{}", options.listen),
        listen: options.listen,
        health_listen: (Ipv4Addr::LOCALHOST, 0).into(),
        workers: None,
        identity_provider: crate::api::proxy::IdentityProvider {
            issuer_url: issuer_url.to_owned(),
            ..spec.identity_provider
        },
        credentials: CredentialFiles { directory: state.to_owned(), keys: CredentialKeys::default() },
        signing_keys: state.join(keys::SIGNING_KEYS),
        access: spec.access,
        upstream: crate::api::proxy::Upstream { url: upstream, ..spec.upstream },
        clients: spec.clients,
        tokens: spec.tokens,
        sessions: SessionsConfig {
            idle_ttl: spec.sessions.idle_ttl,
            max_ttl: spec.sessions.max_ttl,
            store: StoreConfig::Sqlite { path: state.join("sessions.db") },
        },
    }
}

/// The first `McpOAuthProxy` of a file, which may hold other objects as well.
fn read(path: &Path) -> Result<McpOAuthProxy, DevError> {
    let text = fs::read_to_string(path).map_err(|source| DevError::Read { path: path.to_owned(), source })?;
    let wrong = |message: String| DevError::Resource { path: path.to_owned(), message };
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| wrong(error.to_string()))?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) == Some("McpOAuthProxy") {
            return serde_yaml::from_value(value).map_err(|error| wrong(error.to_string()));
        }
    }
    Err(wrong("no document has kind: McpOAuthProxy".to_owned()))
}

fn default_state(name: &str) -> Result<PathBuf, DevError> {
    let base = match std::env::var_os("XDG_STATE_HOME") {
        Some(set) => PathBuf::from(set),
        None => PathBuf::from(std::env::var_os("HOME").ok_or(DevError::NoHome)?).join(".local/state"),
    };
    Ok(base.join("mcp-oauth-operator").join(name))
}

fn loopback() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
