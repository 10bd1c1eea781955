//! An upstream that redirects between a path with and without trailing slash, like Starlette.

use super::{
    raw::{Recorder, Sent, answer, exchange},
    *,
};

/// Like Context Forge before 1.0.5: redirects to the scheme of `X-Forwarded-Proto` and the received Host.
fn starlette(sent: &Sent) -> String {
    let (path, query) = sent.target.split_once('?').unwrap_or((&sent.target, ""));
    if path.ends_with('/') {
        return answer("200 OK", "Content-Type: application/json\r\n", &String::from_utf8_lossy(&sent.body));
    }
    let (scheme, host) = (sent.values("x-forwarded-proto")[0], sent.values("host")[0]);
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    answer("307 Temporary Redirect", &format!("Location: {scheme}://{host}{path}/{query}\r\n"), "")
}

fn sent(recorder: &Recorder) -> Vec<(String, String)> {
    let requests = recorder.requests().unwrap();
    requests
        .iter()
        .map(|sent| (format!("{} {}", sent.method, sent.target), String::from_utf8_lossy(&sent.body).into_owned()))
        .collect()
}

#[tokio::test]
async fn trailing_slash_redirect_is_followed_once_and_remembered() {
    let (recorder, bed) = Recorder::bed(starlette).await;
    for path in ["/mcp?a=b", "/mcp?a=b", "/mcp/?a=b"] {
        let response = bed.send(bed.request(path).body("{\"id\":1}").unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("location"));
        assert_eq!(text(response).await, "{\"id\":1}");
    }
    let body = "{\"id\":1}".to_owned();
    let (bare, slash) = ("POST /base/mcp?a=b".to_owned(), "POST /base/mcp/?a=b".to_owned());
    assert_eq!(
        sent(&recorder),
        [(bare, body.clone()), (slash.clone(), body.clone()), (slash.clone(), body.clone()), (slash, body)]
    );
    for request in recorder.requests().unwrap() {
        assert_eq!(request.values("x-forwarded-user"), ["ada@example.com"]);
        assert_eq!(request.values("authorization"), [""; 0]);
    }
}

#[tokio::test]
async fn trailing_slash_is_remembered_per_path_for_every_method() {
    let (recorder, bed) = Recorder::bed(starlette).await;
    let token = bed.token_for("https://mcp.example.com/servers/a1/mcp");
    for method in ["GET", "DELETE"] {
        let request = Request::builder().method(method).uri("/servers/a1/mcp");
        let request = request.header("authorization", format!("Bearer {token}")).body("").unwrap();
        assert_eq!(bed.send(request).await.status(), StatusCode::OK);
    }
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let lines: Vec<_> = sent(&recorder).into_iter().map(|(line, _)| line).collect();
    assert_eq!(
        lines,
        [
            "GET /base/servers/a1/mcp",
            "GET /base/servers/a1/mcp/",
            "DELETE /base/servers/a1/mcp/",
            "POST /base/mcp",
            "POST /base/mcp/"
        ]
    );
}

#[tokio::test]
async fn body_of_up_to_64_kib_is_replayed_after_a_redirect() {
    for size in [0, 1, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 64 << 10] {
        let body = "abcdefghijklmno".repeat(size / 15 + 1);
        let body = &body[..size];
        let chunks = if size == 0 { String::new() } else { format!("{size:x}\r\n{body}\r\n") };
        for content in [
            format!("content-length: {size}\r\n\r\n{body}"),
            format!("transfer-encoding: chunked\r\n\r\n{chunks}0\r\na: b\r\n\r\n"),
        ] {
            let (recorder, bed) = Recorder::bed(starlette).await;
            let head = format!("POST /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n", bed.token());
            let answers = exchange(&bed, format!("{head}connection: close\r\n{content}").as_bytes()).await;
            assert!(answers.starts_with("HTTP/1.1 200 ") && answers.ends_with(&format!("\r\n\r\n{body}")), "{size}");
            let bodies = ["POST /base/mcp", "POST /base/mcp/"].map(|line| (line.to_owned(), body.to_owned()));
            assert_eq!(sent(&recorder), bodies, "{size}");
        }
    }
}

