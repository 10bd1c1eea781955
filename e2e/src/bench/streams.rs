//! P4: the delay of stream events. P5: the memory of an idle stream.

use std::{
    convert::Infallible,
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::interval,
};

use super::measure::{Latency, resident_kib};

/// The number of interleaved rounds of P4, each with and without the proxy.
pub const ROUNDS: usize = 5;

/// The number of events per stream.
const EVENTS: usize = 200;

/// The interval between events.
const BETWEEN: Duration = Duration::from_millis(10);

/// The number of concurrent streams, if the limit of open files allows it.
const IDLE: usize = 10_000;

/// Open files other than the two of each stream.
const OTHER_FILES: usize = 1_000;

/// One clock for sender and reader, which are in this process.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// An upstream that responds with event streams. Each event contains its send time. With `?idle`, it sends only one
/// event.
pub async fn upstream() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(events)).await });
    Ok(port)
}

async fn events(request: Request) -> Response {
    let event = || Ok::<_, Infallible>(Bytes::from(format!("data: {}\n\n", CLOCK.elapsed().as_nanos())));
    let body = if request.uri().query() == Some("idle") {
        Body::from_stream(stream::once(async move { event() }).chain(stream::pending()))
    } else {
        let ticks = stream::unfold(interval(BETWEEN), |mut interval| async {
            interval.tick().await;
            Some(((), interval))
        });
        Body::from_stream(ticks.take(EVENTS).map(move |()| event()))
    };
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn request(query: &str, token: Option<&str>) -> String {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("GET /mcp{query} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n{authorization}\r\n")
}

/// The delay of a stream's events in milliseconds.
pub async fn event_delays(port: u16, token: Option<&str>) -> Result<Latency> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request("", token).as_bytes()).await?;
    let (mut read, mut delays) = (Vec::with_capacity(64 * 1024), Vec::new());
    let mut from = 0;
    while delays.len() < EVENTS {
        if stream.read_buf(&mut read).await? == 0 {
            bail!("the stream ended after {} events", delays.len());
        }
        let now = CLOCK.elapsed();
        let text = std::str::from_utf8(&read)?;
        while let Some(begin) = text[from..].find("data: ").map(|at| from + at + 6) {
            let Some(end) = text[begin..].find('\n').map(|at| begin + at) else { break };
            let sent = Duration::from_nanos(text[begin..end].parse()?);
            delays.push((now.saturating_sub(sent)).as_secs_f64() * 1000.0);
            from = end;
        }
    }
    Ok(Latency::from_samples(delays))
}

/// The number of open streams, and KiB of the proxy's memory per stream after its first event.
pub async fn idle(port: u16, token: &str, pid: i32) -> Result<(usize, f64)> {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    let count = files.map_or(IDLE, |files| IDLE.min(files.saturating_sub(OTHER_FILES) / 2));
    let before = resident_kib(pid)?;
    let request = &request("?idle", Some(token));
    let streams: Vec<_> = stream::iter(0..count)
        .map(|_| async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut read = Vec::new();
            while !read.windows(6).any(|bytes| bytes == b"data: ") {
                if stream.read_buf(&mut read).await? == 0 {
                    bail!("a stream ended: {}", String::from_utf8_lossy(&read));
                }
            }
            Ok(stream)
        })
        .buffer_unordered(64)
        .collect()
        .await;
    let open = streams.into_iter().collect::<Result<Vec<_>>>().context("not all streams could be opened")?;
    let after = resident_kib(pid)?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let each = (after.saturating_sub(before)) as f64 / open.len() as f64;
    Ok((open.len(), each))
}
