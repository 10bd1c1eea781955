//! What a person sees while the bed works, and the waiting for things that other programs do.

use std::{
    fs,
    path::Path,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Prints lines with the seconds since its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    begun: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Progress {
    /// Says what was reached. Goes to standard error: standard output is for results.
    pub fn say(&self, what: impl AsRef<str>) {
        eprintln!("[{:6.1} s] {}", self.begun.elapsed().as_secs_f32(), what.as_ref());
    }
}

/// Looks until it is true. Fails after the time, on a Ctrl-C, and when the look itself fails.
pub fn wait_until(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_out(what, limit, || {
        stop_if_interrupted()?;
        look()
    })
}

/// As [`wait_until`], whatever a person presses: for the undoing of what was begun.
pub fn wait_out(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !look()? {
        if Instant::now() > deadline {
            bail!("waited {} s in vain: {what}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// From now on a Ctrl-C (or SIGTERM) does not end this process but makes [`stop_if_interrupted`] fail, so that what was
/// begun is undone. A second one ends it as usual.
pub fn catch_interrupts() {
    static CAUGHT: Once = Once::new();
    CAUGHT.call_once(|| {
        thread::spawn(|| -> Result<std::convert::Infallible> {
            tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
                INTERRUPTED.store(true, Ordering::SeqCst);
                eprintln!("interrupted: stopping in good order (once more ends this at once)");
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
                std::process::exit(130)
            })
        });
    });
}

/// Fails once the person wants to stop.
pub fn stop_if_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { bail!("interrupted") } else { Ok(()) }
}

/// Done, with an error, once the person wants to stop.
pub async fn interrupted() -> anyhow::Error {
    loop {
        if let Err(error) = stop_if_interrupted() {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The last lines of a log, indented, for the end of an error message.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
    last.iter().map(|line| format!("\n    {line}")).collect()
}
