#![expect(clippy::duplicated_attributes, reason = "columns may have one type")]
#![expect(clippy::doc_markdown, reason = "these comments are the descriptions of the CRD, where backticks are noise")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// All fields are in the spec: a status subresource would require a second write per login.
/// State of the session. Times are RFC 3339 strings in UTC.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "mcp.jomcgi.dev",
    version = "v1alpha1",
    kind = "McpOAuthSession",
    plural = "mcpoauthsessions",
    shortname = "mcpsession",
    shortname = "mcpsessions",
    category = "mcp",
    namespaced,
    derive = "PartialEq",
    doc = "Session of one user with one MCP client. Delete it to log that client out: its next request is rejected. Only the proxy's pods write sessions; a session modified by anyone else is invalid.",
    selectable = ".spec.user.email",
    selectable = ".spec.proxy",
    printcolumn(name = "User", type_ = "string", json_path = ".spec.user.email"),
    printcolumn(name = "Client", type_ = "string", json_path = ".spec.client.name"),
    printcolumn(name = "Proxy", type_ = "string", json_path = ".spec.proxy"),
    printcolumn(name = "Refreshed", type_ = "date", json_path = ".spec.rotatedAt"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.proxy == oldSelf.proxy && self.user == oldSelf.user && self.client == oldSelf.client && self.scopes == oldSelf.scopes && self.resource == oldSelf.resource && self.createdAt == oldSelf.createdAt")
        .message("proxy, user, client, scopes, resource and createdAt are immutable: delete the session, and the user logs in again")
)]
pub struct McpOAuthSessionSpec {
    /// Name of the McpOAuthProxy in this namespace that created the session.
    #[schemars(length(max = 52))]
    pub proxy: String,
    /// User who logged in.
    pub user: SessionUser,
    /// MCP client of the session.
    pub client: SessionClient,
    /// Scopes granted to the client.
    #[schemars(length(max = 16), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// URL of the MCP endpoint for which the tokens are valid (RFC 8707).
    #[schemars(length(max = 1024))]
    pub resource: String,
    /// Time of the login.
    #[schemars(length(max = 40))]
    pub created_at: String,
    /// Pending until the client has exchanged its authorization code for tokens, then Active.
    pub phase: SessionPhase,
    /// Generation of the current refresh token: incremented at each rotation.
    #[schemars(range(min = 0))]
    #[serde(rename = "rotation")]
    pub generation: i64,
    /// Time at which the current refresh token was issued.
    #[schemars(length(max = 40))]
    pub rotated_at: String,
    /// Time at which the session expires unless the client refreshes its tokens.
    #[schemars(length(max = 40))]
    pub expires_at: String,
    /// Claims from the issuer that the access rules evaluate.
    pub claims: SessionClaims,
    /// Encrypted refresh token of the issuer, used to check that the account still exists.
    #[serde(default, rename = "upstreamToken", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub issuer_refresh_token: Option<String>,
    /// End of the lease of the pod that is currently checking the account at the issuer. Other pods wait until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub leased_until: Option<String>,
    /// Message authentication code over the name and all other fields. A session with an invalid code is ended.
    #[schemars(length(max = 128))]
    pub mac: String,
}

/// User who logged in, identified by issuer and subject. The e-mail address is sent to the upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionUser {
    /// OpenID Connect issuer.
    #[schemars(length(max = 512))]
    pub issuer: String,
    /// Stable identifier of the user at the issuer (sub claim).
    #[schemars(length(max = 255))]
    pub subject: String,
    /// Verified e-mail address in lower case.
    #[schemars(length(max = 320))]
    pub email: String,
}

/// MCP client of the session.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionClient {
    /// Self-declared name of the client.
    #[schemars(length(max = 128))]
    pub name: String,
    /// SHA-256 of the client ID, base64url.
    #[schemars(length(max = 64))]
    pub id_hash: String,
    /// Host of the client's redirect URI.
    #[schemars(length(max = 255))]
    pub redirect_host: String,
}

/// Phase of the session.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SessionPhase {
    /// The user has logged in; the client has no tokens yet.
    Pending,
    /// The client has its tokens.
    Active,
}

/// Claims from the issuer that the access rules evaluate.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionClaims {
    /// Workspace domain of the account (Google's hd claim).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub hosted_domain: Option<String>,
    /// Whether the issuer has verified the e-mail address (email_verified claim).
    pub email_verified: bool,
    /// Groups of the user, limited to what access.groups requires.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 256)))]
    pub groups: Vec<String>,
}
