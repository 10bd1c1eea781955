//! Load generation, CPU time and memory of processes, and statistics.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{program, run::Run};

/// The number of interleaved rounds, each with all contenders.
pub const ROUNDS: usize = 15;

/// The number of keep-alive connections.
const CONNECTIONS: &str = "64";

/// The duration of one round of one contender.
pub const DURATION: &str = "2s";

/// Clock ticks per second in /proc/PID/stat (sysconf(_SC_CLK_TCK), 100 on Linux).
const TICKS: f64 = 100.0;

/// The tokens of the requests.
pub enum RequestTokens {
    None,
    /// The same token for all requests.
    Single(String),
    /// The next line of this file for each request.
    FromFile(PathBuf),
}

/// A wrk script and its target.
pub struct Load {
    url: String,
    script: PathBuf,
}

impl Load {
    /// An MCP request to the contender at `port`.
    pub fn new(run: &Run, name: &str, port: u16, tokens: &RequestTokens) -> Result<Self> {
        let script = run.directory().join(format!("{name}.lua"));
        let authorization = match tokens {
            RequestTokens::None => String::new(),
            RequestTokens::Single(token) => format!("wrk.headers[\"Authorization\"] = \"Bearer {token}\"\n"),
            // A round continues at the position where the previous one stopped, so that no token is used twice.
            RequestTokens::FromFile(file) => format!(
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

/// The result of one round of one contender.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub micros_per_request: f64,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub fn new(requests: u64, ticks: u64) -> Self {
        Self { micros_per_request: ticks as f64 / TICKS * 1e6 / requests.max(1) as f64 }
    }

    /// The ratio to another sample.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        self.micros_per_request / other.micros_per_request
    }
}

/// The rate and cost of an operation.
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

/// The median and the 99th percentile, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Latency {
    pub fn from_samples(mut milliseconds: Vec<f64>) -> Self {
        milliseconds.sort_by(f64::total_cmp);
        let at = |share: usize| milliseconds.get(milliseconds.len() * share / 100).copied().unwrap_or_default();
        Self { p50: at(50), p99: at(99) }
    }

    /// The medians of the figures of several rounds.
    pub fn median(rounds: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> f64| Self::from_samples(rounds.iter().map(figure).collect()).p50;
        Self { p50: median(|round| round.p50), p99: median(|round| round.p99) }
    }
}

pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Generates the load and returns the number of responses. A status other than 2xx is an error.
pub fn wrk(core: &str, load: &Load) -> Result<u64> {
    let mut command = Command::new("taskset");
    command.args(["-c", core, "wrk", "-t1", "-c", CONNECTIONS, "-d", DURATION, "-s"]).arg(&load.script).arg(&load.url);
    let output = program::output(&mut command)?;
    if output.contains("Non-2xx") || output.contains("Socket errors") {
        bail!("requests to {} failed: {output}", load.url);
    }
    let count = output
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .context("wrk printed no request count")?
        .0;
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
