mod draining;
mod forwarding;
mod http2;
mod limits;
mod mcp;
mod metrics;
mod raw;
mod redirects;
mod slow;
mod smuggling;
mod streams;
mod tokens;
#[cfg(feature = "opentelemetry")]
mod traces;
mod upstreams;

use std::{
    convert::Infallible,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, channel::mpsc as channel};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header::WWW_AUTHENTICATE};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::*;
use crate::{
    api::SessionPhase,
    crypto::SigningKeys,
    crypto::{AccessClaims, now_seconds},
    proxy::{
        clock::wall_clock,
        resource_server::{VerifiedTokens, testing::verify},
        runtime::proxy::testing::proxy,
        secrets::{EncryptionKey, Secrets},
        sessions::{LiveSet, SessionEvent},
    },
    session::{Session, tests::session},
    telemetry::{LogFormat, testing::Log},
};

type Events = channel::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>;
type Reply = http_body_util::Either<Full<Bytes>, StreamBody<Events>>;

/// An upstream that records its requests.
#[derive(Default)]
struct Upstream {
    connections: AtomicUsize,
    seen: Mutex<Vec<(Uri, HeaderMap, Bytes)>>,
    events: Mutex<Option<Events>>,
}

impl Upstream {
    async fn start() -> (Arc<Self>, SocketAddr, JoinHandle<()>) {
        let upstream = Arc::new(Self::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
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
        (upstream, address, listening)
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

    fn last(&self) -> (Uri, HeaderMap, Bytes) {
        self.seen.lock().unwrap().last().cloned().expect("the upstream got no request")
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

struct Bed {
    _directory: tempfile::TempDir,
    proxy: Arc<Proxy>,
    address: SocketAddr,
    upstream: Arc<Upstream>,
    session: Session,
    token: OnceLock<String>,
    log: Arc<OnceLock<Log>>,
    leaving: CancellationToken,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), ServeError>>,
    listening: JoinHandle<()>,
}

impl Bed {
    async fn new() -> Self {
        Self::configured(|_| ()).await
    }

    async fn with(live: LiveSet) -> Self {
        let (upstream, upstream_address, listening) = Upstream::start().await;
        Self::before(live, upstream, upstream_address, listening).await
    }

    /// A proxy with a change before it serves.
    async fn configured(change: impl FnOnce(&mut Proxy)) -> Self {
        let (upstream, address, listening) = Upstream::start().await;
        let bed = Self::changed(LiveSet::default(), upstream, address, listening, change).await;
        bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
        bed
    }

    /// The parts of the upstream's next response.
    fn parts(&self) -> channel::UnboundedSender<Result<Frame<Bytes>, Infallible>> {
        let (parts, receiver) = channel::unbounded();
        *self.upstream.events.lock().unwrap() = Some(receiver);
        parts
    }

    /// Opens an event stream.
    async fn listen(&self) -> Response<Incoming> {
        self.send(self.get("/mcp").body("").unwrap()).await
    }

    fn get(&self, path: &str) -> http::request::Builder {
        Request::get(path).header("authorization", format!("Bearer {}", self.token()))
    }

    async fn before(
        live: LiveSet,
        upstream: Arc<Upstream>,
        upstream_address: SocketAddr,
        listening: JoinHandle<()>,
    ) -> Self {
        Self::changed(live, upstream, upstream_address, listening, |_| ()).await
    }

    async fn changed(
        live: LiveSet,
        upstream: Arc<Upstream>,
        upstream_address: SocketAddr,
        listening: JoinHandle<()>,
        change: impl FnOnce(&mut Proxy),
    ) -> Self {
        let (directory, mut proxy) = proxy(&format!("http://{upstream_address}/base"), live, wall_clock()).await;
        change(&mut proxy);
        let proxy = Arc::new(proxy);
        let expires_at = Timestamp::now() + SignedDuration::from_hours(1);
        let session = Session { phase: SessionPhase::Active, expires_at, ..session("a") };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (leaving, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let router = Router::new().route("/own", axum::routing::get(|| async { "own" }));
        let log = Arc::<OnceLock<Log>>::default();
        let kept = log.clone();
        let listen = move || {
            let (log, listening) = Log::listen("info", LogFormat::Json);
            // Until the worker's thread ends.
            std::mem::forget(listening);
            assert!(kept.set(log).is_ok(), "called once");
            std::future::ready(())
        };
        let router = router.route("/listen", axum::routing::post(listen));
        let served = tokio::spawn(serve(proxy.clone(), router, listener, leaving.clone(), shutdown.clone()));
        Self {
            _directory: directory,
            proxy,
            address,
            upstream,
            session,
            token: OnceLock::new(),
            log,
            leaving,
            shutdown,
            served,
            listening,
        }
    }

    /// The log of the worker's thread, which starts to listen on the first call.
    async fn log(&self) -> &Log {
        assert_eq!(self.send(Request::post("/listen").body("").unwrap()).await.status(), StatusCode::OK);
        self.log.get().unwrap()
    }

    fn token_for(&self, audience: &str) -> String {
        self.token_of(&self.session, audience)
    }

    fn token_of(&self, session: &Session, audience: &str) -> String {
        access_token(&self.proxy, session, audience)
    }

    /// The same token on each call: each signature differs, and the cache must hit.
    fn token(&self) -> &str {
        self.token.get_or_init(|| self.token_for("https://mcp.example.com/mcp"))
    }

    async fn send(&self, mut request: Request<&'static str>) -> Response<Incoming> {
        request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("mcp.example.com"));
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request.map(Full::<Bytes>::from)).await.unwrap()
    }

    fn request(&self, path: &str) -> http::request::Builder {
        Request::post(path)
            .header("host", "evil.example.com")
            .header("authorization", format!("Bearer {}", self.token()))
    }

    async fn call(&self) -> Response<Incoming> {
        self.send(self.request("/mcp").body("{}").unwrap()).await
    }
}

fn access_token(proxy: &Proxy, session: &Session, audience: &str) -> String {
    let now = proxy.now();
    let claims = AccessClaims {
        iss: proxy.public_url.as_str().into(),
        sub: "subject".into(),
        aud: audience.into(),
        exp: now_seconds(now) + 600,
        iat: now_seconds(now),
        jti: "jti".into(),
        client_id: "client".into(),
        sid: session.id.to_string().into(),
        scope: "mcp".into(),
    };
    proxy.secrets.load().signing.sign(&claims, now).unwrap()
}

/// Fails the test if the future takes too long.
async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
