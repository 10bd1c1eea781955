use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH,
        CONTENT_TYPE, COOKIE, EXPECT, HOST, InvalidHeaderName, InvalidHeaderValue, ORIGIN, REFERER, SERVER, SET_COOKIE,
        STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
    },
    uri::Authority,
};
use thiserror::Error;

use crate::api::{
    PublicUrl,
    proxy::{Identity, IdentityType},
};

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

/// The request headers that clients in browsers send wherever they ask.
pub const REQUEST_HEADERS: [&str; 8] = [
    "authorization",
    "content-type",
    "accept",
    "mcp-protocol-version",
    "mcp-session-id",
    "mcp-method",
    "mcp-name",
    "last-event-id",
];

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

/// What happens to headers on their way to the upstream and back.
#[derive(Debug)]
pub struct HeaderRules {
    identity: Vec<HeaderName>,
    host: HeaderValue,
    forwarded_host: HeaderValue,
    forwarded_proto: HeaderValue,
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
        Ok(Self {
            identity: names,
            host: HeaderValue::from_str(host.as_str())?,
            forwarded_host: HeaderValue::from_str(public_host)?,
            forwarded_proto: HeaderValue::from_str(proto)?,
        })
    }

    /// Makes a client's request headers ours. The order is the point: what `Connection` names goes first, ours come last,
    /// so a client cannot name ours away (golang/go#50580).
    pub fn to_upstream(&self, headers: &mut HeaderMap, client: IpAddr, email: &HeaderValue) {
        remove_hop_by_hop(headers);
        remove_where(headers, |name| self.is_ours(name));
        for name in &self.identity {
            headers.insert(name.clone(), email.clone());
        }
        headers.insert(HOST, self.host.clone());
        headers.insert(X_FORWARDED_HOST, self.forwarded_host.clone());
        headers.insert(X_FORWARDED_PROTO, self.forwarded_proto.clone());
        if let Ok(client) = HeaderValue::from_str(&client.to_canonical().to_string()) {
            headers.insert(X_FORWARDED_FOR, client);
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
            Some(rest) => X_CLAIMS.iter().any(|claim| rest.starts_with(claim)),
            None => CLAIMS.iter().any(|claim| text.starts_with(claim)),
        };
        is_claim || [AUTHORIZATION, COOKIE, ORIGIN, REFERER, HOST].contains(name) || self.identity.contains(name)
    }
}

/// Whether a server that reads every odd character as a hyphen takes one name for the other.
fn is_spelling_of(text: &str, name: &str) -> bool {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    text.bytes().map(plain).eq(name.bytes())
}

/// Makes an upstream's response headers ours.
pub fn to_client(headers: &mut HeaderMap) {
    // The length of what we send is hyper's to check, not the peer's to nominate away.
    let length = headers.get(CONTENT_LENGTH).cloned();
    remove_hop_by_hop(headers);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length);
    }
    remove_where(headers, |name| {
        [WWW_AUTHENTICATE, SET_COOKIE, SERVER, ALT_SVC, STRICT_TRANSPORT_SECURITY].contains(name)
            || name == "clear-site-data"
            || name.as_str().starts_with("access-control-")
    });
    allow_any_origin(headers);
}

/// Whether a response is a stream of events, which may end anywhere between two of them.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
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

