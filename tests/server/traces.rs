use std::convert::Infallible;

use http::Response;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};

use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An OTLP collector over HTTP that records its requests.
async fn collector() -> (String, Arc<Mutex<Vec<(String, Bytes)>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let sent: Arc<Mutex<Vec<_>>> = Arc::default();
    let keep = sent.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let keep = keep.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let keep = keep.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    keep.lock().unwrap().push((path, body));
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (endpoint, sent)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn span_continues_the_clients_trace_and_is_exported() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (endpoint, sent) = collector().await;
    let bed = Bed::builder().traces(endpoint).start().await;
    let request = bed
        .request("/mcp?secret=x")
        .header("traceparent", PARENT)
        .header("tracestate", "vendor=1")
        .header("connection", "traceparent");
    assert_eq!(bed.send(request.body("{}").unwrap()).await.status(), StatusCode::OK);

    let headers = bed.upstream.last().1;
    let given: Vec<&str> = headers["traceparent"].to_str().unwrap().split('-').collect();
    let [version, trace, span, flags] = given[..] else { panic!("{given:?}") };
    assert_eq!((version, trace, flags), ("00", "4bf92f3577b34da6a3ce929d0e0e4736", "01"));
    assert_ne!(span, "00f067aa0ba902b7", "the upstream's parent is our span");
    assert_eq!(
        (&headers["tracestate"], headers.get_all("traceparent").iter().count()),
        (&"vendor=1".parse().unwrap(), 1)
    );

    bed.flush_traces().await;
    let sent = sent.lock().unwrap();
    let [(path, body)] = &sent[..] else { panic!("one request: {sent:?}") };
    assert_eq!(path, "/v1/traces");
    let has = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    // Protobuf contains bytes and strings verbatim.
    for (what, part) in [
        ("the trace", bytes(trace)),
        ("the span that the upstream got", bytes(span)),
        ("the client's span", bytes("00f067aa0ba902b7")),
        ("who speaks", b"mcp-oauth-proxy".to_vec()),
        ("the outcome", b"forwarded".to_vec()),
    ] {
        assert!(has(&part), "{what} is not in {body:?}");
    }
    assert!(!has(b"secret=x") && !has(bed.token().as_bytes()) && !has(b"ada@example.com"), "{body:?}");
}
