use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use thiserror::Error;

use super::{item_paths::AllowedItemPaths, mounts};
use crate::{
    api::{
        McpOAuthProxy, McpOAuthProxySpec, PathPattern,
        proxy::{CredentialKeys, Credentials, OnePasswordSource, Pod, SecretKeyReference, Service},
        rules::{self, BrokenRule},
    },
    config::{ConfigError, CredentialFiles, ProxyConfig, SessionsConfig, StoreConfig},
};

/// Settings of the operator that apply to every proxy.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Image of proxies whose resource sets no image
    #[arg(long, env = "MCP_OAUTH_PROXY_IMAGE", default_value = concat!("ghcr.io/jomcgi/mcp-oauth-operator:", env!("CARGO_PKG_VERSION")))]
    pub(super) proxy_image: String,

    /// DNS domain of the cluster, for the URLs in the status
    #[arg(long, env = "MCP_OAUTH_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub(super) cluster_domain: String,

    /// 1Password items that each namespace may refer to, as JSON: {"NAMESPACE": ["vaults/VAULT/items/ITEM"]}; * as ITEM
    /// matches every item of the vault. If unset, all items that the 1Password operator can read are allowed
    #[arg(
        long = "one-password-allowed-item-paths",
        env = "MCP_OAUTH_ONE_PASSWORD_ALLOWED_ITEM_PATHS",
        value_name = "JSON",
        default_value = ""
    )]
    pub(super) one_password: AllowedItemPaths,
}

/// An `McpOAuthProxy` that passed every check that needs no requests.
#[derive(Clone, Debug)]
pub(super) struct ValidatedProxy {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) owner: OwnerReference,
    pub(super) config: ProxyConfig,
    pub(super) credentials: CredentialsSource,
    pub(super) replicas: i32,
    pub(super) image: String,
    pub(super) pod: Pod,
    pub(super) service: Service,
    /// The MCP URL for clients.
    pub(super) url: String,
    /// The URL that tunnels and gateways route to.
    pub(super) service_url: String,
}

/// The source of the credentials.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CredentialsSource {
    /// A 1Password item; the operator applies a `OnePasswordItem` for it.
    OnePassword { item_path: String },
    /// An existing Secret, which the operator only reads.
    Secret { name: String },
}

/// Why a resource is invalid. If CRD and operator have the same version, the CRD's rules already reject most of these.
#[derive(Debug, Error)]
pub enum InvalidProxy {
    /// A field that is also part of the proxy's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    #[error("{0}")]
    Name(&'static str),
    #[error("credentials is empty")]
    NoCredentials,
    /// The operator's settings do not allow the item in this namespace.
    #[error(
        "namespace {namespace} may not use the 1Password item {item_path}: an administrator can add the item to onePassword.allowedItemPaths of the operator"
    )]
    ItemNotAllowed { namespace: String, item_path: String },
    /// A metadata field is missing that the API server sets.
    #[error("metadata.{0} is missing: the object does not come from an API server")]
    Incomplete(&'static str),
}

/// Validates a resource and collects the input of `build`.
pub(super) fn validate(proxy: &McpOAuthProxy, settings: &Settings) -> Result<ValidatedProxy, InvalidProxy> {
    let meta = &proxy.metadata;
    let name = meta.name.clone().ok_or(InvalidProxy::Incomplete("name"))?;
    let namespace = meta.namespace.clone().ok_or(InvalidProxy::Incomplete("namespace"))?;
    let uid = meta.uid.clone().ok_or(InvalidProxy::Incomplete("uid"))?;
    if !rules::RESOURCE_NAME.holds(&name) {
        return Err(InvalidProxy::Name(rules::RESOURCE_NAME.message()));
    }
    let spec = &proxy.spec;
    rules::ONE_CREDENTIALS_SOURCE.check("credentials", &spec.credentials)?;
    let store = StoreConfig::Kubernetes { namespace: namespace.clone(), proxy: name.clone(), uid: uid.clone() };
    let config = configuration(spec, store);
    config.validate()?;
    let first = config.upstream.paths.iter().find(|path| path.is_literal()).map_or("", PathPattern::as_str);
    // A foreground deletion (as Argo CD does) then waits for the children, so that their names are free when it completes.
    let owner = OwnerReference {
        block_owner_deletion: Some(true),
        ..proxy.controller_owner_ref(&()).ok_or(InvalidProxy::Incomplete("uid"))?
    };

    Ok(ValidatedProxy {
        owner,
        url: config.public_url.join(first),
        service_url: format!("http://{name}.{namespace}.svc.{}:{}", settings.cluster_domain, spec.service.port.get()),
        credentials: credentials(&spec.credentials, &namespace, &settings.one_password)?,
        replicas: spec.replicas.get().cast_signed(),
        image: spec.image.as_ref().map_or_else(|| settings.proxy_image.clone(), ToString::to_string),
        pod: spec.pod.clone().unwrap_or_default(),
        service: spec.service.clone(),
        config,
        name,
        namespace,
        uid,
    })
}