/// RFC 9110 §7.6.1. `Content-Length` is among them because hyper writes its own, and `Expect` because it answers that.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    for name in [CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn remove_where(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) {
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| doomed(name)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> HeaderRules {
        let identity =
            serde_json::from_str(r#"{"headers": {"user": "X-User", "email": "X-Forwarded-Email"}}"#).unwrap();
        let host = Authority::from_static("gateway:4444");
        HeaderRules::new(&identity, &"https://mcp.example.com".parse().unwrap(), &host).unwrap()
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn sent(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = headers(pairs);
        rules().to_upstream(
            &mut headers,
            "::ffff:192.0.2.7".parse().unwrap(),
            &HeaderValue::from_static("ada@example.com"),
        );
        headers
    }

    /// What a WSGI application sees: one name for all spellings.
    fn values_of<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        let same = |other: &str| other.replace(['_', '.'], "-") == name;
        headers.iter().filter(|(other, _)| same(other.as_str())).map(|(_, value)| value.to_str().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn c1_one_value_ours_arrives_whatever_the_spelling(
            names in prop::collection::vec(
                prop::sample::select(vec!["x-user", "x-forwarded-email", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]), 0..6
            ),
            separators in prop::collection::vec(prop::sample::select(vec!['-', '_', '.']), 12),
            upper in prop::collection::vec(any::<bool>(), 20),
        ) {
            let mut separators = separators.into_iter().cycle();
            let spelled: Vec<String> = names.iter().map(|name| {
                name.chars().zip(upper.iter().cycle()).map(|(c, upper)| match c {
                    '-' => separators.next().unwrap(),
                    c if *upper => c.to_ascii_uppercase(),
                    c => c,
                }).collect()
            }).collect();
            let pairs: Vec<(&str, &str)> = spelled.iter().map(|name| (name.as_str(), "evil")).collect();
            let sent = sent(&pairs);
            prop_assert_eq!(values_of(&sent, "x-user"), ["ada@example.com"]);
            prop_assert_eq!(values_of(&sent, "x-forwarded-email"), ["ada@example.com"]);
            prop_assert_eq!(values_of(&sent, "x-forwarded-for"), ["192.0.2.7"]);
            prop_assert_eq!(values_of(&sent, "x-forwarded-host"), ["mcp.example.com"]);
            prop_assert_eq!(values_of(&sent, "x-forwarded-proto"), ["https"]);
        }
    }

    #[test]
    fn c1_claims_under_other_names_do_not_arrive() {
        for name in [
            "forwarded",
            "x-real-ip",
            "x-auth-request-email",
            "x-authenticated-user",
            "x-remote-user",
            "remote-user",
            "remote_user",
            "x-forwarded-access-token",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "proxy-authorization",
            "cf-connecting-ip",
            "cf-access-authenticated-user-email",
            "x-goog-authenticated-user-email",
            "x-amzn-oidc-identity",
            "x-ms-client-principal",
            "x-client-cert",
            "ssl-client-verify",
            "client-cert",
            "tailscale-user-login",
        ] {
            assert!(!sent(&[(name, "evil")]).contains_key(name), "{name}");
        }
    }

    #[test]
    fn c2_connection_cannot_name_our_headers_away() {
        let sent = sent(&[
            ("connection", "x-user, x-forwarded-email, X-Forwarded-For, authorization, host"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-user"),
            ("upgrade", "websocket"),
            ("accept", "text/event-stream"),
        ]);
        assert_eq!(values_of(&sent, "x-user"), ["ada@example.com"]);
        assert_eq!(values_of(&sent, "x-forwarded-email"), ["ada@example.com"]);
        assert_eq!(values_of(&sent, "host"), ["gateway:4444"]);
        for gone in ["connection", "x-hop", "keep-alive", "te", "trailer", "upgrade"] {
            assert!(!sent.contains_key(gone), "{gone}");
        }
        assert_eq!(sent["accept"], "text/event-stream");
    }

    #[test]
    fn c3_no_credential_of_the_client_arrives() {
        let sent = sent(&[
            ("authorization", "Bearer secret"),
            ("cookie", "a=secret"),
            ("proxy-authorization", "Basic secret"),
            ("x-forwarded-access-token", "secret"),
            ("origin", "https://claude.ai"),
            ("referer", "https://claude.ai/secret"),
        ]);
        assert!(sent.values().all(|value| !value.to_str().unwrap().contains("secret")), "{sent:?}");
        assert!(!sent.contains_key("origin"));
    }

    #[test]
    fn what_mcp_says_in_headers_arrives_and_so_does_what_nobody_knows() {
        for name in [
            "accept",
            "accept-encoding",
            "content-type",
            "last-event-id",
            "mcp-method",
            "mcp-name",
            "mcp-protocol-version",
            "mcp-session-id",
            "mcp-param-region",
            "mcp-param-tenant_id",
            "mcp-param-a.b!",
            "traceparent",
            "user-agent",
            "x-anything",
        ] {
            assert_eq!(sent(&[(name, "value")]).get(name).map(HeaderValue::as_bytes), Some(&b"value"[..]), "{name}");
        }
    }

    #[test]
    fn c1_c11_no_other_spelling_of_an_mcp_header_arrives() {
        for name in ["mcp_session_id", "mcp-session_id", "mcp.session.id", "mcp_param_x", "mcp_protocol_version"] {
            assert!(!sent(&[(name, "evil")]).contains_key(name), "{name}");
        }
        let identity = serde_json::from_str(r#"{"headers": {"user": "Mcp-Param-The-User"}}"#).unwrap();
        let public_url = "https://mcp.example.com".parse().unwrap();
        let rules = HeaderRules::new(&identity, &public_url, &Authority::from_static("gateway")).unwrap();
        let mut headers =
            headers(&[("mcp-param-the_user", "evil"), ("mcp-param-the-user", "evil"), ("mcp_param_the.user", "evil")]);
        rules.to_upstream(&mut headers, "192.0.2.7".parse().unwrap(), &HeaderValue::from_static("ada@example.com"));
        assert_eq!(values_of(&headers, "mcp-param-the-user"), ["ada@example.com"]);
    }

    #[test]
    fn without_identity_the_upstream_is_told_nothing() {
        let identity = serde_json::from_str(r#"{"type": "None"}"#).unwrap();
        let public_url = "https://mcp.example.com".parse().unwrap();
        let rules = HeaderRules::new(&identity, &public_url, &Authority::from_static("gateway")).unwrap();
        let mut headers = headers(&[("x-forwarded-user", "evil"), ("x-forwarded-email", "evil")]);
        rules.to_upstream(&mut headers, "192.0.2.7".parse().unwrap(), &HeaderValue::from_static("ada@example.com"));
        assert!(headers.values().all(|value| value != "evil" && value != "ada@example.com"), "{headers:?}");
    }

    #[test]
    fn an_answer_says_nothing_in_our_name() {
        let mut headers = headers(&[
            ("www-authenticate", "Basic"),
            ("set-cookie", "a=b"),
            ("server", "uvicorn"),
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1"),
            ("clear-site-data", "\"*\""),
            ("access-control-allow-origin", "https://x"),
            ("access-control-allow-credentials", "true"),
            ("connection", "close, content-length"),
            ("content-length", "2"),
            ("content-type", "application/json"),
        ]);
        to_client(&mut headers);
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["access-control-expose-headers"], EXPOSED);
        assert_eq!((headers.len(), &headers["content-length"]), (4, &HeaderValue::from_static("2")));
    }
}
