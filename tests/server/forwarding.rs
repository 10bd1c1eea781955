//! Forwarded requests, and paths that the router serves.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{slow::rest, *};

#[tokio::test]
async fn valid_token_forwards_the_request_with_identity() {
    let bed = Bed::new().await;
    let request = bed.request("/mcp?a=b").header("x-forwarded-user", "evil").header("cookie", "a=b");
    let response = bed.send(request.body("{\"id\":1}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await, "{\"id\":1}");
    let (uri, headers, body) = bed.upstream.last();
    assert_eq!((uri.to_string().as_str(), &body[..]), ("/base/mcp?a=b", &b"{\"id\":1}"[..]));
    assert_eq!(headers["x-forwarded-user"], "ada@example.com");
    assert_eq!(headers["x-forwarded-email"], "ada@example.com");
    assert_eq!(headers["x-forwarded-host"], "mcp.example.com");
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_ne!(headers["host"], "evil.example.com");
    assert!(!headers.contains_key("authorization") && !headers.contains_key("cookie"));
}

#[tokio::test]
async fn request_with_a_large_head_and_a_body_is_forwarded() {
    let bed = Bed::new().await;
    let request = bed.request("/mcp").header("x-large", "a".repeat(20_000)).body("{}").unwrap();
    assert_eq!(text(in_time(bed.send(request)).await).await, "{}");
    assert_eq!(bed.upstream.last().1["x-large"].len(), 20_000);
}

#[tokio::test]
async fn upstream_connection_is_reused() {
    let bed = Bed::new().await;
    for _ in 0..5 {
        assert_eq!(text(bed.call().await).await, "{}");
    }
    assert_eq!((bed.upstream.requests(), bed.upstream.connections.load(Ordering::SeqCst)), (5, 1));
}

#[tokio::test]
async fn c11_mcp_session_id_is_bound_to_the_user() {
    let bed = Bed::new().await;
    let bound = bed.call().await.headers()["mcp-session-id"].clone();
    assert_ne!(bound, "upstream-id");
    let response = bed.send(bed.request("/mcp").header("mcp-session-id", bound).body("{}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(bed.upstream.last().1["mcp-session-id"], "upstream-id");
    let bare = bed.send(bed.request("/mcp").header("mcp-session-id", "upstream-id").body("{}").unwrap()).await;
    assert_eq!(bare.status(), StatusCode::NOT_FOUND);
    assert_eq!(bed.upstream.requests(), 2);
}

#[tokio::test]
async fn upstream_401_becomes_502() {
    let bed = Bed::new().await;
    let response = bed.send(bed.request("/mcp?refuse").body("{}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
}

#[tokio::test]
async fn other_paths_go_to_the_router() {
    let bed = Bed::new().await;
    let own = bed.send(Request::get("/own").body("").unwrap()).await;
    assert_eq!(text(own).await, "own");
    for path in ["/mcp/../own", "/mcp%2f", "/mcp//", "/MCP", "/servers/a%2fb/mcp", "/mcp;x"] {
        assert_eq!(bed.send(bed.request(path).body("").unwrap()).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn preflight_needs_no_token() {
    let bed = Bed::new().await;
    let response = bed.send(Request::options("/mcp").body("").unwrap()).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert!(response.headers()["access-control-allow-headers"].to_str().unwrap().contains("mcp-session-id"));
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn unreachable_upstream_is_502() {
    let bed = Bed::new().await;
    bed.upstream.stop().await;
    let response = bed.call().await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(text(response).await.contains("cannot be reached"));
}

#[tokio::test]
async fn closed_idle_upstream_connection_costs_no_request() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, mut closings) = channel::unbounded();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n{}") {
                stream.read_buf(&mut request).await.unwrap();
            }
            // The upstream closes without `Connection: close`.
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            drop(stream);
            closed.unbounded_send(()).unwrap();
        }
    });
    let bed = Bed::builder().upstream(address).start().await;
    for _ in 0..3 {
        let answer = bed.call().await;
        assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "ok"));
        closings.next().await.unwrap();
    }
}

#[tokio::test]
async fn continue_is_sent_when_the_body_is_read() {
    let bed = Bed::new().await;
    let expect = "expect: 100-continue\r\ncontent-length: 2\r\n";
    let mut stream = bed.begin(&format!("{expect}connection: close\r\n")).await;
    let mut interim = [0; 25];
    in_time(stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    let response = rest(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200 ") && response.contains("{}"), "{response}");

    let mut stream = tokio::net::TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(format!("POST /mcp HTTP/1.1\r\nhost: a\r\n{expect}\r\n").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    in_time(stream.read_exact(&mut status)).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 401", "a refused request is not continued");
}
