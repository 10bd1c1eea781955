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

const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// The allowed growth of memory from the second to the last third.
const FLAT: f64 = 0.05;

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
        let soaked = tokio::runtime::Runtime::new()?.block_on(soak(&run, duration));
        for (component, _) in run.components() {
            run.stop(&component)?;
        }
        let (report, verdict) =
            soaked.with_context(|| format!("the logs of the run are in {}", run.logs().display()))?;
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
struct Look {
    minutes: f64,
    kib: u64,
    files: usize,
}

async fn soak(run: &Run, duration: Duration) -> Result<(String, Result<()>)> {
    let progress = Progress::default();
    progress.say("building the released static binary");
    let binary = static_binary("release")?;
    let proxy = start_dev(run, &binary, "proxy", upstream::start().await?).await?;
    let pid = proxy.pid;
    let tally = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    clients::start(&mut clients, &url(proxy), &tally).await?;
    progress.say("the load has started");

    let begun = Instant::now();
    let mut looks: Vec<Look> = Vec::new();
    while begun.elapsed() < duration {
        sleep(BETWEEN_LOOKS).await;
        stop_if_interrupted()?;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        let files = fs::read_dir(format!("/proc/{pid}/fd")).context("the proxy has exited")?.count();
        let look = Look { minutes, kib: measure::resident_kib(pid)?, files };
        if looks.last().is_none_or(|last| minutes.floor() > last.minutes.floor()) {
            progress.say(format!("minute {minutes:.0}: {} KiB, {files} open files", look.kib));
        }
        looks.push(look);
    }
    tally.over.store(true, Ordering::Relaxed);
    clients.abort_all();
    Ok((report(&looks, &tally), verdict(&looks, &tally)))
}

/// The median over a part of the time, given as fractions.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a few hundred"
)]
fn median<T: Copy + Ord>(looks: &[Look], from: f64, to: f64, of: impl Fn(&Look) -> T) -> Option<T> {
    let at = |share: f64| (looks.len() as f64 * share) as usize;
    let mut values: Vec<T> = looks.get(at(from)..at(to))?.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn verdict(looks: &[Look], tally: &Tally) -> Result<()> {
    let complaints = tally.complaints.lock().unwrap_or_else(PoisonError::into_inner);
    if !complaints.is_empty() {
        bail!("correct requests failed:\n  {}", complaints.join("\n  "));
    }
    let third = |number: f64| median(looks, (number - 1.0) / 3.0, number / 3.0, |look| look.kib).context("the run is too short");
    let (middle, last) = (third(2.0)?, third(3.0)?);
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    let grown = last as f64 / middle as f64 - 1.0;
    if grown > FLAT {
        bail!("memory grows: {middle} KiB in the second third, {last} KiB in the last");
    }
    Ok(())
}

fn report(looks: &[Look], tally: &Tally) -> String {
    let thirds: String = [("first", 1.0), ("second", 2.0), ("last", 3.0)]
        .iter()
        .filter_map(|(name, third)| {
            let (from, to) = ((third - 1.0) / 3.0, third / 3.0);
            let kib = median(looks, from, to, |look| look.kib)?;
            let files = median(looks, from, to, |look| look.files)?;
            #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
            let mib = kib as f64 / 1024.0;
            Some(format!("| {name} third | {mib:.1} | {files} |\n"))
        })
        .collect();
    let highest = looks.iter().map(|look| look.kib).max().unwrap_or_default();
    let seen = tally.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let kinds: String = seen.iter().map(|(kind, count)| format!("| {kind} | {count} |\n")).collect();
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
        minutes = looks.last().map_or(0.0, |look| look.minutes),
    )
}
