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

use ipnet::IpNet;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{Bounded, ImageReference, PublicUrl, rules};

pub use access::{Access, AccessPolicy};
pub use clients::{Clients, DynamicRegistration, MetadataDocuments, RedirectPolicy, Redirects, StaticClient};
pub use credentials::{CredentialKeys, Credentials, OnePasswordSource, SecretKeyReference, SecretReference};
pub use identity_provider::{ConfigMapKeyReference, EmailVerified, IdentityProvider, RecheckOnRefresh};
pub use lifetimes::{SessionTtl, Sessions, Tokens};
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
    doc = "An OAuth 2.1 proxy for an MCP server. Users log in at an OpenID Connect issuer, their MCP client receives tokens, and the proxy forwards each request to the upstream with the caller's identity.",
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
    validation = rules::RESOURCE_NAME.schema("self.metadata.name")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = rules::GROUPS_NEED_A_CLAIM.schema(),
    validation = rules::ACCESS_TTL_BELOW_IDLE_TTL.schema()
)]
pub struct McpOAuthProxySpec {
    /// Public URL at which clients reach this proxy, such as https://mcp.example.com. It is the OAuth issuer identifier, which
    /// clients compare byte for byte: a lower-case origin without path or trailing slash, no default port (:443). http only
    /// for localhost.
    #[serde(rename = "publicURL")]
    pub public_url: PublicUrl,

    /// OpenID Connect issuer at which users log in.
    pub identity_provider: IdentityProvider,

    /// Client ID and client secret at the issuer, and the proxy's encryption key.
    pub credentials: Credentials,

    /// Access rules: which users may log in.
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
    #[schemars(with = "Vec<String>", length(max = 64), inner(length(min = 4, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(range, isCIDR(range))")
            .message("each of trustedProxies must be a range of addresses, such as 10.42.0.0/16, 192.0.2.7/32 or fd00::/8")
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Number of pods, 0 to 100. Default: 2.
    #[serde(default = "default_replicas")]
    pub replicas: Bounded<0, 100>,

    /// Container image of the proxy, with a digest or a tag other than latest. Default: the operator's own image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageReference>,

    /// Additional settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,

    /// Service in front of the pods.
    #[serde(default)]
    pub service: Service,
}

const fn default_replicas() -> Bounded<0, 100> {
    Bounded::of::<2>()
}
