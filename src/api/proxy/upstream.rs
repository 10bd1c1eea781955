use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, Timeouts};
use crate::api::{
    IdentityHeader, PathPattern, UpstreamUrl,
    rules::{self, BrokenRule},
};

/// MCP server to which requests are forwarded.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// URL of the MCP server, http or https, such as http://my-server:8000. Its path is prepended to each forwarded path.
    pub url: UpstreamUrl,

    /// Forwarded paths; * matches one whole segment. Other paths receive 404. Each path is a separate OAuth resource: a token
    /// for one path is rejected at another. Default: /mcp and /servers/*/mcp.
    #[serde(default = "default_paths")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = rules::PATHS.schema())]
    pub paths: Vec<PathPattern>,

    /// How the caller's identity is passed to the upstream.
    #[serde(default)]
    pub identity: Identity,

    /// Timeouts of the upstream and of clients.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// Limits on requests and streams.
    #[serde(default)]
    pub limits: Limits,
}

fn default_paths() -> Vec<PathPattern> {
    ["/mcp", "/servers/*/mcp"].map(PathPattern::unchecked).to_vec()
}

/// How the caller's identity is passed to the upstream.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = rules::HEADERS_NEED_THEIR_TYPE.schema())]
pub struct Identity {
    /// Headers (default): the caller's e-mail address is sent in request headers. None: no identity is sent.
    #[serde(default, rename = "type")]
    pub kind: IdentityType,

    /// Names of the identity headers. Only with type Headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<IdentityHeaders>,
}

impl Identity {
    pub(crate) fn check(&self) -> Result<(), BrokenRule> {
        rules::HEADERS_NEED_THEIR_TYPE.check("upstream.identity", self)?;
        self.headers
            .as_ref()
            .map_or(Ok(()), |headers| rules::HEADERS_DIFFER.check("upstream.identity.headers", headers))
    }
}

/// How the caller's identity is passed to the upstream.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum IdentityType {
    /// The identity is sent in request headers.
    #[default]
    Headers,
    /// No identity is sent.
    None,
}

/// Request headers that carry the caller's verified e-mail address in lower case. The proxy removes headers with these
/// names from client requests.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = rules::HEADERS_DIFFER.schema())]
pub struct IdentityHeaders {
    /// Header that many upstreams read as the user name. Its value is the e-mail address. Default: X-Forwarded-User.
    #[serde(default = "default_user_header")]
    pub user: IdentityHeader,

    /// Header that many upstreams read as the e-mail address. Default: X-Forwarded-Email.
    #[serde(default = "default_email_header")]
    pub email: IdentityHeader,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self { user: default_user_header(), email: default_email_header() }
    }
}

fn default_user_header() -> IdentityHeader {
    IdentityHeader::unchecked("X-Forwarded-User")
}

fn default_email_header() -> IdentityHeader {
    IdentityHeader::unchecked("X-Forwarded-Email")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_headers_are_distinct_and_not_reserved() {
        let check = |user: &str, email: &str| -> Result<(), String> {
            let identity = serde_json::json!({"headers": {"user": user, "email": email}});
            let identity: Identity = serde_json::from_value(identity).map_err(|error| error.to_string())?;
            identity.check().map_err(|error| error.to_string())
        };
        assert_eq!(check("X-User", "X-Mail"), Ok(()));
        for (user, email, says) in [
            ("X-User", "x-user", "the same header"),
            ("X User", "X-Mail", "letters, digits and hyphens"),
            ("X-User", "Cookie", "reserved by HTTP"),
            ("Mcp-User", "X-Mail", "reserved by HTTP"),
        ] {
            assert!(check(user, email).unwrap_err().contains(says), "{user} {email}");
        }
    }
}
