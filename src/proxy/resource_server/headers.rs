use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CONNECTION, HOST, InvalidHeaderName,
        InvalidHeaderValue,
    },
    uri::Authority,
};
use thiserror::Error;

use crate::api::{
    PublicUrl,
    proxy::{Identity, IdentityType},
};
use crate::http1::{RequestHead, is_hop_by_hop, nominated, write_field};
use crate::media_type::has_media_type;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How names begin that upstreams, the frameworks beneath them and what may stand before them (identity-aware proxies of the
/// clouds, mTLS) take for a statement about the caller or the request, without the `x-`.
const CLAIMS: [&str; 9] = [
    "cf-access-",
    "cf-connecting-",
    "client-cert",
    "forwarded",
    "proxy-",
    "remote-",
    "ssl-client-",
    "tailscale-",
    "true-client-ip",
];

/// The same, behind an `x-`.
const X_CLAIMS: [&str; 18] = [
    "amzn-oidc-",
    "auth",
    "client-",
    "cluster-client-ip",
    "envoy-",
    "forwarded",
    "goog-authenticated-",
    "goog-iap-",
    "http-method",
    "method-override",
    "ms-client-principal",
    "original-",
    "pomerium-",
    "real-",
    "remote-",
    "rewrite-",
    "ssl-client-",
    "webauth-",
];

/// How the names of headers begin that mirror a tool's parameters (MCP 2026-07-28, custom headers): these may hold any
/// character of a header name.
const MCP_PARAM: &str = "mcp-param-";

/// The response headers that browsers show to a client's code.
const EXPOSED: HeaderValue = HeaderValue::from_static("WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version");

/// Why the rules cannot be made.
#[derive(Debug, Error)]
pub enum InvalidHeaderRules {
    /// A name of upstream.identity.headers.
    #[error("upstream.identity.headers has a name that is no header name: {0}")]
    Name(#[from] InvalidHeaderName),
    /// A host.
    #[error("a host cannot be put in a header: {0}")]
    Value(#[from] InvalidHeaderValue),
}

/// What happens to headers on their way to the upstream.
#[derive(Debug)]
pub struct HeaderRules {
    identity: Vec<HeaderName>,
    /// Those of ours that are the same for every request, `Host` first, as they are sent.
    ours: BytesMut,
}

impl HeaderRules {
    /// The rules for an upstream at `host`.
    ///
    /// # Errors
    /// When a configured name is no header name.
    pub fn new(identity: &Identity, public_url: &PublicUrl, host: &Authority) -> Result<Self, InvalidHeaderRules> {
        let names = match identity.kind {
            IdentityType::Headers => {
                let names = identity.headers.clone().unwrap_or_default();
                vec![HeaderName::from_bytes(names.user.as_bytes())?, HeaderName::from_bytes(names.email.as_bytes())?]
            }
            IdentityType::None => vec![],
        };
        let (proto, public_host) = public_url.as_str().split_once("://").unwrap_or(("https", public_url.as_str()));
        let mut ours = BytesMut::new();
        // First, as RFC 9110 §7.2 asks for.
        write_field(&mut ours, &HOST, &HeaderValue::from_str(host.as_str())?);
        write_field(&mut ours, &X_FORWARDED_HOST, &HeaderValue::from_str(public_host)?);
        write_field(&mut ours, &X_FORWARDED_PROTO, &HeaderValue::from_str(proto)?);
        Ok(Self { identity: names, ours })
    }

    /// Adds to `head` what the upstream gets of a client's request headers, and ours, with those of the request's span in `trace`.
    /// What `Connection` names is not among them, but ours always are: a client cannot name them away (golang/go#50580).
    pub fn to_upstream(
        &self,
        head: &mut RequestHead,
        headers: &HeaderMap,
        forwarded_for: &HeaderValue,
        email: &HeaderValue,
        trace: &HeaderMap,
    ) {
        head.add_written(&self.ours);
        head.add(&X_FORWARDED_FOR, forwarded_for);
        for name in &self.identity {
            head.add(name, email);
        }
        for (name, value) in trace {
            head.add(name, value);
        }
        let nominated = nominated(headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes));
        for (name, value) in headers {
            if !is_hop_by_hop(name) && !self.is_ours(name) && !nominated.contains(name) && !trace.contains_key(name) {
                head.add(name, value);
            }
        }
    }

    /// Whether clients have no say in a header. A name that is not made of letters, digits and hyphens is among them:
    /// WSGI, CGI and PHP read `_` and `.` as a hyphen (CVE-2025-64484), so it could say `Mcp_Session_Id` too.
    fn is_ours(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_plain {
            return !text.starts_with(MCP_PARAM)
                || self.identity.iter().any(|ours| is_spelling_of(text, ours.as_str()));
        }
        let is_claim = match text.strip_prefix("x-") {
            Some(rest) => begins_with_one(&X_CLAIMS, rest),
            None => begins_with_one(&CLAIMS, text),
        };
        is_claim
            || matches!(text, "authorization" | "cookie" | "origin" | "referer" | "host")
            || self.identity.contains(name)
    }
}

/// The first character decides nearly always, and at little cost.
fn begins_with_one(beginnings: &[&str], text: &str) -> bool {
    let first = text.as_bytes().first();
    beginnings.iter().any(|beginning| beginning.as_bytes().first() == first && text.starts_with(beginning))
}

/// Whether a server that reads every odd character as a hyphen takes one name for the other.
fn is_spelling_of(text: &str, name: &str) -> bool {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    text.bytes().map(plain).eq(name.bytes())
}

/// Whether clients get a header of the upstream's responses. What is said about logins, cookies, encryption and origins is ours to
/// say, and nobody else needs to know what stands behind us.
pub fn is_for_clients(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "www-authenticate" | "set-cookie" | "server" | "alt-svc" | "strict-transport-security" | "clear-site-data"
    ) && !name.as_str().starts_with("access-control-")
}

/// Whether a response is a stream of events, which may end anywhere between two of them.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    has_media_type(headers, "text/event-stream")
}

/// Lets web pages of any origin read a response. No cookie is ever looked at here, so this gives nothing away.
pub fn allow_any_origin(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// Takes that back, for who may not read a response.
pub fn deny_any_origin(headers: &mut HeaderMap) {
    headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
}

#[cfg(test)]
mod tests;
