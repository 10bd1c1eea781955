//! Requirements of MCP on authorization and transport (docs/protocol.md, 45 to 53).

use serde_json::json;

use super::{
    raw::{Recorder, answer},
    *,
};

async fn status_of(bed: &Bed, request: Request<&'static str>) -> StatusCode {
    bed.send(request).await.status()
}

#[tokio::test]
async fn every_method_needs_a_token() {
    let bed = Bed::new().await;
    for path in ["/mcp", "/mcp/"] {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            let response = bed.send(Request::builder().method(method).uri(path).body("").unwrap()).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
            // RFC 6750 §3.1: no error code if the request has no token.
            assert!(challenge.ends_with(&format!("{path}\", scope=\"mcp\"")), "{challenge}");
        }
        for method in ["PUT", "PATCH", "TRACE", "PROPFIND"] {
            let response = bed.send(Request::builder().method(method).uri(path).body("").unwrap()).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(response.headers()["allow"], "GET, POST, DELETE, HEAD, OPTIONS");
        }
    }
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn invalid_token_is_named_in_the_challenge() {
    let bed = Bed::new().await;
    for value in ["Bearer x", "Bearer a.b.c", "Bearer", "bearer  x y"] {
        let response = bed.send(Request::get("/mcp").header("authorization", value).body("").unwrap()).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value}");
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.contains("scope=\"mcp\", error=\"invalid_token\", error_description=\""), "{challenge}");
    }
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn c10_token_in_the_query_is_ignored() {
    let bed = Bed::new().await;
    let target: &'static str = format!("/mcp?access_token={}", bed.token()).leak();
    assert_eq!(status_of(&bed, Request::post(target).body("{}").unwrap()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn c9_no_header_bypasses_authentication() {
    let bed = Bed::new().await;
    for (name, value) in [
        ("x-forwarded-uri", "/healthz"),
        ("x-original-url", "/own"),
        ("x-forwarded-user", "ada@example.com"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-http-method-override", "OPTIONS"),
        ("user-agent", "kube-probe/1.33"),
        ("user-agent", "GoogleHC/1.0"),
        ("x-real-ip", "127.0.0.1"),
    ] {
        let request = Request::post("/mcp").header(name, value).body("{}").unwrap();
        assert_eq!(status_of(&bed, request).await, StatusCode::UNAUTHORIZED, "{name}: {value}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(status_of(&bed, Request::get(path).body("").unwrap()).await, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn c8_other_spellings_of_an_endpoint_are_404() {
    let bed = Bed::new().await;
    for path in [
        "/",
        "//mcp",
        "/mcp//",
        "/mcp/.",
        "/mcp/..",
        "/./mcp",
        "/own/../mcp",
        "/mcp/../own",
        "/mcp/..;/admin",
        "/mcp;a=b",
        "/mcp%00",
        "/mcp%20",
        "/mcp%2e",
        "/mcp%2f",
        "/mcp/%2e%2e/admin",
        "/mcp%252f",
        "/mcp%5c..%5cadmin",
        "/mcp%23",
        "/mcp%3fa",
        "/%6dcp",
        "/MCP",
        "/mcp.",
        "/mcp/x",
        "/mcpx",
        "/servers/mcp",
        "/servers//mcp",
        "/servers/./mcp",
        "/servers/../mcp",
        "/servers/a/b/mcp",
        "/servers/a%2f..%2fadmin/mcp",
        "/servers/a%2fb/mcp",
        "/servers/%2e%2e/mcp",
        "/servers/a;b/mcp",
        "/servers/*/mcp",
        "/servers/a:b/mcp",
        "/servers/a/mcp/..",
        "/servers/a/sse",
        "/admin",
        "/v1/tools",
        "/sse",
        "/message",
    ] {
        assert_eq!(status_of(&bed, Request::get(path).body("").unwrap()).await, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(status_of(&bed, bed.request(path).body("").unwrap()).await, StatusCode::NOT_FOUND, "{path}");
        let foreign = bed.request(path).header("origin", "https://evil.example.com").body("").unwrap();
        assert_eq!(status_of(&bed, foreign).await, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn c12_foreign_origin_is_refused_before_the_token_is_checked() {
    let bed = Bed::new().await;
    for origin in ["https://evil.example.com", "http://evil.example.com:8080", "null"] {
        for request in [
            bed.request("/mcp").header("origin", origin).body("{}").unwrap(),
            Request::get("/mcp").header("origin", origin).body("").unwrap(),
            Request::options("/mcp").header("origin", origin).body("").unwrap(),
        ] {
            let response = bed.send(request).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{origin}");
            assert!(
                !response.headers().keys().any(|name| name.as_str().starts_with("access-control-")),
                "{response:?}"
            );
            assert!(text(response).await.contains("spec.clients.origins"));
        }
    }
    assert_eq!(bed.upstream.requests(), 0);
    let twice = bed.request("/mcp").header("origin", "https://claude.ai").header("origin", "https://claude.ai");
    assert_eq!(status_of(&bed, twice.body("{}").unwrap()).await, StatusCode::FORBIDDEN);
    for origin in ["https://claude.ai", "https://mcp.example.com", "http://localhost:6274"] {
        let response = bed.send(bed.request("/mcp").header("origin", origin).body("{}").unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{origin}");
        // Never an echo of the origin, and never with credentials.
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
        assert!(!bed.upstream.last().1.contains_key("origin"));
    }
}

#[tokio::test]
async fn preflight_lists_allowed_and_exposed_headers() {
    let bed = Bed::new().await;
    let request = Request::options("/mcp/").header("origin", "http://localhost:6274");
    let asks = request.header("access-control-request-headers", "authorization,mcp-param-region");
    let response = bed.send(asks.body("").unwrap()).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let list = |name: &str| {
        let value = response.headers()[name].to_str().unwrap().to_ascii_lowercase();
        value.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>()
    };
    for name in [
        "authorization",
        "content-type",
        "accept",
        "mcp-protocol-version",
        "mcp-session-id",
        "mcp-method",
        "mcp-name",
        "last-event-id",
        // Other headers, such as Mcp-Param-* (MCP 2026-07-28, custom headers).
        "*",
    ] {
        assert!(list("access-control-allow-headers").iter().any(|known| known == name), "{name}");
    }
    assert_eq!(list("access-control-allow-methods"), ["get", "post", "delete", "head", "options"]);
    assert_eq!(list("access-control-expose-headers"), ["www-authenticate", "mcp-session-id", "mcp-protocol-version"]);
}

#[tokio::test]
async fn mcp_headers_status_and_body_pass_unchanged() {
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Unsupported protocol version"}}"#;
    for status in ["400 Bad Request", "404 Not Found", "405 Method Not Allowed", "403 Forbidden", "202 Accepted"] {
        let (recorder, bed) = Recorder::bed(move |_| {
            let headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Anything: b\r\nX-Other: c\r\nContent-Type: application/json\r\nWWW-Authenticate: Bearer realm=\"upstream\"\r\n";
            answer(status, headers, error)
        })
        .await;
        let headers = [
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("last-event-id", "7"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "weather"),
            ("mcp-param-region", "eu"),
            ("mcp-param-tenant_id", "=?base64?YQ==?="),
            ("mcp-protocol-version", "2026-07-28"),
            ("x-other", "a"),
        ];
        let request = headers.iter().fold(bed.request("/mcp"), |request, (name, value)| request.header(*name, *value));
        let response = bed.send(request.body("{}").unwrap()).await;
        assert!(status.starts_with(response.status().as_str()), "{status}");
        assert_eq!(response.headers()["mcp-protocol-version"], "2026-07-28");
        assert_eq!(
            (&response.headers()["mcp-anything"], &response.headers()["x-other"]),
            (&"b".parse().unwrap(), &"c".parse().unwrap())
        );
        assert!(!response.headers().contains_key(WWW_AUTHENTICATE), "the upstream's challenge is not forwarded");
        assert_eq!(text(response).await, error);
        let sent = recorder.requests().unwrap().remove(0);
        for (name, value) in headers {
            assert_eq!(sent.values(name), [value], "{name}");
        }
    }
}

#[tokio::test]
async fn methods_work_with_and_without_trailing_slash() {
    let (recorder, bed) = Recorder::bed(|_| answer("200 OK", "", "ok")).await;
    for path in ["/mcp", "/mcp/"] {
        for method in ["POST", "GET", "DELETE"] {
            let request = Request::builder().method(method).uri(path);
            let request = request.header("authorization", format!("Bearer {}", bed.token())).body("").unwrap();
            assert_eq!(status_of(&bed, request).await, StatusCode::OK, "{method} {path}");
        }
    }
    let lines: Vec<_> =
        recorder.requests().unwrap().iter().map(|sent| format!("{} {}", sent.method, sent.target)).collect();
    let once = ["POST /base/mcp", "GET /base/mcp", "DELETE /base/mcp"];
    assert_eq!(lines, [once, once].concat());
}

#[tokio::test]
async fn c11_mcp_session_of_another_user_is_404() {
    let bed = Bed::new().await;
    let bound = bed.call().await.headers()["mcp-session-id"].clone();
    let mut other = Session { id: session("b").id, ..bed.session.clone() };
    (other.user.subject, other.user.email) = ("5678".to_owned(), "eve@example.com".to_owned());
    bed.apply(SessionEvent::Is(other.clone()));
    let eve = bed.token_of(&other, "https://mcp.example.com/mcp");
    let asks = |name: &str, value: &http::HeaderValue| {
        Request::post("/mcp").header("authorization", format!("Bearer {eve}")).header(name, value).body("{}").unwrap()
    };
    assert_eq!(status_of(&bed, asks("mcp-session-id", &bound)).await, StatusCode::NOT_FOUND);
    assert_eq!(bed.upstream.requests(), 1);
    for spelling in ["mcp_session_id", "mcp-session_id", "mcp.session.id"] {
        assert_eq!(status_of(&bed, asks(spelling, &"upstream-id".parse().unwrap())).await, StatusCode::OK);
        let (_, headers, _) = bed.upstream.last();
        assert!(!headers.contains_key(spelling) && !headers.contains_key("mcp-session-id"), "{headers:?}");
        assert_eq!(headers["x-forwarded-user"], "eve@example.com");
    }
}

#[tokio::test]
async fn c11_foreign_mcp_session_is_audited() {
    let bed =
        Bed::builder().config(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]).start().await;
    let log = bed.log().await;
    let bound = bed.call().await.headers()["mcp-session-id"].clone();
    let mut other = Session { id: session("b").id, ..bed.session.clone() };
    (other.user.subject, other.user.email) = ("5678".to_owned(), "eve@example.com".to_owned());
    other.client.name = "Eve's".to_owned();
    bed.apply(SessionEvent::Is(other.clone()));
    let eve = bed.token_of(&other, "https://mcp.example.com/mcp");
    for token in [bed.token(), &eve] {
        let request = Request::post("/mcp").header("authorization", format!("Bearer {token}"));
        let request = request.header("mcp-session-id", &bound).header("x-forwarded-for", "198.51.100.7");
        bed.send(request.body("{}").unwrap()).await;
    }
    let mut lines = log.lines();
    lines.retain(|line| line["target"] == "audit");
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("timestamp").unwrap()));
    let message = "rejected an unknown MCP session id or one of another user";
    let expected = json!({"level": "WARN", "target": "audit", "message": message,
        "event": "mcp_session_refused", "session": other.id.to_string(), "user": "eve@example.com", "client": "Eve's",
        "from": "198.51.100.7"});
    assert_eq!(lines, [expected]);
    assert!(!log.text().contains(bound.to_str().unwrap()) && !log.text().contains(&eve));
}

#[tokio::test]
async fn traceparent_is_passed_through() {
    let bed = Bed::new().await;
    let (parent, state) = ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1");
    let request = bed.request("/mcp").header("traceparent", parent).header("tracestate", state);
    bed.send(request.body("{}").unwrap()).await;
    let headers = bed.upstream.last().1;
    assert_eq!((&headers["traceparent"], &headers["tracestate"]), (&parent.parse().unwrap(), &state.parse().unwrap()));
}
