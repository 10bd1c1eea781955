//! `dev`: serves an `McpOAuthProxy` on this machine without a cluster. Replaces the issuer by an in-process login page, the
//! session objects by SQLite, and optionally the upstream by a small MCP server. Everything else is as in production.

pub(crate) mod issuer;
mod mcp_server;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        InvalidText, McpOAuthProxy, PathPattern, UpstreamUrl,
        proxy::{Access, CredentialKeys, IdentityProvider, RecheckOnRefresh, Upstream},
    },
    config::{ConfigError, CredentialFiles, ProxyConfig, SessionsConfig, StoreConfig},
    keys::{self, KeysError},
    private_file::{create_dir, default_state_dir, write_if_absent},
    proxy::{self, RunError},
    yaml,
};

const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// File with the McpOAuthProxy
    #[arg(short, long)]
    file: PathBuf,

    /// Address to listen on; clients connect to http://ADDR
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// URL of the MCP server, instead of spec.upstream.url; "demo" starts a small MCP server in this process
    #[arg(long)]
    upstream: Option<String>,

    /// Directory of keys and sessions [default: ~/.local/state/mcp-oauth-operator/NAME]
    #[arg(long)]
    state: Option<PathBuf>,
}

#[derive(Debug, Error)]
pub enum DevError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} contains no valid McpOAuthProxy: {message}", .path.display())]
    Resource { path: PathBuf, message: String },
    #[error("--listen must be a loopback address, such as 127.0.0.1:8080: the login page requires no password")]
    NotLoopback,
    #[error("HOME is not set: use --state to specify the directory of keys and sessions")]
    NoHome,
    #[error(transparent)]
    Url(#[from] InvalidText),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("cannot write {}: {source}; use --state to specify another directory", .path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("cannot listen: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Start(#[from] RunError),
}

/// Runs until `shutdown` is cancelled.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), DevError> {
    if !options.listen.ip().is_loopback() {
        return Err(DevError::NotLoopback);
    }
    let resource = read_proxy(&options.file)?;
    let name = resource.metadata.name.as_deref().unwrap_or("dev");
    let state = options.state.or_else(|| default_state_dir(name)).ok_or(DevError::NoHome)?;
    create_dir(&state).map_err(state_error(&state))?;
    keys::make(&state)?;
    for file in ["OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"] {
        let path = state.join(file);
        write_if_absent(&path, b"dev").map_err(state_error(&path))?;
    }

    let (listener, health_listener) = (proxy::listen(options.listen)?, proxy::listen(FREE_PORT)?);
    let issuer_listener = proxy::listen(FREE_PORT)?;
    let issuer_url = origin(&issuer_listener)?;
    let upstream = match options.upstream.as_deref() {
        Some("demo") => {
            let listener = proxy::listen(FREE_PORT)?;
            let url = origin(&listener)?.parse()?;
            tokio::spawn(mcp_server::serve(listener));
            url
        }
        Some(url) => url.parse()?,
        None => resource.spec.upstream.url.clone(),
    };
    let config = config(&resource, &listener, &state, &issuer_url, upstream)?;
    config.validate()?;
    write_client_secrets(&config)?;
    let path = config.upstream.paths.iter().find(|path| path.is_literal()).map_or("", PathPattern::as_str);
    let (redirect_uri, email) = (format!("{}/callback", config.public_url), example_email(&config.access));
    let issuer = issuer::Issuer::new(issuer_url, redirect_uri, email.clone()).map_err(KeysError::from)?;
    tokio::spawn(issuer::serve(issuer_listener, issuer));
    eprintln!(
        "{name} serves {url}{path} and forwards to {upstream}\nlog in with any address that spec.access admits, such as {email}\nconnect with: npx mcp-remote {url}{path}\nhealth and metrics: {health}/readyz, /metrics; keys and sessions: {state}\nstop with Ctrl-C",
        url = config.public_url,
        upstream = config.upstream.url,
        health = origin(&health_listener)?,
        state = state.display(),
    );
    Ok(proxy::serve(config, listener, health_listener, shutdown).await?)
}

