use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limits, Timeouts};

/// The MCP server that requests are forwarded to.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// Its address, http or https. A path in it is put before each forwarded path.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
            .message("upstream.url must be http://HOST:PORT or https://HOST:PORT, with or without a path, without query or fragment")
    )]
    pub url: String,

    /// The paths that are forwarded; * stands for one whole segment. Everything else is 404. Each path is a resource of
    /// its own: a token for one is refused at another.
    #[serde(default = "default_paths")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 2, max = 255)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(path, path.matches('^(/([A-Za-z0-9._~-]+|[*]))+$') && !path.matches('/[.]{1,2}(/|$)'))")
            .message("an upstream path is made of letters, digits and -._~ between single slashes, or * for one whole segment, without a slash at the end, such as /mcp or /servers/*/mcp"),
        validation = Rule::new("!self.exists(path, path.matches('^/([*]|[.]well-known|authorize|callback|consent|jwks|register|revoke|token)(/|$)'))")
            .message("an upstream path may not take the place of our own endpoints (/.well-known, /authorize, /callback, /consent, /jwks, /register, /revoke, /token)"),
        validation = Rule::new("self.exists(path, !path.contains('*'))")
            .message("paths needs at least one path without *: it is what clients are told to connect to")
    )]
    pub paths: Vec<String>,

    /// How the upstream is told who calls.
    #[serde(default)]
    pub identity: Identity,

    /// How long is waited, for the upstream and for clients.
    #[serde(default)]
    pub timeouts: Timeouts,

    /// How much is let through.
    #[serde(default)]
    pub limits: Limits,
}

fn default_paths() -> Vec<String> {
    ["/mcp", "/servers/*/mcp"].map(str::to_owned).to_vec()
}

/// How the upstream is told who calls.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.type == 'Headers' || !has(self.headers)")
        .message("identity.headers goes with type: Headers only; remove it or change the type")
)]
pub struct Identity {
    /// Headers: the caller's e-mail in request headers. None: the upstream is told nothing.
    #[serde(default, rename = "type")]
    pub kind: IdentityType,

    /// The names of the headers, with type Headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<IdentityHeaders>,
}

impl Identity {
    /// The rules of the schema, for a configuration that met no API server.
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

/// Headers that cannot carry an identity.
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

/// The way of telling the upstream who calls.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum IdentityType {
    /// In request headers.
    #[default]
    Headers,
    /// Not at all.
    None,
}

/// The request headers that carry the caller's verified e-mail address, lower-cased. What a client sends under these
/// names never arrives.
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
    /// Named as what many upstreams read as the user's name.
    #[serde(default = "default_user_header")]
    #[schemars(length(min = 1, max = 64))]
    pub user: String,

    /// Named as what many upstreams read as the user's address.
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
    fn identity_headers_are_two_that_mean_nothing_else() {
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
