//! The proxy's configuration file and the status that its pods report. The operator writes the file from an
//! `McpOAuthProxy`; outside a cluster the administrator does (docs/standalone.md). The operator and the proxy share nothing else.

mod pod_status;

use std::{
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    api::{
        Bounded, PublicUrl,
        proxy::{
            Access, Clients, ConfigMapKeyReference, CredentialKeys, IdentityProvider, SecretKeyReference, SessionTtl,
            Tokens, Upstream, default_idle_ttl, default_max, default_max_per_user, default_max_ttl,
        },
        rules::{self, BrokenRule},
    },
    yaml::{self, InvalidYaml},
};
pub use pod_status::{PodStatus, RecheckStatus};

/// How long a terminating pod still accepts connections, because a Service may still route to it. After it, requests in
/// flight have `upstream.timeouts.drain`. The termination grace period must exceed the sum.
pub const UNREADY_BEFORE_DRAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// The configuration file of a proxy, in YAML. Fields that an `McpOAuthProxy` also has are documented there.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfig {
    #[serde(rename = "publicURL")]
    pub public_url: PublicUrl,
    /// Address for clients. Default: port 8080 of every address.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Address of /healthz, /readyz, /metrics and /status, which the operator queries. Default: port 8081 of every address.
    #[serde(default = "default_health_listen")]
    pub health_listen: SocketAddr,
    /// Number of worker threads, 1024 at most. Default: the number of CPUs, at most two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Bounded<1, 1024>>,
    /// Maximum number of client connections. Default: one for each 80 KiB of the memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<NonZeroUsize>,
    pub identity_provider: IdentityProvider,
    pub credentials: CredentialFiles,
    /// Folder with the objects that fields ending in `Ref` refer to: the key KEY of a Secret NAME is the file
    /// `secrets/NAME/KEY`, that of a ConfigMap `configmaps/NAME/KEY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<PathBuf>,
    /// File with the signing keys of access tokens, as `mcp-oauth-operator keys` writes it.
    pub signing_keys: PathBuf,
    pub access: Access,
    pub upstream: Upstream,
    #[serde(default)]
    pub clients: Clients,
    #[serde(default)]
    pub tokens: Tokens,
    pub sessions: SessionsConfig,
    /// Address ranges of the proxies in front, from which `X-Forwarded-For` is honoured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
}

/// The client ID, the client secret and the encryption key: one file each, as in a mounted Secret.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialFiles {
    pub directory: PathBuf,
    #[serde(default)]
    pub keys: CredentialKeys,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionsConfig {
    #[serde(default = "default_idle_ttl", rename = "idleTTL")]
    pub idle_ttl: SessionTtl,
    #[serde(default = "default_max_ttl", rename = "maxTTL")]
    pub max_ttl: SessionTtl,
    #[serde(default = "default_max_per_user")]
    pub max_per_user: Bounded<1, 1000>,
    #[serde(default = "default_max")]
    pub max: Bounded<1, 10_000>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    pub store: StoreConfig,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum StoreConfig {
    /// `McpOAuthSession` objects.
    Kubernetes {
        namespace: String,
        /// Name of the `McpOAuthProxy` that owns the sessions.
        proxy: String,
        uid: String,
    },
    /// Rows of an SQLite database, created if absent.
    #[serde(rename = "SQLite")]
    Sqlite { path: PathBuf },
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {} is invalid: {source}", .path.display())]
    Parse { path: PathBuf, source: InvalidYaml },
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    #[error(
        "identityProvider.caRef needs references: the folder in which the key KEY of a ConfigMap NAME is the file configmaps/NAME/KEY"
    )]
    CaNeedsReferences,
    #[error(
        "clients.static[].secretRef needs references: the folder in which the key KEY of a Secret NAME is the file secrets/NAME/KEY"
    )]
    SecretsNeedReferences,
}

impl ProxyConfig {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read or parsed, or breaks a rule of [`Self::validate`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = yaml::parse(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks the rules about several fields; those about one are checked when the file is parsed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self { identity_provider, access, upstream, clients, tokens, sessions, references, .. } = self;
        identity_provider.check()?;
        rules::LISTED_NEEDS_A_LIST.check("access", access)?;
        rules::ANY_USER_NEEDS_NO_LIST.check("access", access)?;
        let groups = (!access.groups.is_empty(), identity_provider.groups_claim.is_some());
        rules::GROUPS_NEED_A_CLAIM.check("access.groups", &groups)?;
        rules::PATHS.check("upstream.paths", &upstream.paths)?;
        upstream.identity.check()?;
        rules::ANY_NEEDS_NO_HOSTS.check("clients.redirects", &clients.redirects)?;
        let (idle, max) = (sessions.idle_ttl.get(), sessions.max_ttl.get());
        rules::IDLE_TTL_WITHIN_MAX_TTL.check("sessions", &(idle, max))?;
        rules::ACCESS_TTL_BELOW_IDLE_TTL.check("tokens", &(tokens.access_ttl.get(), idle))?;
        if references.is_none() && identity_provider.ca_ref.is_some() {
            return Err(ConfigError::CaNeedsReferences);
        }
        if references.is_none() && clients.static_clients.iter().any(|client| client.secret_ref.is_some()) {
            return Err(ConfigError::SecretsNeedReferences);
        }
        Ok(())
    }

    /// The file of a Secret's key; `None` without [`Self::references`].
    pub fn secret_file(&self, reference: &SecretKeyReference) -> Option<PathBuf> {
        let SecretKeyReference { name, key } = reference;
        self.references.as_ref().map(|folder| folder.join("secrets").join(name.as_str()).join(key.as_str()))
    }

    /// The file of `identityProvider.caRef`.
    pub fn ca_file(&self) -> Option<PathBuf> {
        let ConfigMapKeyReference { name, key } = self.identity_provider.ca_ref.as_ref()?;
        self.references.as_ref().map(|folder| folder.join("configmaps").join(name.as_str()).join(key.as_str()))
    }
}

fn default_listen() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 8080).into()
}

fn default_health_listen() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 8081).into()
}

#[cfg(test)]
mod tests;
