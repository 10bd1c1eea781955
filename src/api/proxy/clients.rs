use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyReference;

/// MCP clients: how they register, and which of them may connect.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clients {
    /// Dynamic client registration (RFC 7591): Enabled (default) or Disabled. Registrations are stateless: the proxy stores
    /// nothing for them.
    #[serde(default)]
    pub dynamic_registration: DynamicRegistration,

    /// Client ID metadata documents: which clients may use the URL of a metadata document as their client ID, as Claude and
    /// VS Code do, instead of registering. The proxy fetches the document. Known (default), Any or Disabled.
    #[serde(default)]
    pub metadata_documents: MetadataDocuments,

    /// Allowed redirect URIs of clients that are not listed in static.
    #[serde(default)]
    pub redirects: Redirects,

    /// Preregistered clients: clients whose client ID is configured by hand, for example in the advanced settings of a
    /// connector in claude.ai.
    #[serde(default, rename = "static", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["clientID".into()]))]
    pub listed: Vec<StaticClient>,

    /// Additional browser origins that may call the MCP endpoints, such as https://tools.example.com. Always allowed: the
    /// proxy's own origin, localhost, well-known MCP clients and the hosts in redirects.hosts. Clients that do not run in a
    /// browser need no entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 300)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(origin, origin.matches('^[a-z][a-z0-9+.-]*://([a-z0-9]([a-z0-9._-]*[a-z0-9])?|[[][0-9a-f:.]+[]])(:[0-9]{1,5})?$') && !origin.matches('^(https:.*:443|http:.*:80)$'))")
            .message("each of clients.origins must be an origin as browsers send it: scheme and host in lower case, no default port, no path and no slash at the end, such as https://tools.example.com")
    )]
    pub origins: Vec<String>,
}

impl Clients {
    /// Applies the CRD's rule for `origins` to a configuration file.
    ///
    /// # Errors
    /// An invalid origin; the message states the expected form.
    pub fn check_origins(&self) -> Result<(), &'static str> {
        if self.origins.iter().all(|origin| is_origin(origin)) {
            return Ok(());
        }
        Err(
            "each of clients.origins must be an origin as browsers send it: scheme and host in lower case, no default port, no path and no slash at the end, such as https://tools.example.com",
        )
    }
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_name = host.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && host.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
        && host.bytes().last().is_some_and(plain);
    let is_address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|inner| {
        !inner.is_empty() && inner.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
    });
    scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| plain(byte) || matches!(byte, b'+' | b'.' | b'-'))
        && (is_name || (is_address && host == host.to_lowercase()))
        && port.is_none_or(|port| {
            (1..=5).contains(&port.len())
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && !matches!((scheme, port), ("https", "443") | ("http", "80"))
        })
}

/// Whether dynamic client registration (RFC 7591) is available.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DynamicRegistration {
    /// POST /register issues a client ID.
    #[default]
    Enabled,
    /// The /register endpoint is not available. Clients that registered earlier continue to work.
    Disabled,
}

/// Which hosts may serve client ID metadata documents.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum MetadataDocuments {
    /// Hosts of well-known MCP clients (claude.ai, vscode.dev, ...) and redirects.hosts.
    #[default]
    Known,
    /// Every public https host. Anyone can then make the proxy fetch a document from the internet.
    Any,
    /// No host: metadata documents are not accepted.
    Disabled,
}

/// A preregistered client.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticClient {
    /// Client ID to configure in the client, such as claude-ai.
    #[serde(rename = "clientID")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._~-]*$')")
            .message("clientID is made of letters, digits and . _ ~ -, such as claude-ai")
    )]
    pub client_id: String,

    /// Reference to the client secret. Without it the client is a public client, protected by PKCE only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyReference>,

    /// Allowed redirect URIs, such as https://claude.ai/api/mcp/auth_callback. Compared byte for byte, except for the port of
    /// a loopback address. The rules in redirects do not apply to them.
    #[serde(rename = "redirectURIs")]
    #[schemars(length(min = 1, max = 10), inner(length(min = 1, max = 512)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(uri, uri.matches('^[a-zA-Z][a-zA-Z0-9+.-]*:[!-~]+$') && !uri.matches('^(?i)(javascript|data|file|vbscript|blob|about):') && !uri.contains('#') && (!uri.matches('^(?i)http:') || uri.matches('^http://(localhost|127[.]0[.]0[.]1|[\\\\[]::1[\\\\]])([:/?].*)?$')))")
            .message("each of redirectURIs must be https, http for localhost, or an app's own scheme, without fragment and spaces, such as https://claude.ai/api/mcp/auth_callback")
    )]
    pub redirect_uris: Vec<String>,
}

impl StaticClient {
    /// Applies the CRD's rules to a configuration file.
    ///
    /// # Errors
    /// The first invalid field; the message states the expected form.
    pub fn check(&self) -> Result<(), &'static str> {
        let of_an_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-');
        if !self.client_id.starts_with(|first: char| first.is_ascii_alphanumeric())
            || self.client_id.len() > 128
            || !self.client_id.bytes().all(of_an_id)
        {
            return Err("each clients.static[].clientID is made of letters, digits and . _ ~ -, such as claude-ai");
        }
        // Name and key become part of a file path.
        let is_name = |name: &str| !name.is_empty() && !name.contains('/') && !name.starts_with("..") && name != ".";
        if self.secret_ref.as_ref().is_some_and(|secret| !is_name(&secret.name) || !is_name(&secret.key)) {
            return Err("clients.static[].secretRef must name a Secret and one of its keys");
        }
        if self.redirect_uris.is_empty() || !self.redirect_uris.iter().all(|uri| may_be_listed(uri)) {
            return Err(
                "each of clients.static[].redirectURIs must be https, http for localhost, or an app's own scheme, without fragment and spaces, such as https://claude.ai/api/mcp/auth_callback",
            );
        }
        Ok(())
    }
}

fn may_be_listed(uri: &str) -> bool {
    let Ok(url) = url::Url::parse(uri) else { return false };
    let plain = uri.bytes().all(|byte| byte.is_ascii_graphic()) && !uri.contains('#');
    let loopback = || matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match url.scheme() {
        "javascript" | "data" | "file" | "vbscript" | "blob" | "about" => false,
        "http" => plain && loopback(),
        _ => plain,
    }
}

/// Allowed redirect URIs: where the browser may be redirected after a login.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.policy == 'Known' || !has(self.hosts) || size(self.hosts) == 0")
        .message("policy Any takes every https host, whatever is listed: remove hosts, or write policy: Known")
)]
pub struct Redirects {
    /// Redirect policy. Known (default): hosts of well-known MCP clients (claude.ai, vscode.dev, ...), localhost and hosts.
    /// Any: every https host and localhost.
    #[serde(default)]
    pub policy: RedirectPolicy,

    /// Additional redirect hosts with policy Known, such as chat.example.com.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(host, host.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'))")
            .message("each of hosts must be a host name in lower case, such as chat.example.com, without scheme, port or path")
    )]
    pub hosts: Vec<String>,
}

/// Which hosts are allowed in redirect URIs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RedirectPolicy {
    /// Hosts of well-known MCP clients, loopback addresses and the listed hosts.
    #[default]
    Known,
    /// Every https host and loopback addresses.
    Any,
}
