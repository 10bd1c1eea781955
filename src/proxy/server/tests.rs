mod mcp;
mod raw;
mod redirects;
mod smuggling;

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, channel::mpsc as channel};
use http::{HeaderMap, StatusCode, Uri, header::WWW_AUTHENTICATE};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    api::SessionPhase,
    proxy::{
        config::SigningKeys,
        crypto::{AccessClaims, now_seconds},
        forward::testing::{VerifiedTokens, verify},
        secrets::{EncryptionKey, Secrets},
        session::{LiveSet, Session, SessionEvent, testing::session},
        state::{testing::proxy, wall_clock},
    },
};

type Events = channel::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>;
type Reply = http_body_util::Either<Full<Bytes>, StreamBody<Events>>;

/// An upstream that remembers what it was sent.
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
        self.seen.lock().unwrap().last().cloned().expect("the upstream was asked")
    }

    fn asked(&self) -> usize {
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
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), ServeError>>,
    listening: JoinHandle<()>,
}

impl Bed {
    async fn new() -> Self {
        let bed = Self::with(LiveSet::default()).await;
        bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
        bed
    }

    async fn with(live: LiveSet) -> Self {
        let (upstream, upstream_address, listening) = Upstream::start().await;
        Self::before(live, upstream, upstream_address, listening).await
    }

    async fn before(
        live: LiveSet,
        upstream: Arc<Upstream>,
        upstream_address: SocketAddr,
        listening: JoinHandle<()>,
    ) -> Self {
        let (directory, proxy) = proxy(&format!("http://{upstream_address}/base"), live, wall_clock()).await;
        let proxy = Arc::new(proxy);
        let expires_at = Timestamp::now() + SignedDuration::from_hours(1);
        let session = Session { phase: SessionPhase::Active, expires_at, ..session("a") };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = Router::new().route("/own", axum::routing::get(|| async { "own" }));
        let served = tokio::spawn(serve(proxy.clone(), router, listener, shutdown.clone()));
        Self {
            _directory: directory,
            proxy,
            address,
            upstream,
            session,
            token: std::sync::OnceLock::new(),
            shutdown,
            served,
            listening,
        }
    }

    fn token_for(&self, audience: &str) -> String {
        self.token_of(&self.session, audience)
    }

    fn token_of(&self, session: &Session, audience: &str) -> String {
        access_token(&self.proxy, session, audience)
    }

    /// One and the same token every time, since each signing gives another: only so the cache is in play.
    fn token(&self) -> &str {
        self.token.get_or_init(|| self.token_for("https://mcp.example.com/mcp"))
    }

