use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyReference;
use crate::api::{BrowserOrigin, RedirectHost, StaticClientId, StaticRedirectUri, rules};

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
    pub static_clients: Vec<StaticClient>,

    /// Additional browser origins that may call the MCP endpoints, such as https://tools.example.com. Always allowed: the
    /// proxy's own origin, localhost, well-known MCP clients and the hosts in redirects.hosts. Clients that do not run in a
    /// browser need no entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub origins: Vec<BrowserOrigin>,
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
    pub client_id: StaticClientId,

    /// Reference to the client secret. Without it the client is a public client, protected by PKCE only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyReference>,

    /// Allowed redirect URIs, such as https://claude.ai/api/mcp/auth_callback. Compared byte for byte, except for the port of
    /// a loopback address. The rules in redirects do not apply to them.
    #[serde(rename = "redirectURIs")]
    #[schemars(length(min = 1, max = 10))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub redirect_uris: Vec<StaticRedirectUri>,
}

/// Allowed redirect URIs: where the browser may be redirected after a login.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = rules::ANY_NEEDS_NO_HOSTS.schema())]
pub struct Redirects {
    /// Redirect policy. Known (default): hosts of well-known MCP clients (claude.ai, vscode.dev, ...), localhost and hosts.
    /// Any: every https host and localhost.
    #[serde(default)]
    pub policy: RedirectPolicy,

    /// Additional redirect hosts with policy Known, such as chat.example.com.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub hosts: Vec<RedirectHost>,
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