fn credentials(
    credentials: &Credentials,
    namespace: &str,
    allowed: &AllowedItemPaths,
) -> Result<CredentialsSource, InvalidProxy> {
    match credentials {
        Credentials { one_password: Some(OnePasswordSource { item_path }), .. } => {
            if !allowed.allow(namespace, item_path) {
                return Err(InvalidProxy::ItemNotAllowed {
                    namespace: namespace.to_owned(),
                    item_path: item_path.to_string(),
                });
            }
            Ok(CredentialsSource::OnePassword { item_path: item_path.to_string() })
        }
        Credentials { secret_ref: Some(secret), .. } => Ok(CredentialsSource::Secret { name: secret.name.to_string() }),
        Credentials { one_password: None, secret_ref: None, .. } => Err(InvalidProxy::NoCredentials),
    }
}

/// The configuration file of the pods.
fn configuration(spec: &McpOAuthProxySpec, store: StoreConfig) -> ProxyConfig {
    ProxyConfig {
        public_url: spec.public_url.clone(),
        listen: (std::net::Ipv6Addr::UNSPECIFIED, mounts::PORT).into(),
        health_listen: (std::net::Ipv6Addr::UNSPECIFIED, mounts::HEALTH_PORT).into(),
        workers: None,
        connections: None,
        identity_provider: spec.identity_provider.clone(),
        credentials: CredentialFiles {
            directory: mounts::path(mounts::CREDENTIALS).into(),
            keys: spec.credentials.keys.clone(),
        },
        references: Some(mounts::path(mounts::REFERENCES).into()),
        signing_keys: mounts::path(&format!("{}/{}", mounts::SIGNING_KEYS, mounts::SIGNING_KEYS_FILE)).into(),
        access: spec.access.clone(),
        upstream: spec.upstream.clone(),
        clients: spec.clients.clone(),
        tokens: spec.tokens.clone(),
        sessions: SessionsConfig {
            idle_ttl: spec.sessions.idle_ttl.clone(),
            max_ttl: spec.sessions.max_ttl.clone(),
            max_per_user: spec.sessions.max_per_user,
            max: spec.sessions.max,
            not_before: spec.sessions.not_before,
            store,
        },
        trusted_proxies: spec.trusted_proxies.clone(),
    }
}

impl ValidatedProxy {
    /// Name of the Secret with the credentials. The 1Password operator gives it the item's name.
    pub(super) fn credentials_secret(&self) -> &str {
        match &self.credentials {
            CredentialsSource::OnePassword { .. } => &self.name,
            CredentialsSource::Secret { name } => name,
        }
    }

    /// Required keys of the credentials Secret, without duplicates.
    pub(super) fn credential_keys(&self) -> Vec<&str> {
        let CredentialKeys { client_id, client_secret, encryption_key, .. } = &self.config.credentials.keys;
        let mut keys = Vec::new();
        for key in [client_id, client_secret, encryption_key] {
            if !keys.contains(&key.as_str()) {
                keys.push(key.as_str());
            }
        }
        keys
    }

    /// The optional key of the credentials Secret, unless it is also a required key.
    pub(super) fn optional_credential_key(&self) -> Option<&str> {
        let previous = self.config.credentials.keys.previous_encryption_key.as_str();
        (!self.credential_keys().contains(&previous)).then_some(previous)
    }

