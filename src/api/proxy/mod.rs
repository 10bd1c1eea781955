//! `McpOAuthProxy`: an OAuth proxy in front of one MCP server. One file per section of its spec.

#![expect(clippy::doc_markdown, reason = "these comments are the descriptions of the CRD, where backticks are noise")]

mod access;
mod clients;
mod credentials;
mod identity_provider;
mod lifetimes;
mod status;
mod traffic;
mod upstream;
mod workload;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use access::{Access, AccessPolicy};
pub use clients::{Clients, DynamicRegistration, MetadataDocuments, RedirectPolicy, Redirects, StaticClient};
pub use credentials::{CredentialKeys, Credentials, OnePasswordSource, SecretKeyReference, SecretReference};
pub use identity_provider::{ConfigMapKeyReference, EmailVerified, IdentityProvider, RecheckOnRefresh};
pub use lifetimes::{Sessions, Tokens};
pub(crate) use lifetimes::{default_idle_ttl, default_max, default_max_per_user, default_max_ttl};
pub use status::McpOAuthProxyStatus;
pub use traffic::{Limits, Timeouts};
pub use upstream::{Identity, IdentityHeaders, IdentityType, Upstream};
pub use workload::{Pod, Service, ServiceType};

/// Desired state of the resource.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "mcp.jomcgi.dev",
    version = "v1alpha1",
    kind = "McpOAuthProxy",
    plural = "mcpoauthproxies",
    shortname = "mop",
    category = "mcp",
    namespaced,
    status = "McpOAuthProxyStatus",
    derive = "PartialEq",
    doc = "An OAuth 2.1 proxy for an MCP server. People log in at an OpenID Connect issuer, their MCP client receives tokens, and the proxy forwards each request to the upstream with the caller's identity.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.labelSelector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas", priority = "1"),
    printcolumn(name = "Upstream", type_ = "string", json_path = ".spec.upstream.url", priority = "1"),
    printcolumn(name = "Service", type_ = "string", json_path = ".status.serviceURL", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name may have 52 characters at most, lower-case letters, digits and dashes, and begins with a letter: the Service gets it")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.access.groups) || size(self.access.groups) == 0 || has(self.identityProvider.groupsClaim)")
        .message("access.groups needs identityProvider.groupsClaim: the claim in which the issuer names a person's groups, such as groups"),
    validation = Rule::new("duration(self.tokens.accessTTL) < duration(self.sessions.idleTTL)")
        .message("tokens.accessTTL must be shorter than sessions.idleTTL: clients refresh when the access token ends, and the session must still live then")
)]
pub struct McpOAuthProxySpec {
    /// Public URL at which clients reach this proxy, such as https://mcp.example.com. It is the OAuth issuer identifier, which
    /// clients compare byte for byte: a lower-case origin without path or trailing slash, no default port (:443). http only
    /// for localhost.
    #[serde(rename = "publicURL")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = Rule::new("self.matches('^https://[a-z0-9.-]+(:[1-9][0-9]{0,4})?$') && !self.endsWith(':443') || self.matches('^http://(localhost|[a-z0-9.-]+[.]localhost|127[.][0-9.]+|[\\\\[]::1[\\\\]])(:[1-9][0-9]{0,4})?$') && !self.endsWith(':80')")
            .message("publicURL must be https://HOST or https://HOST:PORT in lower case, without path, query or slash at the end, no default port (:443) (http only for localhost)")
    )]
    pub public_url: String,

    /// OpenID Connect issuer at which people log in.
    pub identity_provider: IdentityProvider,

    /// Client ID and client secret at the issuer, and the proxy's encryption key.
    pub credentials: Credentials,

    /// Access rules: which people may log in.
    pub access: Access,

    /// MCP server to which requests are forwarded.
    pub upstream: Upstream,

    /// MCP clients: how they register, and which of them may connect.
    #[serde(default)]
    pub clients: Clients,

    /// Lifetimes of tokens.
    #[serde(default)]
    pub tokens: Tokens,

    /// Lifetimes and number of sessions.
    #[serde(default)]
    pub sessions: Sessions,

    /// CIDR ranges of the proxies in front of this one (tunnel, ingress), such as 10.42.0.0/16. X-Forwarded-For is honoured
    /// only from these. Without them client IPs are unknown, and rate limits apply to all clients together instead of per
    /// client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 4, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(range, isCIDR(range))")
            .message("each of trustedProxies must be a range of addresses, such as 10.42.0.0/16, 192.0.2.7/32 or fd00::/8")
    )]
    pub trusted_proxies: Vec<String>,

    /// Number of pods, 0 to 100. Default: 2.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Container image of the proxy, with a digest or a tag other than latest. Default: the operator's own image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^[^@ ]+@sha256:[0-9a-f]{64}$') || (self.matches('^[^@ ]+:[A-Za-z0-9_][A-Za-z0-9_.-]*$') && !self.endsWith(':latest'))")
            .message("image needs a tag other than latest, or a digest: NAME:TAG or NAME@sha256:DIGEST")
    )]
    pub image: Option<String>,

    /// Additional settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,

    /// Service in front of the pods.
    #[serde(default)]
    pub service: Service,
}

const fn default_replicas() -> i32 {
    2
}
