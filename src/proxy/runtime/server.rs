//! The data plane's listener. It replaces `axum::serve`, which fixes runtime and bodies: each worker is a thread with a
//! current-thread runtime and its own upstream connections, and gets accepted connections in turn.

mod client_connection;
mod client_input;
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
    resource_server::{Forwarder, ForwarderError, PRUNE_INTERVAL, TICK, Worker, memory_limit},
    runtime::proxy::Proxy,
};

/// Maximum memory of a client connection: a head and the read buffer.
const CONNECTION_MEMORY: u64 = 80 * 1024;

/// Minimum of the connection limit, regardless of memory.
const MIN_CONNECTIONS: u64 = 256;

/// Connections above the limit that get a response with 503; others are closed immediately.
const MAX_REFUSALS: usize = 64;

/// Time for streams to end cleanly after the drain timeout.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Accepted connections that may wait for a worker.
const BACKLOG: usize = 1024;

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Forwarder(#[from] ForwarderError),
    #[error("cannot start serving: {0}")]
    Start(#[from] io::Error),
    #[error("a worker has ended: this is a bug")]
    Worker,
}

struct Accepted {
    stream: TcpStream,
    address: SocketAddr,
    /// The connection gets a 503 and closes.
    is_over_limit: bool,
    _permit: OwnedSemaphorePermit,
}

/// Serves until `shutdown`, and then until the requests in flight are done or `upstream.timeouts.drain` has passed. After
/// `leaving`, each connection closes after its response, so that clients move to other pods. Requests to MCP endpoints are
/// forwarded; `router` serves the others and finds the peer's [`SocketAddr`] among the extensions.
pub async fn serve(
    proxy: Arc<Proxy>,
    router: Router,
    listener: TcpListener,
    leaving: CancellationToken,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let config = &proxy.authorization_server.config;
    let count = config.workers.map_or_else(default_workers, |workers| workers.get() as usize);
    let max = config.connections.map_or_else(default_connections, NonZeroUsize::get);
    let max = max.min(Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(max));
    let forwarder = Arc::new(Forwarder::new(config, proxy.resource_server.clone())?);
    let mut workers = Vec::with_capacity(count);
    let mut done = Vec::with_capacity(count);
    for index in 0..count {
        let (sender, connections) = mpsc::channel(BACKLOG);
        let (started, start) = oneshot::channel();
        let (finished, finish) = oneshot::channel();
        let (forwarder, router) = (forwarder.clone(), router.clone());
        let (leaving, permits) = (leaving.clone(), permits.clone());
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // Local, so that tasks need not be `Send`.
            match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(work(forwarder, router, connections, permits, leaving));
                }
                Err(error) => drop(started.send(Err(error))),
            }
            // A panic drops the sender instead, which the receiver notices.
            let _ = finished.send(());
        })?;
        start.await.map_err(|_| ServeError::Worker)??;
        workers.push(sender);
        done.push(finish);
    }
    let accepted = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = accept(&listener, &workers, &permits, max) => Err(error),
    };
    // Close the listener, so that connections in the kernel's backlog are refused.
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

fn default_connections() -> usize {
    let by_memory = memory_limit().map(|bytes| (bytes / CONNECTION_MEMORY).max(MIN_CONNECTIONS));
    by_memory.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// Gives connections to the workers in turn, until a worker has ended. Refuses connections above `max`.
async fn accept(
    listener: &tokio::net::TcpListener,
    workers: &[mpsc::Sender<Accepted>],
    permits: &Arc<Semaphore>,
    max: usize,
) -> ServeError {
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut was_full = false;
    for worker in workers.iter().cycle() {
        let accepted = loop {
            match listener.accept().await.and_then(|(stream, address)| Ok((stream.into_std()?, address))) {
                Ok((stream, address)) => {
                    let permit = permits.clone().try_acquire_owned();
                    let is_over_limit = permit.is_err();
                    if is_over_limit && !was_full {
                        tracing::warn!(most = max, "connection limit reached: further connections are refused");
                    }
                    was_full = is_over_limit;
                    if let Ok(permit) = permit.or_else(|_| refusals.clone().try_acquire_owned()) {
                        break Accepted { stream, address, is_over_limit, _permit: permit };
                    }
                }
                // Usually out of file descriptors.
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
    let open = TaskTracker::new();
    // A token per worker, so that workers do not contend for its lock.
    let leaving = leaving.child_token();
    let serving = Rc::new(Serving::new(worker.clone(), router, permits, leaving.clone()));
    tokio::task::spawn_local(tick(worker.clone()));
    let leaving_worker = worker.clone();
    let left = leaving.clone().cancelled_owned();
    tokio::task::spawn_local(async move {
        left.await;
        leaving_worker.leaving.set(true);
    });
    let mut prune = tokio::time::interval(PRUNE_INTERVAL);
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
    leaving.cancel();
    worker.drain();
    if tokio::time::timeout(worker.forwarder.drain_timeout(), open.wait()).await.is_err() {
        tracing::info!(open = open.len(), "drain timeout reached: closing open connections");
        worker.deadlines.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, open.wait()).await;
    }
}

/// Drives the deadlines of a worker, also while it drains.
async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.deadlines.tick(worker.forwarder.now());
    }
}
