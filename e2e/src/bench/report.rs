//! Formats the results as Markdown for bench/RESULTS.md.

use std::fs;

use super::{
    kill_switch::SESSIONS,
    kubernetes,
    latency::{self, RATE},
    measure::{DURATION, Latency, ROUNDS, Rate, Sample},
    streams,
};

/// All results.
pub struct Results {
    /// The reference first, the proxy second.
    pub forwarding: Vec<(&'static str, Vec<Sample>)>,
    /// Each with the microseconds of one ES256 verification.
    pub uncached: Vec<(Sample, f64)>,
    pub logins: Rate,
    pub refreshes: Rate,
    pub kubernetes: kubernetes::Results,
    pub latencies: Vec<(&'static str, Latency)>,
    pub delays: [(&'static str, Latency); 2],
    /// The number of idle streams, and KiB per stream.
    pub idle_streams: (usize, f64),
    pub starts: Vec<f64>,
    /// In KiB.
    pub idle: u64,
    /// In KiB, after P1.
    pub loaded: u64,
    /// In bytes.
    pub binary: u64,
}

/// Median, minimum and maximum.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

fn micros(samples: &[Sample]) -> (f64, f64, f64) {
    spread(samples.iter().map(|sample| sample.micros_per_request).collect())
}

pub fn latencies(rows: &[(&str, Latency)]) -> String {
    let rows = rows.iter().map(|(name, Latency { p50, p99 })| format!("| {name} | {p50:.2} | {p99:.2} |\n"));
    format!("| | p50 | p99 |\n|---|---|---|\n{}", rows.collect::<String>())
}

/// P1.
pub fn forwarding(contenders: &[(&'static str, Vec<Sample>)]) -> String {
    let reference = contenders.first().map_or(&[][..], |(_, samples)| samples);
    let rows = contenders.iter().map(|(name, samples)| {
        let (median, low, high) = micros(samples);
        // Ratios are per round, because the machine's other load changes between rounds.
        let ratios = reference.iter().zip(samples).map(|(reference, sample)| reference.ratio_to(sample));
        let (ratio, ..) = spread(ratios.collect());
        format!("| {name} | {median:.1} | {low:.1} to {high:.1} | {ratio:.2} |\n")
    });
    format!(
        "| | µs per request, median | spread | relative to nginx |\n|---|---|---|---|\n{}",
        rows.collect::<String>()
    )
}

/// P2.
pub fn uncached(rounds: &[(Sample, f64)]) -> String {
    let (samples, verifications): (Vec<_>, Vec<_>) = rounds.iter().copied().unzip();
    let (median, low, high) = micros(&samples);
    let (verification, ..) = spread(verifications);
    let rest = rounds.iter().map(|(sample, verification)| sample.micros_per_request - verification);
    let (rest, least, most) = spread(rest.collect());
    format!(
        "{median:.1} µs per request ({low:.1} to {high:.1}). One signature verification, measured before and after each round, takes {verification:.1} µs; the rest is {rest:.1} µs ({least:.1} to {most:.1}).\n"
    )
}

/// P5.
pub fn idle_streams((count, kib): (usize, f64)) -> String {
    format!("{kib:.1} KiB of the proxy's memory per stream, with {count} open streams.\n")
}

/// P6. Arguments are in KiB.
pub fn memory(idle: u64, loaded: u64) -> String {
    format!("Resident: {:.1} MiB idle (after one request), {:.1} MiB after P1.\n", mib(idle), mib(loaded))
}

/// Converts KiB to MiB.
#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
pub fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

pub fn report(results: &Results) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU");
    let (start, quickest, slowest) = spread(results.starts.clone());
    let Results { logins, refreshes, kubernetes, .. } = results;
    format!(
        "# Results

Written by `make bench`. {model}; version {version}; the released static binary, {size:.1} MiB.

## P1: forwarding an authenticated `POST /mcp`

64 keep-alive connections, a cached token, one core each, {ROUNDS} interleaved rounds of {DURATION}. CPU time (user and system) of the
process divided by its requests. The last column is requests per core relative to nginx (`proxy_pass`, buffering off, no auth) in the
same round, the median of the rounds.

{forwarding}
## P2: forwarding with an uncached token in each request

{uncached}
## P3: latency at {RATE} requests per second

The time from when a request is due until its response is complete, with {connections} connections, in milliseconds: the median of
{latency_rounds} interleaved rounds. For all contenders, the cores are kept awake and other load is suppressed (SCHED_FIFO).

{latencies}
## P4: streams

The time from when the upstream sends an event until the client reads it, 200 events 10 ms apart, in milliseconds: the median of
{stream_rounds} interleaved rounds, under the conditions of P3.

{delays}
## P5: idle streams

{idle_streams}
## P6: memory

{memory}
## P7: logins and refreshes

Eight concurrent users for 5 s; the proxy has one core, and everything else shares the other. With SQLite, the login page of `dev` is in
the same process.

| | per second | CPU ms each |
|---|---|---|
| complete logins, each with a registration, sessions in SQLite | {logins_rate:.0} | {logins_cpu:.2} |
| refreshes, SQLite | {refreshes_rate:.0} | {refreshes_cpu:.2} |
| complete logins, sessions in Kubernetes (API server and etcd on the same two cores) | {kube_logins_rate:.0} | {kube_logins_cpu:.2} |
| refreshes, Kubernetes | {kube_refreshes_rate:.0} | {kube_refreshes_cpu:.2} |
| for comparison: session objects created and then patched by eight writers, without a proxy | {pairs:.0} | |

## P8: the kill switch

{SESSIONS} live sessions in Kubernetes, 100 of which are deleted one after the other. Milliseconds from the response to the deletion
until the first 401, and until an open stream of the session is closed.

{ends}
With these sessions, the proxy needs {with_sessions:.1} MiB, and {start_with_sessions:.0} ms from start to ready.

## P9: start

{start:.0} ms from process start to ready, median of {starts} ({quickest:.0} to {slowest:.0}), without a response of the issuer.
",
        version = env!("CARGO_PKG_VERSION"),
        size = mib(results.binary / 1024),
        forwarding = forwarding(&results.forwarding),
        uncached = uncached(&results.uncached),
        idle_streams = idle_streams(results.idle_streams),
        memory = memory(results.idle, results.loaded),
        logins_rate = logins.per_second,
        logins_cpu = logins.cpu_milliseconds,
        refreshes_rate = refreshes.per_second,
        refreshes_cpu = refreshes.cpu_milliseconds,
        kube_logins_rate = kubernetes.logins.per_second,
        kube_logins_cpu = kubernetes.logins.cpu_milliseconds,
        kube_refreshes_rate = kubernetes.refreshes.per_second,
        kube_refreshes_cpu = kubernetes.refreshes.cpu_milliseconds,
        latencies = latencies(&results.latencies),
        connections = latency::CONNECTIONS,
        latency_rounds = latency::ROUNDS,
        stream_rounds = streams::ROUNDS,
        delays = latencies(&results.delays),
        ends = latencies(&[("first 401", kubernetes.end_latencies.rejected), ("stream closed", kubernetes.end_latencies.closed)]),
        with_sessions = mib(kubernetes.with_sessions),
        start_with_sessions = kubernetes.start.as_secs_f64() * 1000.0,
        pairs = kubernetes.write_pairs,
        starts = results.starts.len(),
    )
}