#[tokio::test]
async fn oversized_body_is_not_replayed_after_a_redirect() {
    let (recorder, bed) = Recorder::bed(starlette).await;
    let large: &'static str = "a".repeat(100_000).leak();
    let first = bed.send(bed.request("/mcp").body(large).unwrap()).await;
    assert_eq!(
        (first.status(), &first.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let second = bed.send(bed.request("/mcp").body(large).unwrap()).await;
    assert_eq!((second.status(), text(second).await.len()), (StatusCode::OK, large.len()));
    assert_eq!(sent(&recorder).last().unwrap().0, "POST /base/mcp/");
}

/// Serves a path only with, or only without, a trailing slash.
fn serve_with(slash: bool, sent: &Sent) -> String {
    let path = sent.target.trim_end_matches('/');
    let served = if slash { format!("{path}/") } else { path.to_owned() };
    if sent.target == served {
        answer("200 OK", "Content-Type: application/json\r\n", &String::from_utf8_lossy(&sent.body))
    } else {
        answer("307 Temporary Redirect", &format!("Location: {served}\r\n"), "")
    }
}

#[tokio::test]
async fn paths_of_one_pattern_have_their_own_trailing_slash() {
    let (recorder, bed) = Recorder::bed(|sent| serve_with(sent.target.contains("/a1/"), sent)).await;
    for _ in 0..3 {
        for path in ["/servers/a1/mcp", "/servers/b2/mcp"] {
            let token = bed.token_for(&format!("https://mcp.example.com{path}"));
            let request = Request::post(path).header("authorization", format!("Bearer {token}"));
            let response = bed.send(request.body("{\"id\":1}").unwrap()).await;
            assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "{\"id\":1}"), "{path}");
        }
    }
    assert_eq!(sent(&recorder).len(), 3 + 3 + 1, "one redirect");
}

#[tokio::test]
async fn changed_trailing_slash_is_followed() {
    let slash = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let shared = slash.clone();
    let (recorder, bed) = Recorder::bed(move |sent| serve_with(shared.load(Ordering::SeqCst), sent)).await;
    for changed in [false, true, false] {
        slash.store(changed, Ordering::SeqCst);
        for _ in 0..2 {
            let response = bed.call().await;
            assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "{}"), "{changed}");
        }
    }
    assert_eq!(sent(&recorder).len(), 2 + 3 + 3, "one redirect for each change");
}

#[tokio::test]
async fn other_upstream_redirects_are_502() {
    for (status, location) in [
        ("307 Temporary Redirect", "/base/admin/"),
        ("307 Temporary Redirect", "http://169.254.169.254/base/mcp/"),
        ("302 Found", "/base/login?next=/mcp"),
        ("302 Found", "/base/mcp/"),
        ("303 See Other", "/base/mcp/"),
        ("308 Permanent Redirect", "/base/mcp"),
    ] {
        let (recorder, bed) = Recorder::bed(move |_| answer(status, &format!("Location: {location}\r\n"), "")).await;
        let response = bed.call().await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{location}");
        assert!(!response.headers().contains_key("location"));
        assert_eq!(sent(&recorder).len(), 1, "{location}");
    }
}

#[tokio::test]
async fn redirect_loop_ends_after_one_hop() {
    let (recorder, bed) = Recorder::bed(|sent| {
        let other = if sent.target.ends_with('/') { "/base/mcp" } else { "/base/mcp/" };
        answer("307 Temporary Redirect", &format!("Location: {other}\r\n"), "")
    })
    .await;
    assert_eq!(bed.call().await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(sent(&recorder).len(), 2);
}
