use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{peers::program, run::Run};

/// Keep-alive connections of the load.
const CONNECTIONS: &str = "64";

/// How long one round of one contender lasts.
const DURATION: &str = "4s";

/// Clock ticks of /proc/PID/stat a second (sysconf(_SC_CLK_TCK), 100 on Linux).
const TICKS: f64 = 100.0;

/// What is sent to whom.
pub struct Load {
    url: String,
    script: PathBuf,
}

impl Load {
    /// An MCP request to the contender at `port`, with a token if it wants one.
    pub fn new(run: &Run, name: &str, port: u16, token: Option<String>) -> Result<Self> {
        let script = run.directory().join(format!("{name}.lua"));
        let authorization =
            token.map(|token| format!("wrk.headers[\"Authorization\"] = \"Bearer {token}\"\n")).unwrap_or_default();
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

/// The report, in Markdown.
pub fn report(contenders: &[(&str, Vec<Sample>)], idle: u64, loaded: u64, binary: u64) -> String {
    let median = |samples: &[Sample]| {
        let mut values: Vec<f64> = samples.iter().map(|sample| sample.micros_per_request).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
    };
    let rows: Vec<(&str, (f64, f64, f64))> =
        contenders.iter().map(|(name, samples)| (*name, median(samples))).collect();
    let reference = rows.first().map_or(1.0, |(_, (median, ..))| *median);
    let table: String = rows
        .iter()
        .map(|(name, (median, low, high))| {
            format!("| {name} | {median:.1} | {low:.1} to {high:.1} | {:.2} |\n", reference / median)
        })
        .collect();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU");
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    let mib = |kib: u64| kib as f64 / 1024.0;
    format!(
        "# Results\n\nWritten by `make bench`. {model}; version {version}; the static binary that is shipped, {size:.1} MiB.\n\n## P1: forwarding an authenticated `POST /mcp`\n\n64 keep-alive connections, token already seen, one core each, 5 interleaved rounds of 4 s. CPU time (user and system) of the\nprocess divided by its requests; the last column is requests per core against nginx (`proxy_pass`, buffering off, no auth).\n\n| | µs a request, median | spread | against nginx |\n|---|---|---|---|\n{table}\n## P6: memory\n\n{idle:.1} MiB idle after one login, {loaded:.1} MiB after P1 (resident; `dev`, which runs its login page in the same process).\n",
        version = env!("CARGO_PKG_VERSION"),
        size = mib(binary / 1024),
        idle = mib(idle),
        loaded = mib(loaded),
    )
}
