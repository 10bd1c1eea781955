//! `dev`: serves an `McpOAuthProxy` on this machine, without a cluster: an in-process login page in the issuer's place,
//! SQLite for the sessions, and a small MCP server if the resource's own is not at hand. Everything else is the real thing.

mod issuer;
mod mcp_server;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt,
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
    private_file::write_if_absent,
    proxy::{self, RunError},
    yaml,
};

/// A port of this machine that is free.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
    #[error(transparent)]
    Url(#[from] InvalidText),
    /// The resource is not right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Keys cannot be made.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Keys and logins cannot be kept there.
    #[error("cannot write {}: {source}; say with --state where keys and logins may be kept", .path.display())]
    State {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A socket has no address.
    #[error("cannot listen: {0}")]
    Socket(#[from] std::io::Error),
    /// The proxy cannot start.
    #[error(transparent)]
    Start(#[from] RunError),
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
    // Logins name people.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(|source| DevError::State { path: state.clone(), source })?;
    keys::make(&state)?;
    for file in ["OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"] {
        write_if_absent(&state.join(file), b"dev")
            .map_err(|source| DevError::State { path: state.join(file), source })?;
    }

    // Open before anybody is told of it.
    let (listener, health_listener) = (proxy::listen(options.listen)?, proxy::listen(LOOPBACK)?);
    let issuer_listener = proxy::listen(LOOPBACK)?;
    let issuer_url = origin(&issuer_listener)?;
    let upstream = match options.upstream.as_deref() {
        Some("demo") => {
            let listener = proxy::listen(LOOPBACK)?;
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
    let login = issuer::Issuer::new(
        issuer_url,
        format!("{}/callback", config.public_url),
        somebody_who_may_log_in(&config.access),
    );
    tokio::spawn(issuer::serve(issuer_listener, login.map_err(KeysError::from)?));
    eprintln!(
        "{name} is at {url}{path} (forwards to {upstream})\nlog in as any address that spec.access lets in, such as {person}\nconnect with: npx mcp-remote {url}{path}\nhealth and metrics: {health}/readyz, /metrics; logins and keys: {state}\nstop with Ctrl-C",
        url = config.public_url,
        upstream = config.upstream.url,
        person = somebody_who_may_log_in(&config.access),
        health = origin(&health_listener)?,
        state = state.display(),
    );
    Ok(proxy::serve(config, listener, health_listener, shutdown).await?)
}

/// The secrets of listed clients are in the cluster; here each is `dev`, as ours at the issuer is.
fn write_client_secrets(config: &ProxyConfig) -> Result<(), DevError> {
    for client in &config.clients.listed {
        let Some(path) = client.secret_ref.as_ref().and_then(|reference| config.secret_file(reference)) else {
            continue;
        };
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder)
            .and_then(|()| write_if_absent(&path, b"dev"))
            .map_err(|source| DevError::State { path: path.clone(), source })?;
        eprintln!("the secret of client {} is dev here", client.client_id);
    }
    Ok(())
}

/// An address that the rules let in, as an example.
fn somebody_who_may_log_in(access: &Access) -> String {
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
        health_listen: LOOPBACK,
        workers: None,
        connections: None,
        // The login page here speaks http, and has no accounts that could go away.
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
        // Nobody stands in front of it.
        trusted_proxies: Vec::new(),
    })
}

/// The address of a socket as browsers spell it.
fn origin(listener: &TcpListener) -> std::io::Result<String> {
    let address = listener.local_addr()?;
    Ok(match address.port() {
        80 => format!("http://{}", address.to_string().trim_end_matches(":80")),
        _ => format!("http://{address}"),
    })
}

/// The first `McpOAuthProxy` of a file, which may hold other objects as well.
fn read(path: &Path) -> Result<McpOAuthProxy, DevError> {
    let text = fs::read_to_string(path).map_err(|source| DevError::Read { path: path.to_owned(), source })?;
    let wrong = |message: String| DevError::Resource { path: path.to_owned(), message };
    let documents = || serde_yaml::Deserializer::from_str(&text);
    for (document, again) in documents().zip(documents()) {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| wrong(error.to_string()))?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) == Some("McpOAuthProxy") {
            // Not from the value, which does not know its lines.
            return yaml::parse_document(again).map_err(|error| wrong(error.to_string()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_in_second_document_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("objects.yaml");
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\n";
        let proxy = "apiVersion: mcp.jomcgi.dev/v1alpha1\nkind: McpOAuthProxy\nmetadata: {name: a}\nspec:\n  publicURL: https://a.example\n";
        fs::write(&file, format!("{secret}{proxy}")).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("spec: missing field `identityProvider` at line 9"), "{error}");
        fs::write(&file, secret).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("no document has kind: McpOAuthProxy"));
    }
}
