//! Limits on concurrent requests, streams and connections.

use std::num::NonZero;

use mcp_oauth_operator::api::Bounded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{slow::rest, *};

#[tokio::test]
async fn limits_reject_immediately_and_admit_after_an_end() {
    let bed = Bed::builder()
        .config(|config| {
            config.upstream.limits.concurrency = Bounded::of::<1>();
            config.upstream.limits.streams = Some(Bounded::of::<1>());
        })
        .start()
        .await;
    let answer = bed.parts();
    let answered = bed.call().await;
    let events = bed.parts();
    let stream = bed.listen().await;
    assert_eq!((answered.status(), stream.status()), (StatusCode::OK, StatusCode::OK));
    let asked = bed.upstream.requests();
    for refused in [bed.call().await, bed.listen().await] {
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "1");
    }
    assert_eq!(bed.upstream.requests(), asked);
    let metrics = bed.metrics();
    assert!(metrics.contains("requests_total{outcome=\"shed\"} 2"), "{metrics}");
    drop((answer, events));
    assert_eq!((text(answered).await, text(stream).await), (String::new(), String::new()));
    assert_eq!((bed.call().await.status(), bed.listen().await.status()), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test]
async fn global_limit_refuses_until_any_request_ends() {
    let bed = Bed::builder().config(|config| config.upstream.limits.concurrency = Bounded::of::<3>()).start().await;
    // The limit per user is two; each user has one request in flight.
    let callers = ["b", "c", "d", "e"].map(|nonce| {
        let mut caller = Session { id: session(nonce).id, ..bed.session.clone() };
        caller.user.subject = nonce.to_owned();
        bed.apply(SessionEvent::Is(caller.clone()));
        bed.token_of(&caller, "https://mcp.example.com/mcp")
    });
    let [callers @ .., last] = &callers;
    let call = async |token: &str| {
        let request = Request::post("/mcp").header("authorization", format!("Bearer {token}"));
        bed.send(request.body("{}").unwrap()).await
    };
    let mut open = Vec::new();
    for caller in callers {
        let parts = bed.parts();
        let answer = call(caller).await;
        assert_eq!(answer.status(), StatusCode::OK);
        open.push((parts, answer));
    }
    let refused = call(last).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(text(refused).await.contains("the server is busy"));
    assert_eq!(bed.upstream.requests(), callers.len());
    let (parts, answer) = open.pop().unwrap();
    drop(parts);
    assert_eq!(text(answer).await, "");
    assert_eq!(call(last).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn c13_connection_limit_refuses_with_503() {
    let bed = Bed::builder().config(|config| config.connections = NonZero::new(1)).start().await;
    let mut first = bed.begin("content-length: 0\r\n").await;
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // The client may send its request before the refusal, and more of it afterwards.
    let mut second = bed.begin("content-length: 1000000\r\n").await;
    for _ in 0..1000 {
        second.write_all(&[b'a'; 1000]).await.unwrap();
    }
    let refused = rest(&mut second).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    drop(first);
    loop {
        let mut next = bed.begin("content-length: 0\r\nconnection: close\r\n").await;
        if rest(&mut next).await.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
}
