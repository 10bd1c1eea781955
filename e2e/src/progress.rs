//! Progress output, waiting for conditions, and interrupts.

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

/// Prints lines with the elapsed seconds.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    started: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Progress {
    /// To standard error: standard output is for results.
    pub fn print(&self, what: impl AsRef<str>) {
        eprintln!("[{:6.1} s] {}", self.started.elapsed().as_secs_f32(), what.as_ref());
    }
}

/// Polls until `check` returns true. Fails after `limit`, on an interrupt, and when `check` fails.
pub fn wait_until(what: &str, limit: Duration, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_uninterruptibly(what, limit, || {
        stop_if_interrupted()?;
        check()
    })
}

/// Like [`wait_until`], but ignores interrupts: for cleanup.
pub fn wait_uninterruptibly(what: &str, limit: Duration, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !check()? {
        if Instant::now() > deadline {
            bail!("timed out after {} s waiting for {what}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// After this, the first Ctrl-C or SIGTERM makes [`stop_if_interrupted`] fail, so that the command cleans up. The
/// second one exits immediately.
pub fn catch_interrupts() {
    static CAUGHT: Once = Once::new();
    CAUGHT.call_once(|| {
        thread::spawn(|| -> Result<std::convert::Infallible> {
            tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
                INTERRUPTED.store(true, Ordering::SeqCst);
                eprintln!("interrupted: cleaning up (interrupt again to exit immediately)");
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
                std::process::exit(130)
            })
        });
    });
}

/// Fails after an interrupt.
pub fn stop_if_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { bail!("interrupted") } else { Ok(()) }
}

/// Resolves to an error after an interrupt.
pub async fn interrupted() -> anyhow::Error {
    loop {
        if let Err(error) = stop_if_interrupted() {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The lines of a file that another process is writing, without an incomplete last one.
pub fn complete_lines(text: &str) -> std::str::Lines<'_> {
    text.rfind('\n').map_or("", |end| &text[..end]).lines()
}

/// The last lines of a log, indented, for error messages.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
    last.iter().map(|line| format!("\n    {line}")).collect()
}
