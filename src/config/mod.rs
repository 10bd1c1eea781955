//! The files that a proxy is started from. The operator renders them from an `McpOAuthProxy`; outside a cluster a person
//! writes them (docs/standalone.md). This module is all that `operator` and `proxy` know of each other.

mod pod_status;

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::api::{
    Duration, InvalidUrl, IssuerUrl, PathPattern, PublicUrl, UpstreamUrl,
    proxy::{
        Access, AccessPolicy, Clients, ConfigMapKeyReference, CredentialKeys, IdentityProvider, RedirectPolicy,
        Redirects, SecretKeyReference, Tokens, Upstream, default_idle_ttl, default_max, default_max_per_user,
        default_max_ttl,
    },
};
pub use pod_status::{PodStatus, RecheckStatus};

/// How long a pod that is told to end keeps taking connections: until then a Service's rules may still point to it.
/// Then what is open has `upstream.timeouts.drain` to end. Whoever starts proxies gives them longer than both together.
pub const UNREADY_BEFORE_DRAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// The configuration file of a proxy, in YAML. The parts that an `McpOAuthProxy` has too are spelled as there.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfig {
    /// The address at which clients reach this proxy; the issuer, byte for byte.
    #[serde(rename = "publicURL")]
    pub public_url: String,
    /// Where it listens for clients. Default: port 8080 of every address.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where it answers /healthz, /readyz and /metrics. Default: port 8081 of every address.
    #[serde(default = "default_health_listen")]
    pub health_listen: SocketAddr,
    /// How many threads forward requests. Default: the CPUs there are, two at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// How many clients' connections may be open. Default: one for each 80 KiB of the memory that this process may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Where people log in.
    pub identity_provider: IdentityProvider,
    /// The files with the client id, the client secret and the encryption key.
    pub credentials: CredentialFiles,
    /// The folder with what the fields that end in `Ref` name: the key KEY of a Secret NAME is its file `secrets/NAME/KEY`,
    /// that of a ConfigMap `configmaps/NAME/KEY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<PathBuf>,
    /// The file with the keys that access tokens are signed with, as `mcp-oauth-operator keys` writes it.
    pub signing_keys: PathBuf,
    /// Who may log in.
    pub access: Access,
    /// The MCP server that requests are forwarded to.
    pub upstream: Upstream,
    /// Which MCP clients may connect.
    #[serde(default)]
    pub clients: Clients,
    /// How long tokens live.
    #[serde(default)]
    pub tokens: Tokens,
    /// How long a login lasts, and where logins are remembered.
    pub sessions: SessionsConfig,
    /// The addresses of the proxies in front: only what these say of a client's address is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
}

/// One file a credential, as a mounted Secret has them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialFiles {
    /// The folder of the files.
    pub directory: PathBuf,
    /// The files' names.
    #[serde(default)]
    pub keys: CredentialKeys,
}

/// How long a login lasts, and where logins are remembered.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsConfig {
    /// How long a client may go without refreshing.
    #[serde(default = "default_idle_ttl", rename = "idleTTL")]
    pub idle_ttl: Duration,
    /// How long a login lasts at most.
    #[serde(default = "default_max_ttl", rename = "maxTTL")]
    pub max_ttl: Duration,
    /// How many sessions one person may have.
    #[serde(default = "default_max_per_user")]
    pub max_per_user: u32,
    /// How many sessions there may be in all.
    #[serde(default = "default_max")]
    pub max: u32,
    /// Sessions begun before this time have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Where logins are remembered.
    pub store: StoreConfig,
}

/// Where logins are remembered.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum StoreConfig {
    /// As `McpOAuthSession` objects.
    Kubernetes {
        /// The namespace of the objects.
        namespace: String,
        /// The name of the `McpOAuthProxy` that they belong to.
        proxy: String,
        /// Its uid: they are deleted with it.
        uid: String,
    },
    /// As rows of an SQLite database, which is made if it is not there.
    #[serde(rename = "SQLite")]
    Sqlite {
        /// The database's file.
        path: PathBuf,
    },
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not YAML of this shape.
    #[error("the configuration {} is not right: {source}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        source: serde_yaml::Error,
    },
    /// An address or path is not right.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// A value that the CRD's rules would have refused.
    #[error("{0}")]
    Rule(&'static str),
}

