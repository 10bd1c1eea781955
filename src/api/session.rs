#![expect(clippy::duplicated_attributes, reason = "columns may have one type")]
#![expect(clippy::doc_markdown, reason = "these comments are the descriptions of the CRD, where backticks are noise")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// Everything is in the spec: a status subresource would cost a second write a login.
/// The login. Times are RFC 3339 strings in UTC.
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
    doc = "One login of one person with one MCP client. Delete it to log that client out: the next request is refused. It is written by the proxy's pods; a changed one counts as ended.",
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
        .message("whose session it is cannot be changed: delete the session, the person logs in again")
)]
pub struct McpOAuthSessionSpec {
    /// Name of the McpOAuthProxy of this namespace that the person logged in at.
    #[schemars(length(max = 52))]
    pub proxy: String,
    /// Who logged in.
    pub user: SessionUser,
    /// The MCP client they logged in with.
    pub client: SessionClient,
    /// The scopes that the client was granted.
    #[schemars(length(max = 16), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// The MCP endpoint that the tokens are for (RFC 8707).
    #[schemars(length(max = 1024))]
    pub resource: String,
    /// When the person logged in.
    #[schemars(length(max = 40))]
    pub created_at: String,
    /// Pending until the client has fetched its tokens, then Active.
    pub phase: SessionPhase,
    /// The generation of the newest refresh token.
    #[schemars(range(min = 0))]
    pub rotation: i64,
    /// When the newest refresh token was made.
    #[schemars(length(max = 40))]
    pub rotated_at: String,
    /// When the session ends unless the client refreshes before.
    #[schemars(length(max = 40))]
    pub expires_at: String,
    /// What the issuer said of the person, as far as the access rules read it.
    pub claims: SessionClaims,
    /// The issuer's refresh token, encrypted: with it the issuer is asked whether the person is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub upstream_token: Option<String>,
    /// Until when a pod that is asking the issuer does so alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub leased_until: Option<String>,
    /// Authenticates all other fields, and the name; a session whose mac does not fit is ended.
    #[schemars(length(max = 128))]
    pub mac: String,
}

/// Who logged in. Issuer and subject identify a person; the e-mail is what the upstream is told.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionUser {
    /// The OpenID Connect issuer.
    #[schemars(length(max = 512))]
    pub issuer: String,
    /// The issuer's own stable identifier of the person (sub).
    #[schemars(length(max = 255))]
    pub subject: String,
    /// The verified e-mail address, lower-cased.
    #[schemars(length(max = 320))]
    pub email: String,
}

/// The MCP client of a session.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionClient {
    /// The name the client gave itself when it registered.
    #[schemars(length(max = 128))]
    pub name: String,
    /// SHA-256 of the client id, base64url.
    #[schemars(length(max = 64))]
    pub id_hash: String,
    /// The host that the person's browser was sent back to.
    #[schemars(length(max = 255))]
    pub redirect_host: String,
}

/// How far a login has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SessionPhase {
    /// The person has logged in; the client has not yet fetched its tokens.
    Pending,
    /// The client has its tokens.
    Active,
}

/// What the issuer said of the person, as far as the access rules read it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionClaims {
    /// Google's hd: the Workspace domain that vouches for the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub hosted_domain: Option<String>,
    /// Whether the issuer says that the address is the person's.
    pub email_verified: bool,
    /// The person's groups, if access.groups asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 256)))]
    pub groups: Vec<String>,
}
