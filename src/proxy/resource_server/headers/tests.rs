use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::http1::read_head;

fn rules() -> HeaderRules {
    let identity = serde_json::from_str(r#"{"headers": {"user": "X-User", "email": "X-Forwarded-Email"}}"#).unwrap();
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
    sent_by(&rules(), pairs)
}

fn sent_by(rules: &HeaderRules, pairs: &[(&str, &str)]) -> HeaderMap {
    sent_in(rules, pairs, &HeaderMap::new())
}

fn sent_in(rules: &HeaderRules, pairs: &[(&str, &str)], trace: &HeaderMap) -> HeaderMap {
    let (client, email) = (HeaderValue::from_static("192.0.2.7"), HeaderValue::from_static("ada@example.com"));
    let mut head = RequestHead::new(http::Method::GET, &http::Uri::from_static("/mcp"));
    rules.to_upstream(&mut head, &headers(pairs), &client, &email, trace);
    let lines = str::from_utf8(head.fields()).unwrap().strip_suffix("\r\n").unwrap();
    headers(&lines.split("\r\n").map(|line| line.split_once(": ").unwrap()).collect::<Vec<_>>())
}

#[test]
fn upstream_response_loses_headers_that_are_the_proxys() {
    let head = "HTTP/1.1 200 OK\r\nWWW-Authenticate: Basic\r\nSet-Cookie: a=b\r\nServer: uvicorn\r\nAlt-Svc: h3\r\n\
        Strict-Transport-Security: max-age=1\r\nClear-Site-Data: \"*\"\r\nAccess-Control-Allow-Origin: https://x\r\n\
        Access-Control-Allow-Credentials: true\r\nConnection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\n\
        Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nContent-Type: text/plain\r\nX-Other: a\r\nX-Other: b\r\n\
        Content-Length: 2\r\n\r\nok";
    let mut bytes = Bytes::from(head);
    let head = read_head(&mut bytes, false, is_for_clients).unwrap().unwrap();
    let left = head.response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let mut left: Vec<_> = left.collect();
    left.sort_unstable();
    let expected = [("content-length", "2"), ("content-type", "text/plain"), ("x-other", "a"), ("x-other", "b")];
    assert_eq!(left, expected);
    assert_eq!((head.keeps_alive, &bytes[..]), (true, &b"ok"[..]));
}

/// The values that a WSGI application sees, where all spellings are one name.
fn values_of<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let same = |other: &str| other.replace(['_', '.'], "-") == name;
    headers.iter().filter(|(other, _)| same(other.as_str())).map(|(_, value)| value.to_str().unwrap()).collect()
}

proptest! {
    #[test]
    fn c1_identity_header_has_one_value_in_every_spelling(
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
fn c1_other_identity_headers_are_removed() {
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
fn c2_connection_header_cannot_remove_proxy_headers() {
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
fn c3_client_credentials_are_removed() {
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
fn mcp_and_unknown_headers_are_forwarded() {
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
fn c1_c11_alternative_spellings_of_mcp_headers_are_removed() {
    for name in ["mcp_session_id", "mcp-session_id", "mcp.session.id", "mcp_param_x", "mcp_protocol_version"] {
        assert!(!sent(&[(name, "evil")]).contains_key(name), "{name}");
    }
    // Mcp-Param-* may have other characters, so no identity header can have such a name.
    assert!(serde_json::from_str::<Identity>(r#"{"headers": {"user": "Mcp-Param-The-User"}}"#).is_err());
}

#[test]
fn span_headers_replace_the_clients() {
    let trace = headers(&[("traceparent", "ours"), ("tracestate", "a=1")]);
    let theirs = [("traceparent", "theirs"), ("tracestate", "b=2"), ("connection", "traceparent")];
    let sent = sent_in(&rules(), &theirs, &trace);
    assert_eq!((values_of(&sent, "traceparent"), values_of(&sent, "tracestate")), (vec!["ours"], vec!["a=1"]));
}

#[test]
fn identity_none_sends_no_identity_header() {
    let identity = serde_json::from_str(r#"{"type": "None"}"#).unwrap();
    let public_url = "https://mcp.example.com".parse().unwrap();
    let rules = HeaderRules::new(&identity, &public_url, &Authority::from_static("gateway")).unwrap();
    let sent = sent_by(&rules, &[("x-forwarded-user", "evil"), ("x-forwarded-email", "evil")]);
    assert!(sent.values().all(|value| value != "evil" && value != "ada@example.com"), "{sent:?}");
}
