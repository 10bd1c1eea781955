use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, Timeouts};

/// MCP server to which requests are forwarded.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// URL of the MCP server, http or https, such as http://my-server:8000. Its path is prepended to each forwarded path.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
            .message("upstream.url must be http://HOST:PORT or https://HOST:PORT, with or without a path, without query or fragment")
    )]
    pub url: String,

    /// Forwarded paths; * matches one whole segment. Other paths receive 404. Each path is a separate OAuth resource: a token
    /// for one path is rejected at another. Default: /mcp and /servers/*/mcp.
    #[serde(default = "default_paths")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 2, max = 255)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(path, path.matches('^(/([A-Za-z0-9._~-]+|[*]))+$') && !path.matches('/[.]{1,2}(/|$)'))")
            .message("an upstream path is made of letters, digits and -._~ between single slashes, or * for one whole segment, without a slash at the end, such as /mcp or /servers/*/mcp"),
        validation = Rule::new("!self.exists(path, path.matches('^/([*]|[.]well-known|authorize|callback|consent|jwks|register|revoke|token)(/|$)'))")
            .message("an upstream path may not take the place of our own endpoints (/.well-known, /authorize, /callback, /consent, /jwks, /register, /revoke, /token)"),
        validation = Rule::new("self.exists(path, !path.contains('*'))")
            .message("paths needs at least one path without *: it is what clients connect to by default")
    )]
    pub paths: Vec<String>,

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

fn default_paths() -> Vec<String> {
    ["/mcp", "/servers/*/mcp"].map(str::to_owned).to_vec()
}

/// How the caller's identity is passed to the upstream.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.type == 'Headers' || !has(self.headers)")
        .message("identity.headers goes with type: Headers only; remove it or change the type")
)]
pub struct Identity {
    /// Headers (default): the caller's e-mail address is sent in request headers. None: no identity is sent.
    #[serde(default, rename = "type")]
    pub kind: IdentityType,

    /// Names of the identity headers. Only with type Headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<IdentityHeaders>,
}

impl Identity {
    /// Applies the CRD's rules to a configuration file.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Some(headers) = &self.headers else { return Ok(()) };
        if self.kind != IdentityType::Headers {
            return Err("identity.headers goes with type: Headers only; remove it or change the type");
        }
        for name in [&headers.user, &headers.email] {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err("identity.headers: a header's name is made of letters, digits and hyphens");
            }
            let name = name.to_ascii_lowercase();
            if RESERVED_HEADERS.contains(&name.as_str()) || name.starts_with("mcp-") {
                return Err(
                    "identity.headers: this header has a meaning of its own in HTTP or MCP: choose another name, such as X-Forwarded-User",
                );
            }
        }
        if headers.user.eq_ignore_ascii_case(&headers.email) {
            return Err(
                "identity.headers: user and email are the same header; name another for one of them, such as X-Forwarded-Email",
            );
        }
        Ok(())
    }
}

/// Headers with a meaning in HTTP or MCP, which cannot carry an identity.
const RESERVED_HEADERS: [&str; 16] = [
    "authorization",
    "cookie",
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept",
    "origin",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

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
#[x_kube(
    validation = Rule::new("[self.user, self.email].all(name, name.matches('^[A-Za-z0-9-]+$'))")
        .message("a header's name is made of letters, digits and hyphens"),
    validation = Rule::new(format!("[self.user, self.email].all(name, !(name.lowerAscii() in {RESERVED_HEADERS:?}) && !name.lowerAscii().startsWith('mcp-'))").replace('"', "'"))
        .message("this header has a meaning of its own in HTTP or MCP: choose another name, such as X-Forwarded-User"),
    validation = Rule::new("self.user.lowerAscii() != self.email.lowerAscii()")
        .message("user and email are the same header; name another for one of them, such as X-Forwarded-Email")
)]
pub struct IdentityHeaders {
    /// Header that many upstreams read as the user name. Its value is the e-mail address. Default: X-Forwarded-User.
    #[serde(default = "default_user_header")]
    #[schemars(length(min = 1, max = 64))]
    pub user: String,

    /// Header that many upstreams read as the e-mail address. Default: X-Forwarded-Email.
    #[serde(default = "default_email_header")]
    #[schemars(length(min = 1, max = 64))]
    pub email: String,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self { user: default_user_header(), email: default_email_header() }
    }
}

fn default_user_header() -> String {
    "X-Forwarded-User".to_owned()
}

fn default_email_header() -> String {
    "X-Forwarded-Email".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_headers_are_distinct_and_not_reserved() {
        let check = |user: &str, email: &str| {
            let headers = IdentityHeaders { user: user.to_owned(), email: email.to_owned() };
            Identity { kind: IdentityType::Headers, headers: Some(headers) }.check()
        };
        assert_eq!(check("X-User", "X-Mail"), Ok(()));
        for (user, email, says) in [
            ("X-User", "x-user", "the same header"),
            ("X User", "X-Mail", "letters, digits and hyphens"),
            ("X-User", "Cookie", "a meaning of its own"),
            ("Mcp-User", "X-Mail", "a meaning of its own"),
        ] {
            assert!(check(user, email).unwrap_err().contains(says), "{user} {email}");
        }
    }
}