    async fn send(&self, request: Request<&'static str>) -> Response<Incoming> {
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
        iss: proxy.public_url.to_string(),
        sub: "subject".to_owned(),
        aud: audience.to_owned(),
        exp: now_seconds(now) + 600,
        iat: now_seconds(now),
        jti: "jti".to_owned(),
        client_id: "client".to_owned(),
        sid: session.id.to_string(),
        scope: "mcp".to_owned(),
    };
    proxy.secrets.load().signing.sign(&claims, now).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn without_a_token_the_answer_says_where_to_log_in_and_the_upstream_is_not_asked() {
    let bed = Bed::new().await;
    for path in ["/mcp", "/servers/a1/mcp/"] {
        let response = bed.send(Request::post(path).body("{}").unwrap()).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let challenge = format!(
            "Bearer resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource{path}\", scope=\"mcp\""
        );
        assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
        assert_eq!(
            response.headers()["access-control-expose-headers"],
            "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version"
        );
    }
    assert_eq!(bed.upstream.asked(), 0);
}

#[tokio::test]
async fn a_good_token_brings_the_request_to_the_upstream_with_the_callers_identity() {
    let bed = Bed::new().await;
    let request = bed.request("/mcp?a=b").header("x-forwarded-user", "evil").header("cookie", "a=b");
    let response = bed.send(request.body("{\"id\":1}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await, "{\"id\":1}");
    let (uri, headers, body) = bed.upstream.last();
    assert_eq!((uri.to_string().as_str(), &body[..]), ("/base/mcp?a=b", &b"{\"id\":1}"[..]));
    assert_eq!(headers["x-forwarded-user"], "ada@example.com");
    assert_eq!(headers["x-forwarded-email"], "ada@example.com");
    assert_eq!(headers["x-forwarded-host"], "mcp.example.com");
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_ne!(headers["host"], "evil.example.com");
    assert!(!headers.contains_key("authorization") && !headers.contains_key("cookie"));
}

#[tokio::test]
async fn a_token_for_another_resource_is_refused_also_when_it_is_cached() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let response = bed.send(bed.request("/servers/a1/mcp").body("{}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.ends_with(
        "/servers/a1/mcp\", scope=\"mcp\", error=\"invalid_token\", error_description=\"the access token is for another resource\""
    ));
    assert_eq!(bed.upstream.asked(), 1);
}

#[tokio::test]
async fn the_request_after_a_session_has_ended_is_refused() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    bed.proxy.sessions.live().apply(SessionEvent::Ended(bed.session.id));
    assert_eq!(bed.call().await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bed.upstream.asked(), 1);
}

#[tokio::test]
async fn c6_a_token_that_differs_from_a_cached_one_in_its_last_byte_is_refused() {
    let bed = Bed::new().await;
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let mut token = bed.token().to_owned();
    let last = if token.pop() == Some('A') { 'Q' } else { 'A' };
    token.push(last);
    let forged = Request::post("/mcp").header("authorization", format!("Bearer {token}")).body("").unwrap();
    assert_eq!(bed.send(forged).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_that_was_cached_is_worth_nothing_once_its_signing_key_is_gone() {
    let bed = Bed::new().await;
    let token = bed.request("/mcp").body("{}").unwrap();
    assert_eq!(bed.send(token.clone()).await.status(), StatusCode::OK);
    let other = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
    std::fs::write(&bed.proxy.config.signing_keys, serde_json::to_string(&other).unwrap()).unwrap();
    bed.proxy.secrets.store(Arc::new(Secrets::load(&bed.proxy.config, EncryptionKey::Current).unwrap()));
    assert_eq!(bed.send(token).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_session_that_was_only_looked_up_admits_but_is_not_cached() {
    let bed = Bed::with(LiveSet::default()).await;
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![]));
    bed.proxy.store.create(&bed.session).await.unwrap();
    let verified = VerifiedTokens::default();
    verify(&bed.proxy, &verified, bed.token(), "/mcp").await.unwrap();
    assert_eq!(verified.len(), 0);
    bed.proxy.sessions.live().apply(SessionEvent::Is(bed.session.clone()));
    verify(&bed.proxy, &verified, bed.token(), "/mcp").await.unwrap();
    assert_eq!(verified.len(), 1);
}

#[tokio::test]
async fn before_the_first_complete_list_a_valid_token_is_told_to_wait_and_the_pod_is_not_ready() {
    let bed = Bed::with(LiveSet::default()).await;
    let response = bed.call().await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let ready = async |draining: bool| {
        let token = CancellationToken::new();
        if draining {
            token.cancel();
        }
        let request = Request::get("/readyz").body(axum::body::Body::empty()).unwrap();
        crate::proxy::health::router(bed.proxy.clone(), token).oneshot(request).await.unwrap().status()
    };
    assert_eq!(ready(false).await, StatusCode::SERVICE_UNAVAILABLE);
    bed.proxy.sessions.live().apply(SessionEvent::All(vec![bed.session.clone()]));
    assert_eq!(ready(false).await, StatusCode::OK);
    assert_eq!(ready(true).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bed.call().await.status(), StatusCode::OK);
    let metrics = bed.proxy.metrics.text(1, 7).unwrap();
    assert!(metrics.contains("mcp_oauth_proxy_requests_total{outcome=\"forwarded\"} 1"), "{metrics}");
}

#[tokio::test]
async fn events_arrive_one_by_one_and_end_with_the_session() {
    let bed = Bed::new().await;
    let (mut events, receiver) = channel::unbounded();
    *bed.upstream.events.lock().unwrap() = Some(receiver);
    let mut body = bed.call().await.into_body().into_data_stream();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(Ok(Frame::data(Bytes::from(event)))).await.unwrap();
        // The upstream says nothing more before this one has arrived.
        assert_eq!(body.next().await.unwrap().unwrap(), event);
    }
    bed.proxy.sessions.live().apply(SessionEvent::Ended(bed.session.id));
    let ended = tokio::time::timeout(Duration::from_secs(2), body.next()).await;
    assert!(ended.expect("the stream ends soon").is_none());
}

#[tokio::test]
async fn an_answer_that_is_cut_by_the_end_of_its_session_does_not_look_whole() {
    let bed = Bed::new().await;
    let (mut part, receiver) = channel::unbounded();
    *bed.upstream.events.lock().unwrap() = Some(receiver);
    let response = bed.send(bed.request("/mcp?json").body("{}").unwrap()).await;
    let mut body = response.into_body().into_data_stream();
    part.send(Ok(Frame::data(Bytes::from("{\"half\":")))).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "{\"half\":");
    bed.proxy.sessions.live().apply(SessionEvent::Ended(bed.session.id));
    assert!(body.next().await.unwrap().is_err());
}

#[tokio::test]
async fn the_next_request_takes_the_same_upstream_connection() {
    let bed = Bed::new().await;
    for _ in 0..5 {
        assert_eq!(text(bed.call().await).await, "{}");
    }
    assert_eq!((bed.upstream.asked(), bed.upstream.connections.load(Ordering::SeqCst)), (5, 1));
}

#[tokio::test]
async fn c11_an_mcp_session_goes_out_bound_and_comes_in_bare() {
    let bed = Bed::new().await;
    let bound = bed.call().await.headers()["mcp-session-id"].clone();
    assert_ne!(bound, "upstream-id");
    let response = bed.send(bed.request("/mcp").header("mcp-session-id", bound).body("{}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(bed.upstream.last().1["mcp-session-id"], "upstream-id");
    let bare = bed.send(bed.request("/mcp").header("mcp-session-id", "upstream-id").body("{}").unwrap()).await;
    assert_eq!(bare.status(), StatusCode::NOT_FOUND);
    assert_eq!(bed.upstream.asked(), 2);
}

#[tokio::test]
async fn an_upstream_that_does_not_accept_us_is_a_bad_gateway_and_no_reason_to_log_in() {
    let bed = Bed::new().await;
    let response = bed.send(bed.request("/mcp?refuse").body("{}").unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
}

#[tokio::test]
async fn other_paths_are_the_routers_and_never_the_upstreams() {
    let bed = Bed::new().await;
    let own = bed.send(Request::get("/own").body("").unwrap()).await;
    assert_eq!(text(own).await, "own");
    for path in ["/mcp/../own", "/mcp%2f", "/mcp//", "/MCP", "/servers/a%2fb/mcp", "/mcp;x"] {
        assert_eq!(bed.send(bed.request(path).body("").unwrap()).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(bed.upstream.asked(), 0);
}

#[tokio::test]
async fn a_preflight_needs_no_token() {
    let bed = Bed::new().await;
    let response = bed.send(Request::options("/mcp").body("").unwrap()).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert!(response.headers()["access-control-allow-headers"].to_str().unwrap().contains("mcp-session-id"));
    assert_eq!(bed.upstream.asked(), 0);
}

#[tokio::test]
async fn stopping_waits_for_the_open_answer_and_takes_no_new_connection() {
    let bed = Bed::new().await;
    let (mut events, receiver) = channel::unbounded();
    *bed.upstream.events.lock().unwrap() = Some(receiver);
    let response = bed.call().await;
    bed.shutdown.cancel();
    while tokio::net::TcpStream::connect(bed.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    events.send(Ok(Frame::data(Bytes::from("late")))).await.unwrap();
    drop(events);
    assert_eq!(text(response).await, "late");
    bed.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_a_bad_gateway() {
    let bed = Bed::new().await;
    bed.listening.abort();
    while !bed.listening.is_finished() {
        tokio::task::yield_now().await;
    }
    let response = bed.call().await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(text(response).await.contains("cannot be reached"));
}

#[tokio::test]
async fn c10_two_authorization_headers_are_a_bad_request() {
    let bed = Bed::new().await;
    let response = bed.send(bed.request("/mcp").header("authorization", "Bearer x").body("").unwrap()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(bed.upstream.asked(), 0);
}
