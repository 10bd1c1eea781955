//! `make bench`: the cost of the proxy, compared with nginx in the same run. Writes bench/RESULTS.md. Absolute figures
//! of a shared machine vary with its other load, so results are CPU time per request and ratios within one run.

mod bed;
mod cores;
mod kill_switch;
mod kubernetes;
mod latency;
pub mod login;
mod logins;
mod measure;
mod priority;
mod report;
pub mod soak;
mod start;
mod streams;
mod uncached;

use std::fs;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    image::workspace,
    progress::{Progress, catch_interrupts, stop_if_interrupted},
    run::Run,
};
use bed::{Bed, Process, start_proxy};
use cores::LOAD_CORE;
use measure::{Latency, Load, ROUNDS, RequestTokens, Sample, cpu_ticks, resident_kib, wrk};
use priority::with_realtime_priority;
use report::Results;

/// A benchmark that can run alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Benchmark {
    #[value(name = "P1")]
    Forwarding,
    #[value(name = "P2")]
    Uncached,
    #[value(name = "P3")]
    Latency,
    #[value(name = "P4")]
    Streams,
    #[value(name = "P5")]
    IdleStreams,
    #[value(name = "P6")]
    Memory,
    #[value(name = "P10")]
    Size,
}

#[derive(clap::Args)]
pub struct Args {
    /// Run only these benchmarks and print their results; without any, run all and write bench/RESULTS.md
    only: Vec<Benchmark>,
}

impl Args {
    pub fn run(self) -> Result<()> {
        catch_interrupts();
        // Each stream needs two connections, one at the proxy and one here.
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
        let run = Run::open(&format!("bench-{}", std::process::id()))?;
        let runtime = tokio::runtime::Runtime::new()?;
        let result = if self.only.is_empty() {
            runtime.block_on(measure(&run))
        } else {
            runtime.block_on(measure_selected(&run, &self.only))
        };
        for (component, _) in run.components() {
            run.stop(&component)?;
        }
        let report = result.with_context(|| format!("the logs of the run are in {}", run.logs().display()))?;
        fs::remove_dir_all(run.directory())?;
        if !self.only.is_empty() {
            print!("{report}");
            return Ok(());
        }
        let file = workspace().join("bench/RESULTS.md");
        fs::create_dir_all(workspace().join("bench"))?;
        fs::write(&file, &report)?;
        println!("{report}\nwritten to {}", file.display());
        Ok(())
    }
}

struct Contender {
    name: &'static str,
    pid: i32,
    load: Load,
    samples: Vec<Sample>,
}

impl Contender {
    fn new(run: &Run, name: &'static str, Process { pid, port }: Process, tokens: &RequestTokens) -> Result<Self> {
        Ok(Self { name, pid, load: Load::new(run, name, port, tokens)?, samples: Vec::new() })
    }

    /// Runs one round.
    fn measure(&mut self) -> Result<()> {
        stop_if_interrupted()?;
        let before = cpu_ticks(self.pid)?;
        let requests = wrk(LOAD_CORE, &self.load)?;
        self.samples.push(Sample::new(requests, cpu_ticks(self.pid)? - before));
        Ok(())
    }
}

/// P1. nginx is first.
fn forwarding(run: &Run, bed: &Bed, progress: &Progress) -> Result<Vec<(&'static str, Vec<Sample>)>> {
    let mut contenders = [
        Contender::new(run, "nginx", bed.nginx, &RequestTokens::None)?,
        Contender::new(run, "mcp-oauth-operator", bed.proxy, &RequestTokens::Single(bed.token.clone()))?,
    ];
    for round in 1..=ROUNDS {
        for contender in &mut contenders {
            contender.measure()?;
        }
        progress.print(format!("round {round} of {ROUNDS}"));
    }
    Ok(contenders.map(|contender| (contender.name, contender.samples)).to_vec())
}

/// P2. Each round has the microseconds of one signature verification, measured before and after it.
fn with_uncached_tokens(run: &Run, bed: &Bed) -> Result<Vec<(Sample, f64)>> {
    let (uncached, keys) = (run.directory().join("uncached"), Bed::state(run).join("signing-keys.json"));
    let verification = uncached::write_tokens(&keys, &bed.token, &uncached)?;
    let mut contender = Contender::new(run, "uncached", bed.proxy, &RequestTokens::FromFile(uncached))?;
    let mut verifications = Vec::new();
    for _ in 0..ROUNDS {
        let before = verification.micros()?;
        contender.measure()?;
        verifications.push(f64::midpoint(before, verification.micros()?));
    }
    Ok(contender.samples.into_iter().zip(verifications).collect())
}

