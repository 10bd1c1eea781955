//! Clients and upstreams that are slow, stuck or huge, as no correct one would be.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::api::{Duration as Written, proxy::Upstream as UpstreamConfig};

/// Less than a resource may say, so that nobody has to wait for it.
const SOON: &str = "1ms";

impl Bed {
    /// Before an upstream that is configured in another way.
    async fn configured(change: impl FnOnce(&mut UpstreamConfig)) -> Self {
        let (upstream, address, listening) = Upstream::start().await;
        let bed = Self::changed(LiveSet::default(), upstream, address, listening, change).await;
        bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
        bed
    }

    /// A connection over which the head of a request has been sent, with these further lines.
    async fn begin(&self, lines: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("POST /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n{lines}\r\n", self.token());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

/// All that comes until the proxy closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the proxy closes it").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn soon() -> Written {
    SOON.parse().unwrap()
}

#[tokio::test]
async fn c13_a_body_that_says_it_is_too_large_is_refused_before_the_upstream_hears_of_it() {
    let bed = Bed::configured(|upstream| upstream.limits.request_body = "1Ki".parse().unwrap()).await;
    let largest: &'static str = "a".repeat(1024).leak();
    assert_eq!(bed.send(bed.request("/mcp").body(largest).unwrap()).await.status(), StatusCode::OK);
    let answer = rest(&mut bed.begin("content-length: 1025\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(bed.upstream.asked(), 1);
}

#[tokio::test]
async fn c13_a_body_that_turns_out_to_be_too_large_never_arrives_whole() {
    let bed = Bed::configured(|upstream| upstream.limits.request_body = "1Ki".parse().unwrap()).await;
    let mut stream = bed.begin("transfer-encoding: chunked\r\n").await;
    let chunk = format!("200\r\n{}\r\n", "a".repeat(512));
    for _ in 0..2 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.write_all(b"1\r\na\r\n").await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(bed.upstream.asked(), 0);
}

#[tokio::test]
async fn c13_a_body_that_does_not_go_on_is_given_up_and_one_byte_now_and_then_does_not_help() {
    let bed = Bed::configured(|upstream| upstream.timeouts.request_body = soon()).await;
    let mut silent = bed.begin("content-length: 10\r\n").await;
    let (mut answers, mut dripping) = bed.begin("content-length: 100000\r\n").await.into_split();
    let drip = tokio::spawn(async move {
        while dripping.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let answer = rest(&mut silent).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
    let mut answer = [0; 13];
    answers.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408 ");
    drop(answers);
    drip.await.unwrap();
    assert_eq!(bed.upstream.asked(), 0);
    assert_eq!(bed.call().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn c13_a_head_that_is_too_large_is_refused() {
    let bed = Bed::new().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(format!("GET /mcp HTTP/1.1\r\na: {}", "a".repeat(MAX_HEAD)).as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}
