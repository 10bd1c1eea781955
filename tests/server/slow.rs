//! Clients and upstreams that are slow, stall or send too much.

use std::{fmt::Debug, str::FromStr};

use mcp_oauth_operator::testing::{KEEPALIVE_IDLE, MAX_HEAD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// The minimum of a timeout in a resource.
const SOON: &str = "1s";

impl Bed {
    /// Opens a connection and sends the head of a request with these further lines.
    pub async fn begin(&self, lines: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("POST /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n{lines}\r\n", self.token());
        // The proxy may refuse it, and close, before all is sent.
        let _ = stream.write_all(head.as_bytes()).await;
        stream
    }
}

/// All bytes until the proxy closes the connection.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    in_time(read).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

pub fn soon<T: FromStr<Err: Debug>>() -> T {
    SOON.parse().unwrap()
}

#[tokio::test]
async fn c13_oversized_content_length_is_413_before_the_upstream() {
    let bed =
        Bed::builder().config(|config| config.upstream.limits.request_body = "1Ki".parse().unwrap()).start().await;
    let largest: &'static str = "a".repeat(1024).leak();
    assert_eq!(bed.send(bed.request("/mcp").body(largest).unwrap()).await.status(), StatusCode::OK);
    let answer = rest(&mut bed.begin("content-length: 1025\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(bed.upstream.requests(), 1);
}

#[tokio::test]
async fn c13_client_still_sending_its_body_can_read_the_413() {
    const SIZE: usize = 64 << 20;
    let bed = Bed::new().await;
    for (token, status) in [(bed.token(), 413), ("not.a.token", 401)] {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        let head =
            format!("POST /mcp HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: {SIZE}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..SIZE / 65536 {
            stream.write_all(&[b'a'; 65536]).await.unwrap();
        }
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn c13_client_still_sending_its_head_can_read_the_431() {
    let bed = Bed::new().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(b"POST /mcp HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    let line = format!("a: {}\r\n", "a".repeat(16 * 1024));
    for _ in 0..1024 {
        stream.write_all(line.as_bytes()).await.unwrap();
    }
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn lost_peers_are_detected_by_keepalive() {
    let bed = Bed::new().await;
    let mut client = bed.begin("content-length: 0\r\n").await;
    client.read_exact(&mut [0; 12]).await.unwrap();
    let upstream = bed.upstream.address.port();
    // The open connections of this process: local and remote port, and the hundredths of a second until the keep-alive timer
    // expires (kernel.org, proc_net_tcp).
    let port = |address: &str| u16::from_str_radix(address.split_once(':').unwrap().1, 16).unwrap();
    let is_soon = |timer: &str| {
        let due = timer.strip_prefix("02:").map(|due| u64::from_str_radix(due, 16).unwrap());
        due.is_some_and(|due| due <= KEEPALIVE_IDLE.as_secs() * 100)
    };
    let are_probed = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let open = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let open = open.filter(|fields| fields[3] == "01");
        let ours = open.filter(|open| port(open[1]) == bed.address.port() || port(open[2]) == upstream);
        ours.filter(|open| is_soon(open[5])).count() == 2
    };
    // While sent data is unacknowledged, another timer runs.
    in_time(async {
        while !are_probed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn incomplete_request_ends_with_its_session() {
    let bed = Bed::new().await;
    let mut stream = bed.begin("content-length: 2\r\n").await;
    stream.write_all(b"{").await.unwrap();
    while bed.metric("token_cache_entries") == 0.0 {
        tokio::task::yield_now().await;
    }
    bed.apply(SessionEvent::Ended(bed.session.id));
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn slow_upload_does_not_count_against_the_upstream_timeout() {
    let bed = Bed::builder().config(|config| config.upstream.timeouts.response_head = soon()).start().await;
    let mut stream = bed.begin("content-length: 2\r\n").await;
    stream.write_all(b"{").await.unwrap();
    while bed.metric("token_cache_entries") == 0.0 {
        tokio::task::yield_now().await;
    }
    // The response timeout of the upstream does not include the upload.
    let later = bed.send(bed.request("/mcp?silent").body("{}").unwrap());
    assert_eq!(in_time(later).await.status(), StatusCode::GATEWAY_TIMEOUT);
    stream.write_all(b"}").await.unwrap();
    let mut answer = [0; 12];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn c13_oversized_chunked_body_never_arrives_whole() {
    let bed =
        Bed::builder().config(|config| config.upstream.limits.request_body = "1Ki".parse().unwrap()).start().await;
    let mut stream = bed.begin("transfer-encoding: chunked\r\n").await;
    let chunk = format!("200\r\n{}\r\n", "a".repeat(512));
    for _ in 0..2 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.write_all(b"1\r\na\r\n").await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(bed.upstream.requests(), 0);
}

#[tokio::test]
async fn c13_stalled_body_times_out_despite_single_bytes() {
    let bed = Bed::builder().config(|config| config.upstream.timeouts.request_body = soon()).start().await;
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
    in_time(answers.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408 ");
    drop(answers);
    drip.await.unwrap();
    assert_eq!(bed.upstream.requests(), 0);
    assert_eq!(bed.call().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn c13_oversized_head_is_431() {
    let bed = Bed::new().await;
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(format!("GET /mcp HTTP/1.1\r\na: {}", "a".repeat(MAX_HEAD)).as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn c13_client_that_reads_nothing_is_disconnected() {
    let bed = Bed::builder().config(|config| config.upstream.timeouts.request_body = soon()).start().await;
    let (parts, part) = (bed.parts(), Bytes::from(vec![b'a'; 1 << 20]));
    for _ in 0..1000 {
        parts.unbounded_send(Ok(Frame::data(part.clone()))).unwrap();
    }
    let mut stream = bed.begin("content-length: 0\r\n").await;
    // The upstream notices the disconnect.
    in_time(async {
        while !parts.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        taken += read;
    }
    // The buffers of two sockets; the proxy buffers nothing.
    assert!(taken < 100 << 20, "{taken}");
}

#[tokio::test]
async fn unread_stream_ends_with_its_session() {
    let bed = Bed::new().await;
    let (parts, part) = (bed.parts(), Bytes::from(vec![b'a'; 1 << 20]));
    for _ in 0..1000 {
        parts.unbounded_send(Ok(Frame::data(part.clone()))).unwrap();
    }
    let mut stream = bed.begin("content-length: 0\r\n").await;
    stream.read_exact(&mut [0; 12]).await.unwrap();
    // Until all buffers are full and nothing polls the stream.
    let mut left = 1000;
    while left != parts.len() || left == 1000 {
        left = parts.len();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    bed.apply(SessionEvent::Ended(bed.session.id));
    // Before the timeout for clients that read nothing.
    in_time(async {
        while !parts.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(bed.metric("ended_streams_total{reason=\"session_ended\"}"), 1.0);
}

#[tokio::test]
async fn c13_authorization_server_bodies_are_limited() {
    let bed = Bed::builder().config(|config| config.upstream.timeouts.request_body = soon()).start().await;
    for (length, status) in [("10", "408"), ("65537", "413")] {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        let head = format!("POST /token HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn c13_many_small_chunks_use_bounded_memory() {
    let bed = Bed::new().await;
    // Without a token: the router serves the path.
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = format!("1;{}\r\na\r\n", "x".repeat(1000));
    for _ in 0..60_000 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("extensions"), "{answer}");
}
