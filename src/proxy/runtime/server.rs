//! The data plane's listener. Ours, because `axum::serve` fixes runtime and bodies: every worker is a thread with a
//! current-thread runtime and its own upstream connections, and accepted connections are dealt to the workers in turn.

mod client_io;
mod exchange;
pub mod request_head;
mod service;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroUsize,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use axum::Router;
use thiserror::Error;
use tokio::{
    runtime::LocalOptions,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::service::{Serving, serve_client};
use crate::proxy::{
    resource_server::{Forwarder, ForwarderError, PRUNE, TICK, Worker, memory_limit},
    runtime::proxy::Proxy,
};

/// What a client's connection may take of the memory that there is: room for a head, and what is read besides.
const CONNECTION: u64 = 80 * 1024;

/// As few clients' connections as there may be, however little memory.
const FEWEST_CONNECTIONS: u64 = 256;

/// As many connections more may be told that they are too many at once; others are closed without a word.
const REFUSALS: usize = 64;

/// How long streams have to say that they end, when their time is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Accepted connections that a worker may have waiting.
const BACKLOG: usize = 1024;

/// Why the listener cannot work.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The configuration does not let us forward.
    #[error(transparent)]
    Forwarder(#[from] ForwarderError),
    /// No thread, no runtime, or no listener.
    #[error("cannot start serving: {0}")]
    Start(#[from] io::Error),
    /// A worker ended by itself.
    #[error("a worker has ended: this is a bug")]
    Worker,
}

/// A connection, from where it comes, and its right to be open.
struct Accepted {
    stream: TcpStream,
    address: SocketAddr,
    /// It is one too many: its client is told so, and no more.
    is_refused: bool,
    _permit: OwnedSemaphorePermit,
}

/// Serves until `shutdown`, and after it until the open requests are done, or `upstream.timeouts.drain` is over. From `leaving`
/// on each answer is the last of its connection, so that clients are elsewhere by then. MCP endpoints are forwarded, every other
/// path is `router`'s, which finds the peer's [`SocketAddr`] among a request's extensions.
///
/// # Errors
/// When serving cannot begin, or a worker has died.
pub async fn serve(
    proxy: Arc<Proxy>,
    router: Router,
    listener: TcpListener,
    leaving: CancellationToken,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let count = proxy.config.workers.map_or_else(default_workers, NonZeroUsize::get);
    let most = proxy.config.connections.map_or_else(most_connections, NonZeroUsize::get);
    let permits = Arc::new(Semaphore::new(most));
    let forwarder = Arc::new(Forwarder::new(&proxy.config, proxy.resource_server())?);
    let mut workers = Vec::with_capacity(count);
    let mut done = Vec::with_capacity(count);
    for index in 0..count {
        let (sender, connections) = mpsc::channel(BACKLOG);
        let (begun, begin) = oneshot::channel();
        let (finished, finish) = oneshot::channel();
        let (forwarder, router) = (forwarder.clone(), router.clone());
        let (leaving, permits) = (leaving.clone(), permits.clone());
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // Does not leave its thread, so its tasks need not either.
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            let (runtime, is_there) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = begun.send(is_there);
            if let Some(runtime) = runtime {
                runtime.block_on(work(forwarder, router, connections, permits, leaving));
            }
            // Gone when the worker panics; then the receiver sees it.
            let _ = finished.send(());
        })?;
        begin.await.map_err(|_| ServeError::Worker)??;
        workers.push(sender);
        done.push(finish);
    }
    let accepted = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = accept(&listener, &workers, &permits, most) => Err(error),
    };
    // The backlog of the kernel is refused rather than left waiting.
    drop((listener, workers));
    shutdown.cancel();
    for finish in done {
        finish.await.map_err(|_| ServeError::Worker)?;
    }
    accepted
}

fn default_workers() -> usize {
    thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2))
}

fn most_connections() -> usize {
    let by_memory = memory_limit().map(|bytes| (bytes / CONNECTION).max(FEWEST_CONNECTIONS));
    by_memory.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// Deals connections in turn until a worker is gone; refuses those that are more than `most` at once.
async fn accept(
    listener: &tokio::net::TcpListener,
    workers: &[mpsc::Sender<Accepted>],
    permits: &Arc<Semaphore>,
    most: usize,
) -> ServeError {
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let mut was_full = false;
    for worker in workers.iter().cycle() {
        let accepted = loop {
            match listener.accept().await.and_then(|(stream, address)| Ok((stream.into_std()?, address))) {
                Ok((stream, address)) => {
                    let permit = permits.clone().try_acquire_owned();
                    let is_refused = permit.is_err();
                    if is_refused && !was_full {
                        tracing::warn!(most, "connection limit reached: further connections are refused");
                    }
                    was_full = is_refused;
                    if let Ok(permit) = permit.or_else(|_| refusals.clone().try_acquire_owned()) {
                        break Accepted { stream, address, is_refused, _permit: permit };
                    }
                }
                // Out of file descriptors, mostly: some will be free again.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        match worker.try_send(accepted) {
            Ok(()) => (),
            Err(mpsc::error::TrySendError::Full(_)) => tracing::warn!("a worker's queue is full: connection refused"),
            Err(mpsc::error::TrySendError::Closed(_)) => return ServeError::Worker,
        }
    }
    ServeError::Worker
}

async fn work(
    forwarder: Arc<Forwarder>,
    router: Router,
    mut connections: mpsc::Receiver<Accepted>,
    permits: Arc<Semaphore>,
    leaving: CancellationToken,
) {
    let worker = Rc::new(Worker::new(forwarder));
    let (open, draining) = (TaskTracker::new(), CancellationToken::new());
    // Of its own: connections of other workers would wait for the same lock.
    let leaving = leaving.child_token();
    let serving = Serving::new(worker.clone(), router, permits, leaving.clone(), draining.clone());
    let serving = Rc::new(serving);
    tokio::task::spawn_local(tick(worker.clone()));
    let told = worker.clone();
    tokio::task::spawn_local(async move {
        leaving.cancelled().await;
        told.leaving.set(true);
    });
    let mut prune = tokio::time::interval(PRUNE);
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = connections.recv() => {
                let Some(accepted) = accepted else { break };
                open.spawn_local(serve_client(accepted, serving.clone()));
            }
            _ = prune.tick() => worker.pool.prune(),
        }
    }
    open.close();
    draining.cancel();
    if tokio::time::timeout(worker.forwarder.drain(), open.wait()).await.is_err() {
        tracing::info!(open = open.len(), "drain timeout reached: closing open connections");
        worker.deadlines.close();
        let _ = tokio::time::timeout(LAST_WORDS, open.wait()).await;
    }
}

/// Goes on while the worker waits for its last answers.
async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.deadlines.tick(worker.forwarder.now());
    }
}

#[cfg(test)]
mod tests;
