//! Upstreams that stall, fail or are unreachable.

use std::{io, sync::atomic::AtomicI64};

use jiff::SignedDuration;
use mcp_oauth_operator::testing::wall_clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    slow::{rest, soon},
    *,
};

#[tokio::test]
async fn request_body_exceeding_its_limit_during_the_response_is_a_client_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{").await.unwrap();
        while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    });
    let bed = Bed::builder()
        .upstream(address)
        .config(|config| config.upstream.limits.request_body = "1Ki".parse().unwrap())
        .start()
        .await;
    let mut stream = bed.begin("transfer-encoding: chunked\r\n").await;
    stream.write_all(b"1\r\n{\r\n").await.unwrap();
    let mut answer = [0; 12];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream.write_all(format!("800\r\n{}\r\n", "a".repeat(2048)).as_bytes()).await.unwrap();
    rest(&mut stream).await;
    assert_eq!(bed.metric("cut_answers_total{reason=\"upstream_failed\"}"), 0.0);
}

#[tokio::test]
async fn late_response_head_is_504() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Accepts connections and does not respond.
    tokio::spawn(async move {
        let mut taken = Vec::new();
        loop {
            taken.push(listener.accept().await.unwrap());
        }
    });
    let bed =
        Bed::builder().upstream(address).config(|config| config.upstream.timeouts.response_head = soon()).start().await;
    assert_eq!(in_time(bed.call()).await.status(), StatusCode::GATEWAY_TIMEOUT);
    let metrics = bed.metrics();
    assert!(metrics.contains("requests_total{outcome=\"timed_out\"} 1"), "{metrics}");
}

#[tokio::test]
async fn silent_stream_is_closed_and_silent_response_is_cut() {
    let bed = Bed::builder()
        .config(|config| {
            config.upstream.timeouts.stream_idle = soon();
            config.upstream.timeouts.response_head = soon();
        })
        .start()
        .await;
    let mut events = bed.parts();
    let mut stream = bed.listen().await.into_body().into_data_stream();
    events.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    assert!(in_time(stream.next()).await.is_none());
    // The upstream notices the disconnect.
    while events.send(Ok(Frame::data(Bytes::from("data: 2\n\n")))).await.is_ok() {
        tokio::task::yield_now().await;
    }

    let mut part = bed.parts();
    let response = bed.send(bed.request("/mcp?json").body("{}").unwrap()).await;
    let mut body = response.into_body().into_data_stream();
    part.send(Ok(Frame::data(Bytes::from("{\"half\":")))).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "{\"half\":");
    assert!(in_time(body.next()).await.unwrap().is_err());
}

#[tokio::test]
async fn stream_ends_stream_grace_after_its_token() {
    let later = Arc::new(AtomicI64::new(0));
    let moved = later.clone();
    let bed = Bed::builder()
        .config(|config| config.tokens.stream_grace = "60s".parse().unwrap())
        .clock(Arc::new(move || wall_clock()() + SignedDuration::from_secs(moved.load(Ordering::SeqCst))))
        .start()
        .await;
    let mut events = bed.parts();
    let mut stream = bed.listen().await.into_body().into_data_stream();
    // The token's 600 s have passed, and the grace period is running.
    later.store(630, Ordering::SeqCst);
    while bed.call().await.status() != StatusCode::UNAUTHORIZED {}
    events.send(Ok(Frame::data(Bytes::from("data: 1\n\n")))).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    later.store(661, Ordering::SeqCst);
    assert!(in_time(stream.next()).await.is_none());
}

#[tokio::test]
async fn breaker_opens_after_repeated_connect_failures() {
    let bed = Bed::new().await;
    bed.upstream.stop().await;
    for _ in 0..5 {
        assert_eq!(bed.call().await.status(), StatusCode::BAD_GATEWAY);
    }
    let answer = bed.call().await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let metrics = bed.metrics();
    assert!(metrics.contains("requests_total{outcome=\"broken\"} 1"), "{metrics}");
}

#[tokio::test]
async fn received_part_of_a_broken_response_is_delivered_as_incomplete() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
        }
    });
    let bed = Bed::builder().upstream(address).start().await;
    let mut stream = bed.begin("content-length: 0\r\n").await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("5\r\nhello\r\n"), "{answer}");
    // This response is delimited by the end of the connection alone.
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    let head = format!("POST /mcp HTTP/1.0\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\n\r\n", bed.token());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    assert_eq!(in_time(stream.read_to_end(&mut answer)).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
