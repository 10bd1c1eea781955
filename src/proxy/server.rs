//! The data plane's listener. Ours, because `axum::serve` fixes runtime and bodies: every worker is a thread with a
//! current-thread runtime and its own upstream connections, and accepted connections are dealt to the workers in turn.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use axum::Router;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    runtime::LocalOptions,
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    client_address::Peer,
    config::DRAIN,
    forward::{Body, Forwarder, ForwarderError, TICK, Worker, forward},
    header_timer::HeaderTimer,
    state::Proxy,
};

/// How long a request's headers may take. hyper counts the wait for a next request too, so this is also how long an idle
/// connection is kept: longer than the gateways before us keep theirs (nginx and AWS: 60 s), or they would send a request
/// into a connection that we are closing.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// The most bytes of a request's head: three login cookies and what gateways add fit, and a client that never ends its head
/// holds no more.
const MAX_HEAD: usize = 64 * 1024;

/// Accepted connections that a worker may have waiting.
const BACKLOG: usize = 1024;

/// How often idle upstream connections are looked through.
const PRUNE: Duration = Duration::from_secs(15);

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

type Accepted = (TcpStream, SocketAddr);

/// Serves until `shutdown`, and after it until the open requests are done, or [`DRAIN`] is over. MCP endpoints are
/// forwarded, every other path is `router`'s, which finds the peer's [`SocketAddr`] among a request's extensions.
///
/// # Errors
/// When serving cannot begin, or a worker has died.
pub async fn serve(
    proxy: Arc<Proxy>,
    router: Router,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let count = proxy.config.workers.unwrap_or_else(default_workers);
    let forwarder = Arc::new(Forwarder::new(proxy)?);
    let mut workers = Vec::with_capacity(count);
    let mut done = Vec::with_capacity(count);
    for index in 0..count {
        let (sender, connections) = mpsc::channel(BACKLOG);
        let (begun, begin) = oneshot::channel();
        let (finished, finish) = oneshot::channel();
        let (forwarder, router, shutdown) = (forwarder.clone(), router.clone(), shutdown.clone());
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
                runtime.block_on(work(forwarder, router, connections, shutdown));
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
        error = accept(&listener, &workers) => Err(error),
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

/// Deals connections in turn until a worker is gone.
async fn accept(listener: &tokio::net::TcpListener, workers: &[mpsc::Sender<Accepted>]) -> ServeError {
    for worker in workers.iter().cycle() {
        let accepted = loop {
            match listener.accept().await.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok(accepted) => break accepted,
                // Out of file descriptors, mostly: some will be free again.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        match worker.try_send(accepted) {
            Ok(()) => (),
            Err(mpsc::error::TrySendError::Full(_)) => tracing::warn!("a worker is behind: a connection is refused"),
            Err(mpsc::error::TrySendError::Closed(_)) => return ServeError::Worker,
        }
    }
    ServeError::Worker
}

async fn work(
    forwarder: Arc<Forwarder>,
    router: Router,
    mut connections: mpsc::Receiver<Accepted>,
    shutdown: CancellationToken,
) {
    let worker = Rc::new(Worker::new(forwarder));
    let open = TaskTracker::new();
    tokio::task::spawn_local(tick(worker.clone()));
    let mut prune = tokio::time::interval(PRUNE);
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = connections.recv() => {
                let Some((stream, peer)) = accepted else { break };
                open.spawn_local(connection(stream, peer, worker.clone(), router.clone(), shutdown.clone()));
            }
            _ = prune.tick() => worker.pool.prune(),
        }
    }
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::info!(open = open.len(), "closing connections that are still open");
    }
}

/// Goes on while the worker waits for its last answers.
async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.deadlines.tick();
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    worker: Rc<Worker>,
    router: Router,
    shutdown: CancellationToken,
) {
    let stream = stream.set_nodelay(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
    let Ok(stream) = stream else { return };
    let context = Rc::new(Context { peer: Peer::new(peer), worker, router });
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(answer(request, &context).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(HeaderTimer::default()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "connection");
    }
}

/// What the requests of a connection share.
struct Context {
    peer: Peer,
    worker: Rc<Worker>,
    router: Router,
}

async fn answer(mut request: Request<Incoming>, Context { peer, worker, router }: &Context) -> Response<Body> {
    if worker.forwarder.is_endpoint(request.uri().path()) {
        return forward(request, peer, worker).await;
    }
    request.extensions_mut().insert(peer.address);
    // Boxed, because its state is large and an endpoint's requests have none.
    match Box::pin(router.clone().oneshot(request.map(axum::body::Body::new))).await {
        Ok(response) => response.map(Body::Axum),
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests;
