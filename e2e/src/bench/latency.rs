//! P3: the latency that the proxy adds, at the same request rate for all contenders.

use std::{
    io::{Read, Write},
    net::TcpStream,
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

use super::{bed::Bed, cores::LOAD_CORE, measure::Latency};
use crate::progress::stop_if_interrupted;

/// Requests per second.
pub const RATE: u32 = 3_000;

/// The number of connections that share the rate.
pub const CONNECTIONS: u32 = 32;

/// The number of interleaved rounds. Many and short, because disturbances on the machine last longer than a request.
pub const ROUNDS: usize = 15;

const DURATION: Duration = Duration::from_secs(1);

/// The latency of the upstream, nginx and the proxy.
pub fn latencies(bed: &Bed) -> Result<Vec<(&'static str, Latency)>> {
    let contenders = [
        ("direct", bed.upstream.port, request("")),
        ("nginx", bed.nginx.port, request("")),
        ("mcp-oauth-operator", bed.proxy.port, request(&format!("Authorization: Bearer {}\r\n", bed.token))),
    ];
    let mut rounds = contenders.each_ref().map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, port, request), rounds) in contenders.iter().zip(&mut rounds) {
            stop_if_interrupted()?;
            rounds.push(Latency::from_samples(round(*port, request.as_bytes())?));
        }
    }
    Ok(contenders.iter().zip(rounds).map(|((name, ..), rounds)| (*name, Latency::median(&rounds))).collect())
}

fn request(authorization: &str) -> String {
    let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}";
    format!(
        "POST /mcp HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{authorization}\r\n{body}",
        body.len()
    )
}

/// Sends the request at [`RATE`] to a local port. Returns the milliseconds from the time when each request is due.
fn round(port: u16, request: &[u8]) -> Result<Vec<f64>> {
    let started = Instant::now() + Duration::from_millis(100);
    let between = Duration::from_secs(1) * CONNECTIONS / RATE;
    // One thread per connection, because a runtime's timers are late by up to a millisecond, more than the measured
    // latency.
    thread::scope(|scope| {
        let first = |number| started + between * number / CONNECTIONS;
        let start = |number| scope.spawn(move || connection(port, request, first(number), between));
        let threads: Vec<_> = (0..CONNECTIONS).map(start).collect();
        let all = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a connection panicked"))?);
        Ok(all.collect::<Result<Vec<_>>>()?.concat())
    })
}

fn connection(port: u16, request: &[u8], first: Instant, between: Duration) -> Result<Vec<f64>> {
    let mut core = CpuSet::new();
    core.set(LOAD_CORE.parse()?);
    sched_setaffinity(None, &core)?;
    set_current_timer_slack(NonZeroU64::new(1))?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let (mut response, mut buffer) = (Vec::with_capacity(4096), [0; 4096]);
    let mut milliseconds = Vec::new();
    let mut due = first;
    while due < first + DURATION {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request)?;
        response.clear();
        while !is_complete(&response)? {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                bail!("port {port} closed the connection");
            }
            response.extend_from_slice(&buffer[..length]);
        }
        milliseconds.push(due.elapsed().as_secs_f64() * 1000.0);
        due += between;
    }
    Ok(milliseconds)
}

/// Whether a response with a Content-Length is complete.
fn is_complete(response: &[u8]) -> Result<bool> {
    let Some(end) = response.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&response[..end])?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("unexpected response: {head}");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(response.len() - end - 4 >= length.context("the response has no Content-Length")?)
}
