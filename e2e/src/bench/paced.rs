//! P3: what the proxy adds to the latency of a request, at a rate that is the same for all.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until},
};

/// Requests a second.
pub const RATE: u32 = 3_000;

/// Connections that share them.
const CONNECTIONS: u32 = 32;

/// How long it is measured.
const DURATION: Duration = Duration::from_secs(5);

/// Milliseconds that half, and that 99 of 100 requests take at most.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Latency {
    pub fn of(mut milliseconds: Vec<f64>) -> Self {
        milliseconds.sort_by(f64::total_cmp);
        let at = |share: usize| milliseconds.get(milliseconds.len() * share / 100).copied().unwrap_or_default();
        Self { p50: at(50), p99: at(99) }
    }
}

/// Sends the request at [`RATE`] to a port of this machine. A request that comes late is measured from when it was due.
pub async fn latency(port: u16, request: &[u8]) -> Result<Latency> {
    let begun = Instant::now() + Duration::from_millis(100);
    let between = Duration::from_secs(1) * CONNECTIONS / RATE;
    let all = try_join_all((0..CONNECTIONS).map(|number| {
        let request = request.to_vec();
        // On threads of their own, so that one does not wait for another here.
        let task = tokio::spawn(async move {
            let first = begun + between * number / CONNECTIONS;
            connection(port, &request, first, between).await
        });
        async { task.await? }
    }))
    .await?;
    Ok(Latency::of(all.concat()))
}

async fn connection(port: u16, request: &[u8], first: Instant, between: Duration) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::with_capacity(4096);
    let mut milliseconds = Vec::new();
    let mut due = first;
    while due < first + DURATION {
        sleep_until(due).await;
        stream.write_all(request).await?;
        answer.clear();
        while !is_whole(&answer)? {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("port {port} closes the connection");
            }
        }
        milliseconds.push(due.elapsed().as_secs_f64() * 1000.0);
        due += between;
    }
    Ok(milliseconds)
}

/// Whether an answer with a Content-Length has come whole.
fn is_whole(answer: &[u8]) -> Result<bool> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&answer[..end])?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("the answer is {head}");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(answer.len() - end - 4 >= length.context("the answer has no length")?)
}
