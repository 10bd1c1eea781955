use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use super::{
    ROUNDS,
    kill_switch::SESSIONS,
    kubernetes,
    paced::{self, Latency, RATE},
    streams,
};
use crate::{peers::program, run::Run};

/// Keep-alive connections of the load.
const CONNECTIONS: &str = "64";

/// How long one round of one contender lasts.
const DURATION: &str = "2s";

/// Clock ticks of /proc/PID/stat a second (sysconf(_SC_CLK_TCK), 100 on Linux).
const TICKS: f64 = 100.0;

/// With which tokens requests are made.
pub enum Tokens {
    /// With none.
    None,
    /// All with this one.
    One(String),
    /// Each with the next line of this file.
    EachAnother(PathBuf),
}

/// What is sent to whom.
pub struct Load {
    url: String,
    script: PathBuf,
}

impl Load {
    /// An MCP request to the contender at `port`.
    pub fn new(run: &Run, name: &str, port: u16, tokens: &Tokens) -> Result<Self> {
        let script = run.directory().join(format!("{name}.lua"));
        let authorization = match tokens {
            Tokens::None => String::new(),
            Tokens::One(token) => format!("wrk.headers[\"Authorization\"] = \"Bearer {token}\"\n"),
            // Where a round stops, the next goes on: none comes twice.
            Tokens::EachAnother(file) => format!(
                "local tokens, at = io.open('{0}'), '{0}.at'\nlocal mark = io.open(at)\nif mark then tokens:seek('set', tonumber(mark:read())) mark:close() end\nfunction request()\n  wrk.headers[\"Authorization\"] = 'Bearer ' .. tokens:read()\n  return wrk.format()\nend\nlocal count = 0\nfunction response()\n  count = count + 1\n  if count % 256 == 0 then local mark = io.open(at, 'w') mark:write(tokens:seek()) mark:close() end\nend\n",
                file.display()
            ),
        };
        fs::write(
            &script,
            format!(
                "wrk.method = \"POST\"\nwrk.body = '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}}'\nwrk.headers[\"Content-Type\"] = \"application/json\"\nwrk.headers[\"Accept\"] = \"application/json, text/event-stream\"\n{authorization}"
            ),
        )?;
        Ok(Self { url: format!("http://127.0.0.1:{port}/mcp"), script })
    }
}

/// One round of one contender.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    micros_per_request: f64,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn new(requests: u64, ticks: u64) -> Self {
        Self { micros_per_request: ticks as f64 / TICKS * 1e6 / requests.max(1) as f64 }
    }

    /// How many times as much it is.
    fn against(&self, other: &Self) -> f64 {
        self.micros_per_request / other.micros_per_request
    }
}

/// How often something was done.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: f64,
    pub cpu_milliseconds: f64,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn new(count: u64, elapsed: Duration, ticks: u64) -> Self {
        let count = count.max(1) as f64;
        Self { per_second: count / elapsed.as_secs_f64(), cpu_milliseconds: ticks as f64 / TICKS * 1e3 / count }
    }
}

/// The CPU time of this thread.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Sends the load and returns how many requests were answered with 2xx; any other answer is an error.
pub fn wrk(core: &str, load: &Load) -> Result<u64> {
    let mut command = Command::new("taskset");
    command.args(["-c", core, "wrk", "-t1", "-c", CONNECTIONS, "-d", DURATION, "-s"]).arg(&load.script).arg(&load.url);
    let output = program::output(&mut command)?;
    if output.contains("Non-2xx") || output.contains("Socket errors") {
        bail!("{} did not answer every request: {output}", load.url);
    }
    let count =
        output.lines().find_map(|line| line.trim().split_once(" requests in ")).context("wrk counts nothing")?.0;
    Ok(count.parse()?)
}

/// User and system time of a process in clock ticks (proc(5), fields 14 and 15).
pub fn cpu_ticks(pid: i32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().collect();
    let field = |number: usize| -> Result<u64> { Ok(fields.get(number - 3).context("no field")?.parse()?) };
    Ok(field(14)? + field(15)?)
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

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
