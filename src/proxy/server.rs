//! The data plane's listener. Ours, because `axum::serve` fixes runtime and bodies: every worker is a thread with a
//! current-thread runtime and its own upstream connections, and accepted connections are dealt to the workers in turn.

mod patient;

use std::{
    convert::Infallible,
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use axum::Router;
use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION as CONNECTION_HEADER, HOST},
    request::Parts,
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::{
    runtime::LocalOptions,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use self::patient::Patient;
use super::{
    client_address::Peer,
    drain::Drain,
    endpoints::MAX_BODY,
    forward::{
        Arriving, Body, Deadline, Forwarder, ForwarderError, PROBE, PROBES, PRUNE, RequestBody, SILENCE, TICK, Upload,
        Worker, forward, memory_limit, refuse_body, without_host,
    },
    header_timer::HeaderTimer,
    state::Proxy,
};

/// How long a request's headers may take. hyper counts the wait for a next request too, so this is also how long an idle
/// connection is kept: longer than the gateways before us keep theirs (nginx and AWS: 60 s), or they would send a request
/// into a connection that we are closing.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// The most bytes of a request's head: three login cookies and what gateways add fit, and a client that never ends its head
/// holds no more.
const MAX_HEAD: usize = 32 * 1024;

/// What a client's connection may take of the memory that there is: a head, and what hyper needs besides.
const CONNECTION: u64 = 48 * 1024;

/// As few clients' connections as there may be, however little memory.
const FEWEST_CONNECTIONS: u64 = 256;

/// What a client gets whose connection is one too many.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

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

/// With the right to be open.
type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

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
    let count = proxy.config.workers.unwrap_or_else(default_workers);
    let most = proxy.config.connections.unwrap_or_else(most_connections);
    let forwarder = Arc::new(Forwarder::new(proxy)?);
    let mut workers = Vec::with_capacity(count);
    let mut done = Vec::with_capacity(count);
    for index in 0..count {
        let (sender, connections) = mpsc::channel(BACKLOG);
        let (begun, begin) = oneshot::channel();
        let (finished, finish) = oneshot::channel();
        let (forwarder, router) = (forwarder.clone(), router.clone());
        let leaving = leaving.clone();
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
                runtime.block_on(work(forwarder, router, connections, leaving));
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
        error = accept(&listener, &workers, most) => Err(error),
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
async fn accept(listener: &tokio::net::TcpListener, workers: &[mpsc::Sender<Accepted>], most: usize) -> ServeError {
    let (open, mut full) = (Arc::new(Semaphore::new(most)), false);
    for worker in workers.iter().cycle() {
        let accepted = loop {
            match listener.accept().await.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok((mut stream, peer)) => match open.clone().try_acquire_owned() {
                    Ok(permit) => {
                        full = false;
                        break (stream, peer, permit);
                    }
                    Err(_) => {
                        if !std::mem::replace(&mut full, true) {
                            tracing::warn!(most, "too many connections are open: further ones are refused");
                        }
                        // If it cannot be told at once, then not at all.
                        let _ = stream.write_all(BUSY);
                    }
                },
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
    leaving: CancellationToken,
) {
    let worker = Rc::new(Worker::new(forwarder));
    let (open, drain) = (TaskTracker::new(), Rc::new(Drain::default()));
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
                open.spawn_local(connection(accepted, worker.clone(), router.clone(), drain.clone()));
            }
            _ = prune.tick() => worker.pool.prune(),
        }
    }
    open.close();
    drain.begin();
    if tokio::time::timeout(worker.forwarder.drain(), open.wait()).await.is_err() {
        tracing::info!(open = open.len(), "ending what is still open");
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

async fn connection((stream, peer, _permit): Accepted, worker: Rc<Worker>, router: Router, drain: Rc<Drain>) {
    let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE).with_retries(PROBES);
    let prepared = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    let stream = prepared.and_then(|()| tokio::net::TcpStream::from_std(stream));
    let Ok(stream) = stream else { return };
    let (patience, stalled) = (worker.forwarder.client_patience(), Deadline::new(worker.deadlines.clone()));
    let upload = Upload::default();
    let io = Patient::new(TokioIo::new(stream), patience, stalled, upload.clone());
    let context = Rc::new(Context { peer: Peer::new(peer), upload, worker, router });
    // Boxed, because hyper keeps the place of a connection's last future, and a stream may stay open for long.
    let service = service_fn(move |request| Box::pin(answer(request, context.clone())));
    let mut builder = http1::Builder::new();
    builder.timer(HeaderTimer::default()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
    // One buffer is quicker to write than several, and most messages are short.
    builder.writev(false);
    let connection = builder.serve_connection(io, service);
    let served = drain.until(connection, http1::Connection::graceful_shutdown).await;
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "connection");
    }
}

/// What the requests of a connection share.
struct Context {
    peer: Peer,
    upload: Upload,
    worker: Rc<Worker>,
    router: Router,
}

/// Not an `async fn`, which would keep the request twice.
fn answer(
    request: Request<Incoming>,
    context: Rc<Context>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let (mut head, body) = request.into_parts();
    let body = Arriving::new(body, &context.upload);
    async move {
        let Context { peer, worker, .. } = &*context;
        let mut response = if !names_its_host(&head) {
            without_host()
        } else if worker.forwarder.is_endpoint(head.uri.path()) {
            forward(&mut head, body, peer, worker).await
        } else {
            Box::pin(answer_here(head, body, &context)).await
        };
        if response.status() == StatusCode::REQUEST_TIMEOUT {
            // Of this client we have waited for enough.
            context.upload.forget();
        }
        if worker.leaving.get() {
            response.headers_mut().insert(CONNECTION_HEADER, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Whether a request has one `Host`, which HTTP/1.0 may leave out (RFC 9112 §3.2). We believe none, but who stands before us may
/// have believed the other one.
fn names_its_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    match hosts.next() {
        Some(_) => hosts.next().is_none(),
        None => head.version == Version::HTTP_10,
    }
}

/// An answer of the authorization server. Its requests are small and come at once, or not at all.
async fn answer_here(head: Parts, body: Arriving, Context { peer, worker, router, .. }: &Context) -> Response<Body> {
    let (most, patience) = (MAX_BODY as u64, worker.forwarder.client_patience());
    let body = match RequestBody::new(body, most, patience, worker.deadlines.clone()) {
        Ok(body) => body.collect().await,
        Err(error) => Err(error),
    };
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(error) => return refuse_body(&error),
    };
    let mut request = Request::from_parts(head, axum::body::Body::from(body));
    request.extensions_mut().insert(peer.address);
    match router.clone().oneshot(request).await {
        Ok(response) => response.map(Body::Axum),
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests;