    /// Secret keys of the clients in `clients.static`, without duplicates.
    pub(super) fn client_secrets(&self) -> Vec<&SecretKeyReference> {
        let mut references: Vec<&SecretKeyReference> = Vec::new();
        for reference in self.config.clients.static_clients.iter().filter_map(|client| client.secret_ref.as_ref()) {
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        references
    }

    /// The Secret that holds the signing keys.
    pub(super) fn signing_keys_secret(&self) -> String {
        format!("{}-signing-keys", self.name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::operator) fn settings() -> Settings {
        Settings {
            proxy_image: "registry.example/proxy:1".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            one_password: AllowedItemPaths::default(),
        }
    }

    /// A minimal valid resource, with the fields of `spec` replaced.
    pub(in crate::operator) fn resource(spec: &Value) -> McpOAuthProxy {
        serde_json::from_value(object(spec)).unwrap()
    }

    fn object(spec: &Value) -> Value {
        let mut object = json!({
            "apiVersion": "mcp.jomcgi.dev/v1alpha1",
            "kind": "McpOAuthProxy",
            "metadata": {"name": "mcp", "namespace": "gateway", "uid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "generation": 3},
            "spec": {
                "publicURL": "https://mcp.example.com",
                "identityProvider": {"issuerURL": "https://accounts.google.com"},
                "credentials": {"secretRef": {"name": "login"}},
                "access": {"domains": ["example.com"]},
                "upstream": {"url": "http://gateway:4444"},
            },
        });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        object
    }

    pub(in crate::operator) fn validated(spec: &Value) -> ValidatedProxy {
        validate(&resource(spec), &settings()).unwrap()
    }

    #[test]
    fn status_url_is_the_first_literal_path() {
        let proxy = validated(&json!({"upstream": {"url": "http://g", "paths": ["/servers/*/mcp", "/one", "/two"]}}));
        assert_eq!(proxy.url, "https://mcp.example.com/one");
    }

    #[test]
    fn service_url_contains_the_port() {
        assert_eq!(validated(&json!({"service": {"port": 80}})).service_url, "http://mcp.gateway.svc.cluster.local:80");
    }

    #[test]
    fn resource_image_overrides_the_operators() {
        assert_eq!(validated(&json!({"image": "a/b:2"})).image, "a/b:2");
        assert_eq!(validated(&json!({})).image, "registry.example/proxy:1");
    }

    #[test]
    fn operator_rejects_what_the_crd_rejects() {
        for (spec, expected) in [
            (json!({"publicURL": "https://mcp.example.com/mcp"}), "publicURL"),
            (json!({"access": {}}), "admits no user"),
            (json!({"credentials": {}}), "exactly one source"),
            (
                json!({"credentials": {"secretRef": {"name": "a"}, "onePassword": {"itemPath": "vaults/a/items/b"}}}),
                "exactly one source",
            ),
            (json!({"credentials": {"onePassword": {"itemPath": "vaults/a/items/b/c"}}}), "itemPath"),
            (json!({"credentials": {"onePassword": {"itemPath": "vaults//items/b"}}}), "itemPath"),
            (json!({"upstream": {"url": "http://g", "paths": ["/servers/*/mcp"]}}), "without *"),
            (json!({"image": "a:latest"}), "latest"),
            (json!({"replicas": 101}), "101 must lie between 0 and 100"),
            (json!({"service": {"port": 0}}), "0 must lie between 1 and 65535"),
            (json!({"tokens": {"accessTTL": "2h"}, "sessions": {"idleTTL": "1h"}}), "shorter than sessions.idleTTL"),
        ] {
            let error = match serde_json::from_value(object(&spec)) {
                Ok(proxy) => validate(&proxy, &settings()).unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(expected), "{spec}: {error}");
        }
        for name in [&"a".repeat(53), "my.proxy", "1mcp", "mcp-", "Mcp", ""] {
            let mut named = resource(&json!({}));
            named.metadata.name = Some(name.to_owned());
            assert!(matches!(validate(&named, &settings()), Err(InvalidProxy::Name(_))), "{name}");
        }
    }

    #[test]
    fn namespace_can_name_only_its_allowed_items() {
        let allowed = r#"{"gateway": ["vaults/v/items/i"]}"#.parse().unwrap();
        let settings = Settings { one_password: allowed, ..settings() };
        let named =
            |path: &str| validate(&resource(&json!({"credentials": {"onePassword": {"itemPath": path}}})), &settings);
        assert!(named("vaults/v/items/i").is_ok());
        let error = named("vaults/v/items/other").unwrap_err().to_string();
        assert!(error.contains("namespace gateway") && error.contains("allowedItemPaths"), "{error}");
    }
}