impl ProxyConfig {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// When the file cannot be read, is not of this shape, or [`Self::validate`] refuses it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self =
            serde_yaml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the CRD's rules check for a resource: a file that a person wrote has met no API server.
    ///
    /// # Errors
    /// The first rule that is broken, with what to write instead.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.public_url()?;
        self.issuer_url()?;
        self.upstream_url()?;
        let paths = self.upstream_paths()?;
        let Access { policy, emails, domains, groups, blocked } = &self.access;
        let listed = !(emails.is_empty() && domains.is_empty() && groups.is_empty());
        let Redirects { policy: redirect_policy, hosts } = &self.clients.redirects;
        let listed_clients = &self.clients.listed;
        let (idle, max) = (&self.sessions.idle_ttl, &self.sessions.max_ttl);
        let rules = [
            (
                paths.iter().any(PathPattern::is_literal),
                "upstream.paths needs at least one path without *: it is what clients connect to by default",
            ),
            (
                ["openid", "email"].iter().all(|scope| self.identity_provider.scopes.iter().any(|s| s == scope)),
                "identityProvider.scopes must include openid and email: without them nobody can be recognised",
            ),
            (
                *policy == AccessPolicy::AnyUser || listed,
                "access lets nobody in: list emails, domains or groups, or write policy: AnyUser",
            ),
            (
                *policy == AccessPolicy::Listed || !listed,
                "policy AnyUser lets everyone in, whatever is listed: remove emails, domains and groups, or write policy: Listed",
            ),
            (
                groups.is_empty() || self.identity_provider.groups_claim.is_some(),
                "access.groups needs identityProvider.groupsClaim: the claim in which the issuer names a person's groups, such as groups",
            ),
            (
                emails.iter().chain(blocked).all(|email| is_email(email)),
                "each of access.emails and access.blocked must be an address such as ada@example.com",
            ),
            (
                domains.iter().all(|domain| is_host(domain)),
                "each of access.domains must be a domain such as example.com, without @ or *",
            ),
            (
                *redirect_policy == RedirectPolicy::Known || hosts.is_empty(),
                "clients.redirects: policy Any takes every https host, whatever is listed: remove hosts, or write policy: Known",
            ),
            (
                hosts.iter().all(|host| is_host(host) && *host == host.to_lowercase()),
                "each of clients.redirects.hosts must be a host name in lower case, such as chat.example.com, without scheme, port or path",
            ),
            (idle.as_secs() >= 300, "sessions.idleTTL must be 5m or longer"),
            (idle.get() <= max.get(), "sessions.idleTTL may not be longer than maxTTL"),
            (self.sessions.max_per_user > 0, "sessions.maxPerUser must be 1 or more"),
            ((1..=10_000).contains(&self.sessions.max), "sessions.max must lie between 1 and 10000"),
            (max.as_secs() <= 8784 * 3600, "sessions.maxTTL may be 8784h (a year) at most"),
            (
                (120..=86_400).contains(&self.tokens.access_ttl.as_secs()),
                "tokens.accessTTL must lie between 2m and 24h",
            ),
            (
                self.tokens.access_ttl.get() < idle.get(),
                "tokens.accessTTL must be shorter than sessions.idleTTL: clients refresh when the access token ends, and the session must still live then",
            ),
            (self.tokens.refresh_grace.as_secs() <= 300, "tokens.refreshGrace may be 5m at most"),
            (self.tokens.stream_grace.as_secs() <= 86_400, "tokens.streamGrace may be 24h at most"),
            (self.workers != Some(0), "workers must be 1 or more"),
            (self.connections != Some(0), "connections must be 1 or more"),
            (
                self.references.is_some() || self.identity_provider.ca_ref.is_none(),
                "identityProvider.caRef needs references: the folder in which the key KEY of a ConfigMap NAME is the file configmaps/NAME/KEY",
            ),
            (
                self.references.is_some() || listed_clients.iter().all(|client| client.secret_ref.is_none()),
                "clients.static[].secretRef needs references: the folder in which the key KEY of a Secret NAME is the file secrets/NAME/KEY",
            ),
        ];
        self.identity_provider.check_parameters().map_err(ConfigError::Rule)?;
        self.clients.check_origins().map_err(ConfigError::Rule)?;
        for client in listed_clients {
            client.check().map_err(ConfigError::Rule)?;
        }
        self.upstream.identity.check().map_err(ConfigError::Rule)?;
        self.upstream.timeouts.check().map_err(ConfigError::Rule)?;
        self.upstream.limits.check().map_err(ConfigError::Rule)?;
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err(ConfigError::Rule(message)),
            None => Ok(()),
        }
    }

    /// The file of a Secret's key that a field refers to; `None` if there is no folder of [`Self::references`].
    pub fn secret_file(&self, reference: &SecretKeyReference) -> Option<PathBuf> {
        let SecretKeyReference { name, key } = reference;
        self.references.as_ref().map(|folder| folder.join("secrets").join(name).join(key))
    }

    /// The file with the certificates of `identityProvider.caRef`, if there is one.
    pub fn ca_file(&self) -> Option<PathBuf> {
        let ConfigMapKeyReference { name, key } = self.identity_provider.ca_ref.as_ref()?;
        self.references.as_ref().map(|folder| folder.join("configmaps").join(name).join(key))
    }

    /// The public address, checked.
    ///
    /// # Errors
    /// When it is not an origin in its one spelling.
    pub fn public_url(&self) -> Result<PublicUrl, InvalidUrl> {
        self.public_url.parse()
    }

    /// The issuer, checked.
    ///
    /// # Errors
    /// When it is not the address of an issuer.
    pub fn issuer_url(&self) -> Result<IssuerUrl, InvalidUrl> {
        self.identity_provider.issuer_url.parse()
    }

    /// The upstream, checked.
    ///
    /// # Errors
    /// When it is not an http or https address.
    pub fn upstream_url(&self) -> Result<UpstreamUrl, InvalidUrl> {
        self.upstream.url.parse()
    }

    /// The forwarded paths, checked.
    ///
    /// # Errors
    /// When one is not an upstream path.
    pub fn upstream_paths(&self) -> Result<Vec<PathPattern>, InvalidUrl> {
        self.upstream.paths.iter().map(|path| path.parse()).collect()
    }
}

fn default_listen() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 8080).into()
}

fn default_health_listen() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 8081).into()
}

fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
        && text.matches('@').count() == 1
        && !text.contains(' ')
}

fn is_host(text: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests;
