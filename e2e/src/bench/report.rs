//! The figures of a benchmark as Markdown: bench/RESULTS.md.

use std::fs;

use super::{
    kill_switch::SESSIONS,
    kubernetes,
    measure::{DURATION, Latency, ROUNDS, Rate, Sample},
    paced::{self, RATE},
    streams,
};

/// Everything that was measured.
pub struct Figures {
    /// The reference first, ours second.
    pub forwarding: Vec<(&'static str, Vec<Sample>)>,
    /// Each with the microseconds of one ES256 verification alone.
    pub unseen: Vec<(Sample, f64)>,
    pub logins: Rate,
    pub refreshes: Rate,
    pub kubernetes: kubernetes::Figures,
    pub paced: Vec<(&'static str, Latency)>,
    pub late: [(&'static str, Latency); 2],
    /// How many idle streams there were, and KiB of each.
    pub idle_streams: (usize, f64),
    pub starts: Vec<f64>,
    /// KiB.
    pub idle: u64,
    /// KiB, after P1.
    pub loaded: u64,
    /// Bytes of the binary.
    pub binary: u64,
}

/// Median, least and greatest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

fn micros(samples: &[Sample]) -> (f64, f64, f64) {
    spread(samples.iter().map(|sample| sample.micros_per_request).collect())
}

/// As a table.
pub fn latencies(rows: &[(&str, Latency)]) -> String {
    let rows = rows.iter().map(|(name, Latency { p50, p99 })| format!("| {name} | {p50:.2} | {p99:.2} |\n"));
    format!("| | p50 | p99 |\n|---|---|---|\n{}", rows.collect::<String>())
}

/// P1, as a table.
pub fn forwarding(contenders: &[(&'static str, Vec<Sample>)]) -> String {
    let reference = contenders.first().map_or(&[][..], |(_, samples)| samples);
    let rows = contenders.iter().map(|(name, samples)| {
        let (median, low, high) = micros(samples);
        // Round by round: what the machine does beside changes from one to the next.
        let ratios = reference.iter().zip(samples).map(|(reference, sample)| reference.against(sample));
        let (ratio, ..) = spread(ratios.collect());
        format!("| {name} | {median:.1} | {low:.1} to {high:.1} | {ratio:.2} |\n")
    });
    format!("| | µs a request, median | spread | against nginx |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

/// P2.
pub fn unseen(rounds: &[(Sample, f64)]) -> String {
    let (samples, alone): (Vec<_>, Vec<_>) = rounds.iter().copied().unzip();
    let (median, low, high) = micros(&samples);
    let (verification, ..) = spread(alone);
    let rest = rounds.iter().map(|(sample, verification)| sample.micros_per_request - verification);
    let (rest, least, most) = spread(rest.collect());
    format!(
        "{median:.1} µs a request ({low:.1} to {high:.1}). A verification alone, measured before and after each round, costs {verification:.1} µs; the rest is {rest:.1} µs ({least:.1} to {most:.1}).\n"
    )
}

/// P5.
pub fn idle_streams((count, kib): (usize, f64)) -> String {
    format!("{kib:.1} KiB of the proxy's memory for each of {count} open streams.\n")
}

/// P6, of KiB.
pub fn memory(idle: u64, loaded: u64) -> String {
    format!("{:.1} MiB idle, after one request, {:.1} MiB after P1 (resident).\n", mib(idle), mib(loaded))
}

/// MiB of KiB.
#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
pub fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// The report, in Markdown.
pub fn report(figures: &Figures) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU");
    let (start, quickest, slowest) = spread(figures.starts.clone());
    let Figures { logins, refreshes, kubernetes, .. } = figures;
    format!(
        "# Results

Written by `make bench`. {model}; version {version}; the static binary that is shipped, {size:.1} MiB.

## P1: forwarding an authenticated `POST /mcp`

64 keep-alive connections, token already seen, one core each, {ROUNDS} interleaved rounds of {DURATION}. CPU time (user and system) of the
process divided by its requests; the last column is requests per core against nginx (`proxy_pass`, buffering off, no auth) in the
same round, the median of the rounds.

{forwarding}
## P2: the same, each request with a token not seen before

{unseen}
## P3: latency at {RATE} requests a second

From when a request is due until its answer is there, {paced_connections} connections; the median of {paced_rounds}
interleaved rounds, in milliseconds. What it takes a host to wake a sleeping core is left out (the cores are kept awake), and so
is what else the machine does (SCHED_FIFO), for all alike.

{paced}
## P4: streams

From when an event of a stream is sent until it is read, 200 events 10 ms apart, in milliseconds: the median of
{stream_rounds} interleaved rounds, undisturbed as P3.

{late}
## P5: idle streams

{idle_streams}
## P6: memory

{memory}
## P7: logins and refreshes

Eight people at once for 5 s, the proxy on one core, the others share the other. With SQLite the login page of `dev` is in the same
process.

| | a second | CPU ms each |
|---|---|---|
| whole logins, each with a registration, sessions in SQLite | {logins_rate:.0} | {logins_cpu:.2} |
| refreshes, SQLite | {refreshes_rate:.0} | {refreshes_cpu:.2} |
| whole logins, sessions in Kubernetes (API server and etcd on the same two cores) | {kube_logins_rate:.0} | {kube_logins_cpu:.2} |
| refreshes, Kubernetes | {kube_refreshes_rate:.0} | {kube_refreshes_cpu:.2} |
| for comparison: such an object created and then changed, by eight writers and nothing else | {pairs:.0} | |

## P8: the kill switch

{SESSIONS} live sessions in Kubernetes, 100 of which are deleted one after the other. Milliseconds from the answer to the deletion
until the first 401, and until an open stream of the session is closed.

{ends}
The proxy takes {with_sessions:.1} MiB with so many sessions, and {start_with_sessions:.0} ms from its start to ready.

## P9: start

{start:.0} ms from the start of the process to ready, median of {starts} ({quickest:.0} to {slowest:.0}), without an answer of the issuer.
",
        version = env!("CARGO_PKG_VERSION"),
        size = mib(figures.binary / 1024),
        forwarding = forwarding(&figures.forwarding),
        unseen = unseen(&figures.unseen),
        idle_streams = idle_streams(figures.idle_streams),
        memory = memory(figures.idle, figures.loaded),
        logins_rate = logins.per_second,
        logins_cpu = logins.cpu_milliseconds,
        refreshes_rate = refreshes.per_second,
        refreshes_cpu = refreshes.cpu_milliseconds,
        kube_logins_rate = kubernetes.logins.per_second,
        kube_logins_cpu = kubernetes.logins.cpu_milliseconds,
        kube_refreshes_rate = kubernetes.refreshes.per_second,
        kube_refreshes_cpu = kubernetes.refreshes.cpu_milliseconds,
        paced = latencies(&figures.paced),
        paced_connections = paced::CONNECTIONS,
        paced_rounds = paced::ROUNDS,
        stream_rounds = streams::ROUNDS,
        late = latencies(&figures.late),
        ends = latencies(&[("first 401", kubernetes.ends.refused), ("stream closed", kubernetes.ends.closed)]),
        with_sessions = mib(kubernetes.with_sessions),
        start_with_sessions = kubernetes.start.as_secs_f64() * 1000.0,
        pairs = kubernetes.pairs_of_writes,
        starts = figures.starts.len(),
    )
}
