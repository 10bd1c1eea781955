//! `make soak`: half an hour of mixed load with slow and unauthorized clients. Correct requests must succeed, and the
//! proxy's memory and open files must not grow. Writes bench/SOAK.md.

mod clients;
mod tally;
mod upstream;

use std::{
    fs,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{task::JoinSet, time::sleep};

use self::tally::Tally;
use super::{
    bed::{start_dev, url},
    measure,
};
use crate::{
    image::{static_binary, workspace},
    progress::{Progress, catch_interrupts, stop_if_interrupted},
    run::Run,
};

const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// The allowed growth of memory from the second to the last third.
const MAX_MEMORY_GROWTH: f64 = 0.05;

#[derive(clap::Args)]
pub struct Args {
    /// The duration of the load.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
}

impl Args {
    pub fn run(self) -> Result<()> {
        catch_interrupts();
        let run = Run::open(&format!("soak-{}", std::process::id()))?;
        let duration = Duration::from_secs(60 * self.minutes);
        let result = tokio::runtime::Runtime::new()?.block_on(soak(&run, duration));
        for (component, _) in run.components() {
            run.stop(&component)?;
        }
        let (report, verdict) =
            result.with_context(|| format!("the logs of the run are in {}", run.logs().display()))?;
        let file = workspace().join("bench/SOAK.md");
        fs::write(&file, &report)?;
        println!("{report}\nwritten to {}", file.display());
        verdict.with_context(|| format!("the logs of the run are in {}", run.logs().display()))?;
        fs::remove_dir_all(run.directory())?;
        Ok(())
    }
}

/// The process's resources at one time.
#[derive(Clone, Copy, Debug)]
struct ResourceUsage {
    minutes: f64,
    kib: u64,
    files: usize,
}

async fn soak(run: &Run, duration: Duration) -> Result<(String, Result<()>)> {
    let progress = Progress::default();
    progress.print("building the released static binary");
    let binary = static_binary("release")?;
    let proxy = start_dev(run, &binary, "proxy", upstream::start().await?).await?;
    let pid = proxy.pid;
    let tally = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    clients::start(&mut clients, &url(proxy), &tally).await?;
    progress.print("the load has started");

    let started = Instant::now();
    let mut samples: Vec<ResourceUsage> = Vec::new();
    while started.elapsed() < duration {
        sleep(SAMPLE_INTERVAL).await;
        stop_if_interrupted()?;
        let minutes = started.elapsed().as_secs_f64() / 60.0;
        let files = fs::read_dir(format!("/proc/{pid}/fd")).context("the proxy has exited")?.count();
        let sample = ResourceUsage { minutes, kib: measure::resident_kib(pid)?, files };
        if samples.last().is_none_or(|last| minutes.floor() > last.minutes.floor()) {
            progress.print(format!("minute {minutes:.0}: {} KiB, {files} open files", sample.kib));
        }
        samples.push(sample);
    }
    tally.stopped.store(true, Ordering::Relaxed);
    clients.abort_all();
    Ok((report(&samples, &tally), verdict(&samples, &tally)))
}

/// The median over a part of the time, given as fractions.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a few hundred"
)]
fn median<T: Copy + Ord>(samples: &[ResourceUsage], from: f64, to: f64, of: impl Fn(&ResourceUsage) -> T) -> Option<T> {
    let at = |share: f64| (samples.len() as f64 * share) as usize;
    let mut values: Vec<T> = samples.get(at(from)..at(to))?.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn verdict(samples: &[ResourceUsage], tally: &Tally) -> Result<()> {
    let failures = tally.failures.lock().unwrap_or_else(PoisonError::into_inner);
    if !failures.is_empty() {
        bail!("correct requests failed:\n  {}", failures.join("\n  "));
    }
    let third = |number: f64| {
        median(samples, (number - 1.0) / 3.0, number / 3.0, |sample| sample.kib).context("the run is too short")
    };
    let (middle, last) = (third(2.0)?, third(3.0)?);
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    let growth = last as f64 / middle as f64 - 1.0;
    if growth > MAX_MEMORY_GROWTH {
        bail!("memory grows: {middle} KiB in the second third, {last} KiB in the last");
    }
    Ok(())
}

fn report(samples: &[ResourceUsage], tally: &Tally) -> String {
    let thirds: String = [("first", 1.0), ("second", 2.0), ("last", 3.0)]
        .iter()
        .filter_map(|(name, third)| {
            let (from, to) = ((third - 1.0) / 3.0, third / 3.0);
            let kib = median(samples, from, to, |sample| sample.kib)?;
            let files = median(samples, from, to, |sample| sample.files)?;
            #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
            let mib = kib as f64 / 1024.0;
            Some(format!("| {name} third | {mib:.1} | {files} |\n"))
        })
        .collect();
    let highest = samples.iter().map(|sample| sample.kib).max().unwrap_or_default();
    let counts = tally.counts.lock().unwrap_or_else(PoisonError::into_inner);
    let kinds: String = counts.iter().map(|(kind, count)| format!("| {kind} | {count} |\n")).collect();
    format!(
        "# Soak

Written by `make soak`: {minutes:.0} minutes of mixed load against the released static binary, with sessions in SQLite.

| | memory, MiB (median) | open files (median) |
|---|---|---|
{thirds}
Maximum memory: {highest} KiB.

| operation | count |
|---|---|
{kinds}",
        minutes = samples.last().map_or(0.0, |sample| sample.minutes),
    )
}
