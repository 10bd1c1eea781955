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

/// Prefixes of header names that upstreams, their frameworks or identity-aware proxies trust as claims about the caller or the
/// request (mTLS, cloud providers).
const CLAIM_PREFIXES: [&str; 9] = [
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

/// The same after `x-`.
const X_CLAIM_PREFIXES: [&str; 18] = [
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

/// Prefix of headers that mirror a tool's parameters (MCP 2026-07-28, custom headers). They may contain any character of a header
/// name.
const MCP_PARAM: &str = "mcp-param-";

/// The response headers that scripts in a browser may read.
const EXPOSED: HeaderValue = HeaderValue::from_static("WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version");

#[derive(Debug, Error)]
pub enum InvalidHeaderRules {
    #[error("upstream.identity.headers has an invalid header name: {0}")]
    Name(#[from] InvalidHeaderName),
    #[error("publicURL or upstream.url has a host that no header can hold: {0}")]
    Value(#[from] InvalidHeaderValue),
}

/// Which request headers the upstream receives.
#[derive(Debug)]
pub struct HeaderRules {
    identity: Vec<HeaderName>,
    /// The headers that are the same for every request, as they are sent.
    fixed: BytesMut,
}

impl HeaderRules {
    pub fn new(identity: &Identity, public_url: &PublicUrl, host: &Authority) -> Result<Self, InvalidHeaderRules> {
        let names = match identity.kind {
            IdentityType::Headers => {
                let names = identity.headers.clone().unwrap_or_default();
                vec![HeaderName::from_bytes(names.user.as_bytes())?, HeaderName::from_bytes(names.email.as_bytes())?]
            }
            IdentityType::None => vec![],
        };
        let (proto, public_host) = public_url.as_str().split_once("://").unwrap_or(("https", public_url.as_str()));
        let mut fixed = BytesMut::new();
        // `Host` first (RFC 9110 §7.2).
        write_field(&mut fixed, &HOST, &HeaderValue::from_str(host.as_str())?);
        write_field(&mut fixed, &X_FORWARDED_HOST, &HeaderValue::from_str(public_host)?);
        write_field(&mut fixed, &X_FORWARDED_PROTO, &HeaderValue::from_str(proto)?);
        Ok(Self { identity: names, fixed })
    }

    /// Adds the proxy's headers to `head`, including those of the span in `trace`, and the client's headers that may be
    /// forwarded. The client's `Connection` header can remove only its own headers (golang/go#50580).
    pub fn to_upstream(
        &self,
        head: &mut RequestHead,
        headers: &HeaderMap,
        forwarded_for: &HeaderValue,
        email: &HeaderValue,
        trace: &HeaderMap,
    ) {
        head.add_written(&self.fixed);
        head.add(&X_FORWARDED_FOR, forwarded_for);
        for name in &self.identity {
            head.add(name, email);
        }
        for (name, value) in trace {
            head.add(name, value);
        }
        let nominated = nominated(headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes));
        for (name, value) in headers {
            if !is_hop_by_hop(name) && !self.is_reserved(name) && !nominated.contains(name) && !trace.contains_key(name)
            {
                head.add(name, value);
            }
        }
    }

    /// Whether a client's header is removed. That includes every name with other characters than letters, digits and hyphens:
    /// WSGI, CGI and PHP read `_` and `.` as a hyphen (CVE-2025-64484), so `Mcp_Session_Id` would be a session id too.
    fn is_reserved(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_plain {
            let plain = text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { byte } else { b'-' });
            return !text.starts_with(MCP_PARAM)
                || self.identity.iter().any(|identity| plain.clone().eq(identity.as_str().bytes()));
        }
        let is_claim = match text.strip_prefix("x-") {
            Some(rest) => has_prefix(rest, &X_CLAIM_PREFIXES),
            None => has_prefix(text, &CLAIM_PREFIXES),
        };
        is_claim
            || matches!(text, "authorization" | "cookie" | "origin" | "referer" | "host")
            || self.identity.contains(name)
    }
}

/// Compares the first byte first: that nearly always decides, and is cheap.
fn has_prefix(text: &str, prefixes: &[&str]) -> bool {
    let first = text.as_bytes().first();
    prefixes.iter().any(|prefix| prefix.as_bytes().first() == first && text.starts_with(prefix))
}

/// Whether a response header of the upstream is forwarded. Logins, cookies, encryption and origins are the proxy's
/// responsibility, and the upstream's software is not disclosed.
pub fn is_for_clients(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "www-authenticate" | "set-cookie" | "server" | "alt-svc" | "strict-transport-security" | "clear-site-data"
    ) && !name.as_str().starts_with("access-control-")
}

pub fn is_event_stream(headers: &HeaderMap) -> bool {
    has_media_type(headers, "text/event-stream")
}

/// Lets pages of any origin read a response. That is safe because MCP endpoints ignore cookies.
pub fn allow_any_origin(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// Undoes [`allow_any_origin`].
pub fn deny_any_origin(headers: &mut HeaderMap) {
    headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
}

#[cfg(test)]
mod tests;