/// Replaces the secrets of static clients, which are in the cluster.
fn write_client_secrets(config: &ProxyConfig) -> Result<(), DevError> {
    for client in &config.clients.static_clients {
        let secret = client.secret_ref.as_ref().and_then(|reference| config.secret_file(reference));
        let Some(path) = secret else { continue };
        fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| write_if_absent(&path, b"dev"))
            .map_err(state_error(&path))?;
        eprintln!("the secret of client {} is: dev", client.client_id);
    }
    Ok(())
}

fn state_error(path: &Path) -> impl FnOnce(io::Error) -> DevError {
    move |source| DevError::State { path: path.to_owned(), source }
}

/// Returns an address that the access rules admit.
fn example_email(access: &Access) -> String {
    match (access.emails.first(), access.domains.first()) {
        (Some(email), _) => email.to_string(),
        (None, Some(domain)) => format!("ada@{domain}"),
        (None, None) => "ada@example.com".to_owned(),
    }
}

fn config(
    resource: &McpOAuthProxy,
    listener: &TcpListener,
    state: &Path,
    issuer_url: &str,
    upstream: UpstreamUrl,
) -> Result<ProxyConfig, DevError> {
    let spec = resource.spec.clone();
    Ok(ProxyConfig {
        public_url: origin(listener)?.parse()?,
        listen: listener.local_addr()?,
        health_listen: FREE_PORT,
        workers: None,
        connections: None,
        // The issuer of `dev` uses http and has no accounts that could be disabled.
        identity_provider: IdentityProvider {
            issuer_url: issuer_url.parse()?,
            ca_ref: None,
            recheck_on_refresh: RecheckOnRefresh::Disabled,
            ..spec.identity_provider
        },
        credentials: CredentialFiles { directory: state.to_owned(), keys: CredentialKeys::default() },
        references: Some(state.join("references")),
        signing_keys: state.join(keys::SIGNING_KEYS),
        access: spec.access,
        upstream: Upstream { url: upstream, ..spec.upstream },
        clients: spec.clients,
        tokens: spec.tokens,
        sessions: SessionsConfig {
            idle_ttl: spec.sessions.idle_ttl,
            max_ttl: spec.sessions.max_ttl,
            max_per_user: spec.sessions.max_per_user,
            max: spec.sessions.max,
            not_before: spec.sessions.not_before,
            store: StoreConfig::Sqlite { path: state.join("sessions.db") },
        },
        trusted_proxies: Vec::new(),
    })
}

/// Browsers omit the default port.
fn origin(listener: &TcpListener) -> io::Result<String> {
    let url = format!("http://{}", listener.local_addr()?);
    Ok(url.strip_suffix(":80").unwrap_or(&url).to_owned())
}

/// Reads the first `McpOAuthProxy` in a file that may contain other objects too.
fn read_proxy(path: &Path) -> Result<McpOAuthProxy, DevError> {
    let text = fs::read_to_string(path).map_err(|source| DevError::Read { path: path.to_owned(), source })?;
    let invalid = |message: String| DevError::Resource { path: path.to_owned(), message };
    let documents = || serde_yaml::Deserializer::from_str(&text);
    for (document, again) in documents().zip(documents()) {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| invalid(error.to_string()))?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) == Some("McpOAuthProxy") {
            // Deserialized again from the text, because errors of a value have no line numbers.
            return yaml::parse_document(again).map_err(|error| invalid(error.to_string()));
        }
    }
    Err(invalid("no document has kind: McpOAuthProxy".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_in_second_document_names_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("objects.yaml");
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\n";
        let proxy = "apiVersion: mcp.jomcgi.dev/v1alpha1\nkind: McpOAuthProxy\nmetadata: {name: a}\nspec:\n  publicURL: https://a.example\n";
        fs::write(&file, format!("{secret}{proxy}")).unwrap();
        let error = read_proxy(&file).unwrap_err().to_string();
        assert!(error.contains("spec: missing field `identityProvider` at line 9"), "{error}");
        fs::write(&file, secret).unwrap();
        assert!(read_proxy(&file).unwrap_err().to_string().contains("no document has kind: McpOAuthProxy"));
    }
}
