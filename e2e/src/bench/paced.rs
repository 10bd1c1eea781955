//! P3: what the proxy adds to the latency of a request, at a rate that is the same for all.

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

/// Requests a second.
pub const RATE: u32 = 3_000;

/// Connections that share them.
pub const CONNECTIONS: u32 = 32;

/// Interleaved rounds, each of every contender. Many and short: what the machine does beside lasts longer than a request.
pub const ROUNDS: usize = 15;

/// How long a round lasts.
const DURATION: Duration = Duration::from_secs(1);

/// The upstream's, nginx's and the proxy's.
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
            rounds.push(Latency::of(round(*port, request.as_bytes())?));
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

/// Sends the request at [`RATE`] to a port of this machine. Milliseconds of each from when it was due.
fn round(port: u16, request: &[u8]) -> Result<Vec<f64>> {
    let begun = Instant::now() + Duration::from_millis(100);
    let between = Duration::from_secs(1) * CONNECTIONS / RATE;
    // A thread each, because a runtime's timer is late by as much as a millisecond, which is more than what is measured.
    thread::scope(|scope| {
        let first = |number| begun + between * number / CONNECTIONS;
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
    let (mut answer, mut room) = (Vec::with_capacity(4096), [0; 4096]);
    let mut milliseconds = Vec::new();
    let mut due = first;
    while due < first + DURATION {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request)?;
        answer.clear();
        while !is_whole(&answer)? {
            let length = stream.read(&mut room)?;
            if length == 0 {
                bail!("port {port} closes the connection");
            }
            answer.extend_from_slice(&room[..length]);
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
