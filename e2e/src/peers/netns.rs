//! Runs work of this process in the run's network namespace.

use std::{fs::File, os::fd::AsFd, thread};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{runtime::Builder, sync::oneshot};

use crate::run::Run;

/// Runs the work on a thread that has entered the run's namespace, with its own runtime. Without a namespace, it runs
/// in the host's network.
pub async fn run_in_netns<T, F>(run: &Run, work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let namespace = run.namespace();
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let result = enter(namespace.as_deref()).and_then(|()| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        });
        // The receiver is gone if the caller was cancelled.
        let _ = sender.send(result);
    });
    receiver.await.context("the thread in the network namespace panicked")?
}

/// Moves this thread, and threads that it will start, into the namespace.
fn enter(namespace: Option<&str>) -> Result<()> {
    let Some(name) = namespace else { return Ok(()) };
    let path = format!("/run/netns/{name}");
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path} (needs root)"))
}
