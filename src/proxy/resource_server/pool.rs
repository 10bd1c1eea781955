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
    addresses::InTurn,
    arriving::Arriving,
    breaker::{Breaker, Broken},
    headers::is_for_clients,
    replay::Replay,
    request_body::RequestBody,
};
use crate::http1::{Connection, Outgoing, Scratch, WireError};
use crate::proxy::observability::metrics::{Connect, OpenConnection, WorkerMetrics};
use crate::reasons::ResponseCut;

/// How many idle connections a worker keeps.
const MAX_IDLE: usize = 512;

/// How long nothing has to come over a connection, to clients as to the upstream, before it is asked whether the other end is still
/// there. A machine that was lost says nothing for ever.
pub const SILENCE: Duration = Duration::from_mins(1);

/// How long that waits for its answer.
pub const PROBE: Duration = Duration::from_secs(15);

/// How often it is asked before the connection is given up.
pub const PROBES: u32 = 4;

/// How often idle connections are to be looked through.
pub const PRUNE: Duration = Duration::from_secs(15);

/// How often idle connections are looked through ([`Pool::prune`]) before one is closed that is not used: after less than a minute.
const MAX_PRUNES: u64 = 4;

/// Why the upstream sent no response.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// It cannot be reached.
    #[error("cannot connect to the upstream: {0}")]
    Connect(#[source] BoxError),
    /// It did not accept a connection in time.
    #[error("the upstream did not accept a connection within {} ms", .0.as_millis())]
    ConnectTimeout(Duration),
    /// It could not be reached often enough, and is not tried.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The exchange with it came to no end.
    #[error("the upstream broke off: {0}")]
    Exchange(#[from] WireError),
}

/// Why no pool can be made.
#[derive(Debug, Error)]
pub enum PoolError {
    /// No root certificates.
    #[error("cannot load the system's root certificates, which an https upstream needs: {0}")]
    Roots(#[from] std::io::Error),
    /// TLS is not available.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What clients send.
pub type ClientBody = RequestBody<Arriving>;

/// What is sent of it.
type Sent = Replay<ClientBody>;

/// To the upstream; the outer wrapping undoes the inner one.
type Stream = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// Connects to the upstream. One for all workers.
pub type Connector = HttpsConnector<HttpConnector<InTurn<GaiResolver>>>;

/// Makes the connector; of several addresses, each is given its share of `patience`. The system's root certificates are read
/// for an https upstream only: an image need not have any.
///
/// # Errors
/// When there are no root certificates, or no TLS.
pub fn connector(https: bool, patience: Duration) -> Result<Connector, PoolError> {
    let mut http = HttpConnector::new_with_resolver(InTurn::new(GaiResolver::new()));
    http.set_connect_timeout(Some(patience));
    http.set_nodelay(true);
    http.set_keepalive(Some(SILENCE));
    http.set_keepalive_interval(Some(PROBE));
    http.set_keepalive_retries(Some(PROBES));
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

/// The upstream connections of one worker. Never leaves its thread, so it costs no lock and no atomic.
pub struct Pool<B = Sent> {
    connector: Connector,
    upstream: Uri,
    breaker: Arc<Breaker>,
    patience: Duration,
    idle: RefCell<VecDeque<Idle<B>>>,
    /// How often they were looked through.
    prunes: Cell<u64>,
    scratch: Rc<Scratch>,
    metrics: Arc<WorkerMetrics>,
}

struct Idle<B> {
    connection: Upstream<B>,
    /// Looking through them was at that number.
    since: u64,
}

struct Upstream<B> {
    /// Boxed, because it is handed on from place to place and is large.
    wire: Box<Connection<Stream, B>>,
    /// It is counted as long as it is there.
    _open: OpenConnection,
}

/// A connection whose response is still being read. Dropping it closes the connection.
pub struct Lease<B = Sent> {
    connection: Upstream<B>,
    pool: Rc<Pool<B>>,
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Lease<B> {
    /// For when the response has been read to its end.
    pub fn give_back(self) {
        self.pool.put(self.connection);
    }

    /// For when the client does not get the rest of the response, which is no stream.
    pub fn cut(self, why: ResponseCut) {
        self.pool.metrics.cut_responses.count(why);
    }

    /// The next content of the response; `None` at its end.
    pub fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        self.connection.wire.poll_content(cx)
    }

    /// How many bytes of it are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        self.connection.wire.left()
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Pool<B> {
    /// A pool for the upstream at `upstream`, whose path does not matter here. Connecting may take `patience`, TLS included.
    pub fn new(
        connector: Connector,
        upstream: Uri,
        breaker: Arc<Breaker>,
        patience: Duration,
        scratch: Rc<Scratch>,
        metrics: Arc<WorkerMetrics>,
    ) -> Self {
        let (idle, prunes) = (RefCell::default(), Cell::default());
        Self { connector, upstream, breaker, patience, idle, prunes, scratch, metrics }
    }

    /// Sends a request over an idle connection or a new one.
    ///
    /// # Errors
    /// When no answer came. Only a request of which nothing was sent is tried again, because it may have had effects.
    pub async fn send(self: &Rc<Self>, mut request: Outgoing<B>) -> Result<(Response<()>, Lease<B>), UpstreamError> {
        poll_fn(|cx| request.poll_begun(cx)).await?;
        if let Some(mut connection) = self.take() {
            match connection.wire.send(request).await {
                Ok(response) => return Ok((response, Lease { connection, pool: self.clone() })),
                Err(error) => request = connection.wire.take_unsent().ok_or(error)?,
            }
        }
        // Boxed, because its state is large and most requests have none.
        let mut connection = Box::pin(self.connect()).await?;
        let response = connection.wire.send(request).await?;
        Ok((response, Lease { connection, pool: self.clone() }))
    }

    /// Closes the connections that have been idle for too long, and those that the upstream has closed. To be called every
    /// [`PRUNE`].
    pub fn prune(&self) {
        let prunes = self.prunes.get() + 1;
        self.prunes.set(prunes);
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|idle| prunes - idle.since < MAX_PRUNES && idle.connection.wire.is_ready());
        self.metrics.upstream_idle.store(idle.len(), Relaxed);
    }

    /// The connection used last, since that is the least likely to be closed by the upstream in this moment.
    fn take(&self) -> Option<Upstream<B>> {
        let mut idle = self.idle.borrow_mut();
        let found = iter::from_fn(|| idle.pop_back())
            .map(|idle| idle.connection)
            .find_map(|mut connection| connection.wire.is_ready().then_some(connection));
        self.metrics.upstream_idle.store(idle.len(), Relaxed);
        found
    }

    /// One that was answered before its whole request was sent is closed: there is no telling when it would be free.
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
        let attempt = self.breaker.admit(Instant::now(), self.patience)?;
        let connecting = self.connector.clone().oneshot(self.upstream.clone());
        let connected = match tokio::time::timeout(self.patience, connecting).await {
            Ok(connected) => connected.map_err(UpstreamError::Connect),
            Err(_) => Err(UpstreamError::ConnectTimeout(self.patience)),
        };
        match &connected {
            Ok(_) => self.breaker.succeeded(),
            Err(_) => self.breaker.failed(attempt, Instant::now()),
        }
        self.metrics.upstream_connects.count(match &connected {
            Ok(_) => Connect::Connected,
            Err(UpstreamError::ConnectTimeout(_)) => Connect::Timeout,
            Err(_) => Connect::Failed,
        });
        let wire = Box::new(Connection::new(TokioIo::new(connected?), self.scratch.clone(), is_for_clients));
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

    /// A pool for an upstream, and where that is asked.
    fn pool() -> (Rc<Pool<Full<Bytes>>>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let upstream = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let patience = Duration::from_secs(5);
        let (breaker, metrics) = (Breaker::new(Instant::now()), Arc::default());
        let connector = connector(false, patience).unwrap();
        (Rc::new(Pool::new(connector, upstream, Arc::new(breaker), patience, Rc::default(), metrics)), listener)
    }

    /// Gives the pool an idle connection, and returns both its ends.
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
    async fn request_not_taken_by_a_stale_connection_is_retried() {
        let (pool, listener) = pool();
        let (ours, mut unused) = idle(&pool, &listener).await;
        // It looks open, as one does that the upstream closes in this moment.
        ours.shutdown(Shutdown::Write).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = vec![0; REQUEST.len()];
            stream.read_exact(&mut read).await.unwrap();
            stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            Ok::<_, UpstreamError>(String::from_utf8(read).unwrap())
        };
        let ((answer, _lease), read) = futures::try_join!(pool.send(request()), answering).unwrap();
        assert_eq!((answer.status().as_u16(), read.as_str()), (202, REQUEST));
        assert_eq!(unused.read(&mut [0; 1]).unwrap(), 0, "nothing came over the first");
    }

    #[tokio::test]
    async fn partly_sent_request_is_never_retried() {
        let (pool, listener) = pool();
        let (_ours, upstream) = idle(&pool, &listener).await;
        upstream.set_nonblocking(true).unwrap();
        let mut upstream = TcpStream::from_std(upstream).unwrap();
        let breaking_off = async move { upstream.read_exact(&mut [0; 4]).await.unwrap() };
        let (answer, _) = futures::join!(pool.send(request()), breaking_off);
        assert!(matches!(answer.map(drop), Err(UpstreamError::Exchange(_))));
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
        let kept = PRUNE * u32::try_from(kept.count()).unwrap();
        assert_eq!(kept + PRUNE, Duration::from_mins(1));
        assert!(pool.take().is_none());
    }
}
