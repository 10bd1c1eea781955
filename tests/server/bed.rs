//! A proxy that serves, with a client, a session and an upstream.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use futures::channel::mpsc as channel;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use mcp_oauth_operator::{
    config::ProxyConfig,
    crypto::SigningKeys,
    testing::{
        Clock, Log, Proxy, ServeError, Session, SessionEvent, access_token, active_session, config, health_router,
        proxy, reload_secrets, serve, wall_clock,
    },
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

type Events = channel::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>;
type Reply = http_body_util::Either<Full<Bytes>, StreamBody<Events>>;

/// An upstream that records its requests.
pub struct Upstream {
    pub address: SocketAddr,
    pub connections: AtomicUsize,
    seen: Mutex<Vec<(Uri, HeaderMap, Bytes)>>,
    events: Mutex<Option<Events>>,
    listening: OnceLock<JoinHandle<()>>,
}

impl Upstream {
    async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            connections: AtomicUsize::default(),
            seen: Mutex::default(),
            events: Mutex::default(),
            listening: OnceLock::new(),
        });
        let accepting = upstream.clone();
        let listening = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                let upstream = accepting.clone();
                let service = service_fn(move |request| {
                    let upstream = upstream.clone();
                    async move { Ok::<_, Infallible>(upstream.answer(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        upstream.listening.set(listening).unwrap();
        upstream
    }

    /// Closes the listener.
    pub async fn stop(&self) {
        let listening = self.listening.get().unwrap();
        listening.abort();
        while !listening.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if parts.uri.query() == Some("silent") {
            std::future::pending::<()>().await;
        }
        let refuses = parts.uri.query() == Some("refuse");
        let parts_are_events = parts.uri.query() != Some("json");
        self.seen.lock().unwrap().push((parts.uri, parts.headers, body.clone()));
        let events = self.events.lock().unwrap().take();
        let reply = match events {
            Some(events) => Reply::Right(StreamBody::new(events)),
            None => Reply::Left(Full::new(body)),
        };
        let mut response = Response::new(reply);
        if refuses {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        response.headers_mut().insert("mcp-session-id", "upstream-id".parse().unwrap());
        if parts_are_events {
            response.headers_mut().insert("content-type", "text/event-stream; charset=utf-8".parse().unwrap());
        }
        response
    }

    pub fn last(&self) -> (Uri, HeaderMap, Bytes) {
        self.seen.lock().unwrap().last().cloned().expect("the upstream got no request")
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// What a [`Bed`] differs in from the default.
pub struct Builder {
    change: Box<dyn FnOnce(&mut ProxyConfig)>,
    clock: Clock,
    is_live: bool,
    upstream: Option<SocketAddr>,
    #[cfg(feature = "opentelemetry")]
    collector: Option<String>,
}

impl Builder {
    pub fn config(self, change: impl FnOnce(&mut ProxyConfig) + 'static) -> Self {
        Self { change: Box::new(change), ..self }
    }

    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The session set is incomplete, as before the first event of the store.
    pub fn without_sessions(self) -> Self {
        Self { is_live: false, ..self }
    }

    /// An upstream of the test's own.
    pub fn upstream(self, address: SocketAddr) -> Self {
        Self { upstream: Some(address), ..self }
    }

    /// Sends traces to this collector.
    #[cfg(feature = "opentelemetry")]
    pub fn traces(self, endpoint: String) -> Self {
        Self { collector: Some(endpoint), ..self }
    }

    pub async fn start(self) -> Bed {
        let upstream = Upstream::start().await;
        let directory = tempfile::tempdir().unwrap();
        let to = self.upstream.unwrap_or(upstream.address);
        let mut config = config(directory.path(), &format!("http://{to}/base"));
        (self.change)(&mut config);
        let proxy = proxy(config, self.clock).await;
        #[cfg(feature = "opentelemetry")]
        let proxy = match &self.collector {
            Some(endpoint) => mcp_oauth_operator::testing::export_traces(proxy, endpoint),
            None => proxy,
        };
        let proxy = Arc::new(proxy);
        let session = active_session("a", proxy.authorization_server.now());
        let log = Arc::<OnceLock<Log>>::default();
        let kept = log.clone();
        let listen = move || {
            let (log, listening) = Log::listen("info");
            // Until the worker's thread ends.
            std::mem::forget(listening);
            assert!(kept.set(log).is_ok(), "called once");
            std::future::ready(())
        };
        let router = Router::new().route("/own", get(|| async { "own" })).route("/listen", post(listen));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (leaving, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let served = tokio::spawn(serve(proxy.clone(), router, listener, leaving.clone(), shutdown.clone()));
        let bed = Bed {
            directory,
            proxy,
            address,
            upstream,
            session,
            token: OnceLock::new(),
            log,
            leaving,
            shutdown,
            served,
        };
        if self.is_live {
            bed.apply(SessionEvent::All(vec![bed.session.clone()]));
        }
        bed
    }
}

pub struct Bed {
    /// Contains the database and the keys.
    directory: TempDir,
    proxy: Arc<Proxy>,
    pub address: SocketAddr,
    /// Not used if the test has its own.
    pub upstream: Arc<Upstream>,
    /// Of the user `ada@example.com`.
    pub session: Session,
    token: OnceLock<String>,
    log: Arc<OnceLock<Log>>,
    pub leaving: CancellationToken,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<Result<(), ServeError>>,
}

impl Bed {
    pub fn builder() -> Builder {
        Builder {
            change: Box::new(|_| ()),
            clock: wall_clock(),
            is_live: true,
            upstream: None,
            #[cfg(feature = "opentelemetry")]
            collector: None,
        }
    }

    pub async fn new() -> Self {
        Self::builder().start().await
    }

    /// Changes the live set as the watch of the store does.
    pub fn apply(&self, event: SessionEvent) {
        self.proxy.authorization_server.sessions.live().apply(event);
    }

    pub fn metrics(&self) -> String {
        self.proxy.metrics_text().unwrap()
    }

    /// The value of a metric with its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix("mcp_oauth_proxy_")?.strip_prefix(name));
        value.unwrap_or_else(|| panic!("{name} is not in {text}")).trim().parse().unwrap()
    }

    /// The status of `/readyz`.
    pub async fn readyz(&self, is_draining: bool) -> StatusCode {
        let draining = CancellationToken::new();
        if is_draining {
            draining.cancel();
        }
        let request = Request::get("/readyz").body(Body::empty()).unwrap();
        health_router(self.proxy.clone(), draining).oneshot(request).await.unwrap().status()
    }

    /// Replaces the only signing key.
    pub fn replace_signing_keys(&self) {
        let keys = SigningKeys::generate(jiff::Timestamp::UNIX_EPOCH).unwrap();
        std::fs::write(self.directory.path().join("keys.json"), keys.to_json().unwrap()).unwrap();
        reload_secrets(&self.proxy);
    }

    /// Sends the remaining traces.
    #[cfg(feature = "opentelemetry")]
    pub async fn flush_traces(&self) {
        self.proxy.resource_server.tracer.shut_down().await;
    }

    /// The parts of the upstream's next response.
    pub fn parts(&self) -> channel::UnboundedSender<Result<Frame<Bytes>, Infallible>> {
        let (parts, receiver) = channel::unbounded();
        *self.upstream.events.lock().unwrap() = Some(receiver);
        parts
    }

    /// Opens an event stream.
    pub async fn listen(&self) -> Response<Incoming> {
        self.send(self.get("/mcp").body("").unwrap()).await
    }

    fn get(&self, path: &str) -> http::request::Builder {
        Request::get(path).header("authorization", format!("Bearer {}", self.token()))
    }

    /// The log of the worker's thread, which starts to listen on the first call.
    pub async fn log(&self) -> &Log {
        assert_eq!(self.send(Request::post("/listen").body("").unwrap()).await.status(), StatusCode::OK);
        self.log.get().unwrap()
    }

    pub fn token_for(&self, audience: &str) -> String {
        self.token_of(&self.session, audience)
    }

    pub fn token_of(&self, session: &Session, audience: &str) -> String {
        access_token(&self.proxy, session, audience)
    }

    /// The same token on each call: each signature differs, and the cache must hit.
    pub fn token(&self) -> &str {
        self.token.get_or_init(|| self.token_for("https://mcp.example.com/mcp"))
    }

    pub async fn send(&self, mut request: Request<&'static str>) -> Response<Incoming> {
        request.headers_mut().entry("host").or_insert(HeaderValue::from_static("mcp.example.com"));
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request.map(Full::<Bytes>::from)).await.unwrap()
    }

    pub fn request(&self, path: &str) -> http::request::Builder {
        Request::post(path)
            .header("host", "evil.example.com")
            .header("authorization", format!("Bearer {}", self.token()))
    }

    pub async fn call(&self) -> Response<Incoming> {
        self.send(self.request("/mcp").body("{}").unwrap()).await
    }
}

/// Fails the test if the future takes too long.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