async fn latencies(run: &Run, bed: &Bed) -> Result<Vec<(&'static str, Latency)>> {
    let pids = [bed.upstream.pid, bed.nginx.pid, bed.proxy.pid];
    with_realtime_priority(run, &pids, async || latency::latencies(bed)).await
}

/// P4, for the upstream at the port `events` and for a proxy in front of it.
async fn event_delays(run: &Run, bed: &Bed, events: u16, streaming: Process) -> Result<[(&'static str, Latency); 2]> {
    with_realtime_priority(run, &[streaming.pid], async || {
        let (mut direct, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..streams::ROUNDS {
            direct.push(streams::event_delays(events, None).await?);
            ours.push(streams::event_delays(streaming.port, Some(&bed.token)).await?);
        }
        Ok([("direct", Latency::median(&direct)), ("mcp-oauth-operator", Latency::median(&ours))])
    })
    .await
}

/// Starts a proxy in front of an upstream that responds with streams.
async fn start_streaming_proxy(run: &Run, bed: &Bed) -> Result<(u16, Process)> {
    let events = streams::upstream().await?;
    Ok((events, start_proxy(run, &bed.binary, "streaming", bed.login, events).await?))
}

async fn measure_selected(run: &Run, benchmarks: &[Benchmark]) -> Result<String> {
    let progress = Progress::default();
    let bed = Bed::up(run, &progress).await?;
    let mut report = String::new();
    if benchmarks
        .iter()
        .any(|benchmark| [Benchmark::Forwarding, Benchmark::Uncached, Benchmark::Memory].contains(benchmark))
    {
        report += &report::forwarding(&forwarding(run, &bed, &progress)?);
    }
    if benchmarks.contains(&Benchmark::Memory) {
        report += &report::memory(bed.idle, resident_kib(bed.proxy.pid)?);
    }
    if benchmarks.contains(&Benchmark::Uncached) {
        report += &report::uncached(&with_uncached_tokens(run, &bed)?);
    }
    if benchmarks.contains(&Benchmark::Latency) {
        report += &report::latencies(&latencies(run, &bed).await?);
    }
    if benchmarks.contains(&Benchmark::Streams) {
        let (events, streaming) = start_streaming_proxy(run, &bed).await?;
        report += &report::latencies(&event_delays(run, &bed, events, streaming).await?);
        run.stop("streaming")?;
    }
    if benchmarks.contains(&Benchmark::IdleStreams) {
        let (_, streaming) = start_streaming_proxy(run, &bed).await?;
        report += &report::idle_streams(streams::idle(streaming.port, &bed.token, streaming.pid).await?);
    }
    if benchmarks.contains(&Benchmark::Size) {
        report += &format!("size of the binary: {:.1} MiB\n", report::mib(fs::metadata(&bed.binary)?.len() / 1024));
    }
    Ok(report)
}

async fn measure(run: &Run) -> Result<String> {
    let progress = Progress::default();
    let bed = Bed::up(run, &progress).await?;
    let forwarding = forwarding(run, &bed, &progress)?;
    let loaded = resident_kib(bed.proxy.pid)?;

    let latencies = latencies(run, &bed).await?;
    progress.print("latency at a constant rate");

    let (events, streaming) = start_streaming_proxy(run, &bed).await?;
    let delays = event_delays(run, &bed, events, streaming).await?;
    let idle_streams = streams::idle(streaming.port, &bed.token, streaming.pid).await?;
    run.stop("streaming")?;
    progress.print("streams");

    let uncached = with_uncached_tokens(run, &bed)?;
    run.stop("proxy")?;
    progress.print("requests with uncached tokens");
    let login = bed::url(bed.login);
    let logins = logins::logins(&login, bed.login.pid).await?;
    let refreshes = logins::refreshes(&login, bed.login.pid).await?;
    progress.print("logins and refreshes");
    let kubernetes = kubernetes::measure(run, &bed.binary, &login, &Bed::state(run)).await?;
    progress.print("logins and refreshes with sessions in Kubernetes");
    let starts = start::measure_starts(run, &bed.binary).await?;
    Ok(report::report(&Results {
        forwarding,
        uncached,
        logins,
        refreshes,
        kubernetes,
        latencies,
        delays,
        idle_streams,
        starts,
        idle: bed.idle,
        loaded,
        binary: fs::metadata(&bed.binary)?.len(),
    }))
}
