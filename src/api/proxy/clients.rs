use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyReference;

/// Which MCP clients may connect.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clients {
    /// Whether clients may register themselves (RFC 7591). Nothing is stored for a registration.
    #[serde(default)]
    pub dynamic_registration: DynamicRegistration,

    /// Which clients may name themselves by the address of a metadata document, as Claude and VS Code do, instead of
    /// registering. The proxy fetches the document.
    #[serde(default)]
    pub metadata_documents: MetadataDocuments,

    /// Where a person's browser may be sent back to.
    #[serde(default)]
    pub redirects: Redirects,

    /// Clients that want an id typed in by hand, such as the advanced settings of a connector in claude.ai.
    #[serde(default, rename = "static", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["clientID".into()]))]
    pub listed: Vec<StaticClient>,

    /// Web pages that may call an MCP endpoint from a browser, besides our own, those of the well-known MCP clients and of
    /// redirects.hosts, and this machine's (localhost), such as https://tools.example.com. Programs that are not web pages need
    /// no entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 300)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(origin, origin.matches('^[a-z][a-z0-9+.-]*://([a-z0-9]([a-z0-9._-]*[a-z0-9])?|[[][0-9a-f:.]+[]])(:[0-9]{1,5})?$') && !origin.matches('^(https:.*:443|http:.*:80)$'))")
            .message("each of clients.origins must be an origin as browsers send it: scheme and host in lower case, a port only where it does not go without saying, no path and no slash at the end, such as https://tools.example.com")
    )]
    pub origins: Vec<String>,
}

impl Clients {
    /// Checks of `origins` what the CRD's rule checks for a resource.
    ///
    /// # Errors
    /// What to write instead.
    pub fn check_origins(&self) -> Result<(), &'static str> {
        if self.origins.iter().all(|origin| is_origin(origin)) {
            return Ok(());
        }
        Err(
            "each of clients.origins must be an origin as browsers send it: scheme and host in lower case, a port only where it does not go without saying, no path and no slash at the end, such as https://tools.example.com",
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

/// Whether clients may register themselves.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DynamicRegistration {
    /// POST /register answers with a client id.
    #[default]
    Enabled,
    /// There is no /register. Clients that registered before go on working.
    Disabled,
}

/// Which clients may name themselves by the address of a metadata document.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum MetadataDocuments {
    /// Those whose document lies at a well-known MCP client's host (claude.ai, vscode.dev, ...) or one of redirects.hosts.
    #[default]
    Known,
    /// Those of every public https host: anybody can then make the proxy fetch a document from the internet.
    Any,
    /// None.
    Disabled,
}

/// A client that is known by an id typed in by hand.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticClient {
    /// The id to type in, such as claude-ai.
    #[serde(rename = "clientID")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._~-]*$')")
            .message("clientID is made of letters, digits and . _ ~ -, such as claude-ai")
    )]
    pub client_id: String,

    /// Where the client's secret is. Without it the client is a public one, which PKCE alone protects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyReference>,

    /// Where a person's browser may be sent back to, compared byte for byte but for the port of a loopback address. What is
    /// listed here need not be let in by redirects.
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
    /// Checks what the CRD's rules check for a resource.
    ///
    /// # Errors
    /// What to write instead.
    pub fn check(&self) -> Result<(), &'static str> {
        let of_an_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-');
        if !self.client_id.starts_with(|first: char| first.is_ascii_alphanumeric())
            || self.client_id.len() > 128
            || !self.client_id.bytes().all(of_an_id)
        {
            return Err("each clients.static[].clientID is made of letters, digits and . _ ~ -, such as claude-ai");
        }
        // They become a file's path.
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

/// Where a person's browser may be sent back to after a login.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.policy == 'Known' || !has(self.hosts) || size(self.hosts) == 0")
        .message("policy Any takes every https host, whatever is listed: remove hosts, or write policy: Known")
)]
pub struct Redirects {
    /// Known: well-known MCP clients' hosts (claude.ai, vscode.dev, ...), this machine (localhost), and hosts. Any: every
    /// https host.
    #[serde(default)]
    pub policy: RedirectPolicy,

    /// Further hosts that clients may be sent back to, such as chat.example.com.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(host, host.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'))")
            .message("each of hosts must be a host name in lower case, such as chat.example.com, without scheme, port or path")
    )]
    pub hosts: Vec<String>,
}

/// Which hosts a browser may be sent back to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RedirectPolicy {
    /// Well-known MCP clients' hosts, loopback, and those listed.
    #[default]
    Known,
    /// Every https host and loopback.
    Any,
}
