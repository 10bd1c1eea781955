use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    iter,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Response, Uri};
use http_body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::GaiResolver},
    rt::TokioIo,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};
use thiserror::Error;
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::{
    BoxError,
    breaker::{Breaker, BreakerOpen},
    headers::is_for_clients,
    replay::Replay,
    request_body::{IncomingBody, RequestBody},
    resolver::{Resolver, round_robin},
};
use crate::end_reasons::ResponseCutReason;
use crate::http1::{Connection, Outgoing, Scratch, WireError};
use crate::proxy::observability::metrics::{ConnectOutcome, OpenConnection, WorkerMetrics};

/// Maximum idle connections of a worker.
const MAX_IDLE: usize = 512;

/// TCP keep-alive of client and upstream connections: idle time before the first probe. It detects machines that were lost.
pub const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);

pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

pub const KEEPALIVE_RETRIES: u32 = 4;

pub const PRUNE_INTERVAL: Duration = Duration::from_secs(15);

/// After how many prunes an unused connection is closed: less than a minute.
const MAX_PRUNES: u64 = 4;

/// Why the upstream sent no response.
#[derive(Debug, Error)]
pub enum UpstreamError {
    #[error("cannot connect to the upstream: {0}")]
    Connect(#[source] BoxError),
    #[error("the upstream did not accept a connection within {} ms", .0.as_millis())]
    ConnectTimeout(Duration),
    #[error(transparent)]
    BreakerOpen(#[from] BreakerOpen),
    #[error("the exchange with the upstream failed: {0}")]
    Exchange(#[from] WireError),
}

#[derive(Debug, Error)]
pub enum PoolError {
    #[error("cannot load the system's root certificates, which an https upstream needs: {0}")]
    Roots(#[from] std::io::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

pub type ClientBody = RequestBody<IncomingBody>;

/// The outer `TokioIo` undoes the inner one.
type Stream = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

pub type Connector = HttpsConnector<HttpConnector<Resolver>>;

/// The upstream connector of all workers. Several addresses of the upstream share `timeout`. Only an https upstream needs the
/// system's root certificates: an image may have none.
pub fn connector(https: bool, timeout: Duration) -> Result<Connector, PoolError> {
    let mut http = HttpConnector::new_with_resolver(round_robin(GaiResolver::new()));
    http.set_connect_timeout(Some(timeout));
    http.set_nodelay(true);
    http.set_keepalive(Some(KEEPALIVE_IDLE));
    http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    http.enforce_http(false);
    let builder = HttpsConnectorBuilder::new();
    let builder = if https {
        builder.with_provider_and_native_roots(default_provider())?
    } else {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        builder.with_tls_config(config)
    };
    Ok(builder.https_or_http().enable_http1().wrap_connector(http))
}

/// The upstream connections of one worker. It stays on its thread and needs no locks.
pub struct Pool<B = Replay<ClientBody>> {
    connector: Connector,
    upstream: Uri,
    breaker: Arc<Breaker>,
    /// For a connection, including TLS.
    timeout: Duration,
    idle: RefCell<VecDeque<Idle<B>>>,
    /// The number of prunes so far.
    prunes: Cell<u64>,
    scratch: Rc<Scratch>,
    metrics: Arc<WorkerMetrics>,
}

struct Idle<B> {
    connection: Upstream<B>,
    /// In prunes.
    since: u64,
}

struct Upstream<B> {
    /// Boxed, because it is large and moved often.
    wire: Box<Connection<Stream, B>>,
    _open: OpenConnection,
}

/// A connection whose response is being read. Dropping it closes the connection.
pub struct Lease<B = Replay<ClientBody>> {
    connection: Upstream<B>,
    pool: Rc<Pool<B>>,
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Lease<B> {
    /// Returns the connection to the pool after the whole response.
    pub fn return_to_pool(self) {
        self.pool.put(self.connection);
    }

    /// Counts a response that is cut short, and closes the connection.
    pub fn cut(self, reason: ResponseCutReason) {
        self.pool.metrics.cut_responses.count(reason);
    }

    /// The next content of the response; `None` at its end.
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        self.connection.wire.poll_content(cx)
    }

    /// The remaining bytes of the response, if known.
    pub fn remaining(&self) -> Option<u64> {
        self.connection.wire.remaining()
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Pool<B> {
    pub fn new(
        connector: Connector,
        upstream: Uri,
        breaker: Arc<Breaker>,
        timeout: Duration,
        scratch: Rc<Scratch>,
        metrics: Arc<WorkerMetrics>,
    ) -> Self {
        let (idle, prunes) = (RefCell::default(), Cell::default());
        Self { connector, upstream, breaker, timeout, idle, prunes, scratch, metrics }
    }

    /// Sends a request over an idle connection or a new one. It is retried only if nothing of it was sent, because it may have
    /// had effects.
    pub async fn send(self: &Rc<Self>, mut request: Outgoing<B>) -> Result<(Response<()>, Lease<B>), UpstreamError> {
        poll_fn(|cx| request.poll_available(cx)).await?;
        if let Some(mut connection) = self.take() {
            match connection.wire.send(request).await {
                Ok(response) => return Ok((response, Lease { connection, pool: self.clone() })),
                Err(error) => request = connection.wire.take_unsent().ok_or(error)?,
            }
        }
        // Boxed, because its future is large and most requests reuse a connection.
        let mut connection = Box::pin(self.connect()).await?;
        let response = connection.wire.send(request).await?;
        Ok((response, Lease { connection, pool: self.clone() }))
    }

    /// Closes connections that were idle for too long or closed by the upstream. Must be called every [`PRUNE_INTERVAL`].
    pub fn prune(&self) {
        let prunes = self.prunes.get() + 1;
        self.prunes.set(prunes);
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|idle| prunes - idle.since < MAX_PRUNES && idle.connection.wire.is_ready());
        self.metrics.upstream_idle.store(idle.len(), Relaxed);
    }

    /// Takes the last used connection: the upstream is least likely to be closing that one.
    fn take(&self) -> Option<Upstream<B>> {
        let mut idle = self.idle.borrow_mut();
        let found = iter::from_fn(|| idle.pop_back())
            .map(|idle| idle.connection)
            .find_map(|mut connection| connection.wire.is_ready().then_some(connection));
        self.metrics.upstream_idle.store(idle.len(), Relaxed);
        found
    }

    /// A connection whose request is not completely sent is closed: it may never become ready.
    fn put(&self, mut connection: Upstream<B>) {
        if !connection.wire.is_ready() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since: self.prunes.get() });
        self.metrics.upstream_idle.store(idle.len(), Relaxed);
    }

    async fn connect(&self) -> Result<Upstream<B>, UpstreamError> {
        let attempt = self.breaker.admit(Instant::now(), self.timeout)?;
        let connecting = self.connector.clone().oneshot(self.upstream.clone());
        let (result, connected) = match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(stream)) => (ConnectOutcome::Connected, Ok(stream)),
            Ok(Err(error)) => (ConnectOutcome::Failed, Err(UpstreamError::Connect(error))),
            Err(_) => (ConnectOutcome::Timeout, Err(UpstreamError::ConnectTimeout(self.timeout))),
        };
        self.metrics.upstream_connects.count(result);
        let stream = connected.inspect_err(|_| self.breaker.failed(attempt, Instant::now()))?;
        self.breaker.succeeded();
        let wire = Box::new(Connection::new(TokioIo::new(stream), self.scratch.clone(), is_for_clients));
        Ok(Upstream { wire, _open: OpenConnection::new(self.metrics.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read},
        net::{Shutdown, TcpListener, TcpStream as Socket},
    };

    use http::Method;
    use http_body_util::Full;
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http1::RequestHead;

    const REQUEST: &str = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";

    fn request() -> Outgoing<Full<Bytes>> {
        Outgoing::new(RequestHead::new(Method::POST, &Uri::from_static("/")), "{}".into())
    }

    /// A pool, and the listener of its upstream.
    fn pool() -> (Rc<Pool<Full<Bytes>>>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let upstream = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let timeout = Duration::from_secs(5);
        let (breaker, metrics) = (Breaker::new(Instant::now()), Arc::default());
        let connector = connector(false, timeout).unwrap();
        (Rc::new(Pool::new(connector, upstream, Arc::new(breaker), timeout, Rc::default(), metrics)), listener)
    }

    /// Adds an idle connection to the pool, and returns both its ends.
    async fn idle(pool: &Pool<Full<Bytes>>, listener: &TcpListener) -> (Socket, Socket) {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let ours: Socket = SockRef::from(&stream).try_clone().unwrap().into();
        let wire = Connection::new(
            TokioIo::new(MaybeHttpsStream::Http(TokioIo::new(stream))),
            pool.scratch.clone(),
            is_for_clients,
        );
        pool.put(Upstream { wire: Box::new(wire), _open: OpenConnection::new(pool.metrics.clone()) });
        (ours, listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn request_unsent_on_a_stale_connection_is_retried() {
        let (pool, listener) = pool();
        let (ours, mut unused) = idle(&pool, &listener).await;
        // It still looks open, like one that the upstream is closing.
        ours.shutdown(Shutdown::Write).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = vec![0; REQUEST.len()];
            stream.read_exact(&mut read).await.unwrap();
            stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            Ok::<_, UpstreamError>(String::from_utf8(read).unwrap())
        };
        let ((response, _lease), read) = futures::try_join!(pool.send(request()), serving).unwrap();
        assert_eq!((response.status().as_u16(), read.as_str()), (202, REQUEST));
        assert_eq!(unused.read(&mut [0; 1]).unwrap(), 0, "nothing came over the first");
    }

    #[tokio::test]
    async fn partly_sent_request_is_never_retried() {
        let (pool, listener) = pool();
        let (_ours, upstream) = idle(&pool, &listener).await;
        upstream.set_nonblocking(true).unwrap();
        let mut upstream = TcpStream::from_std(upstream).unwrap();
        let closing = async move { upstream.read_exact(&mut [0; 4]).await.unwrap() };
        let (response, _) = futures::join!(pool.send(request()), closing);
        assert!(matches!(response.map(drop), Err(UpstreamError::Exchange(_))));
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "there is no second connection");
    }

    #[tokio::test]
    async fn idle_upstream_connection_is_closed_within_a_minute() {
        let (pool, _listener) = pool();
        pool.prune();
        pool.put(pool.connect().await.unwrap());
        let kept = (0..).take_while(|_| {
            pool.prune();
            pool.metrics.upstream_idle.load(Relaxed) == 1
        });
        let kept = PRUNE_INTERVAL * u32::try_from(kept.count()).unwrap();
        assert_eq!(kept + PRUNE_INTERVAL, Duration::from_mins(1));
        assert!(pool.take().is_none());
    }
}
