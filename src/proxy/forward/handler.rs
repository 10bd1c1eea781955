use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONNECTION,
        RETRY_AFTER,
    },
};
use hyper::body::Incoming;
use serde_json::json;
use thiserror::Error;
use tokio::time::{Interval, MissedTickBehavior};
use url::Url;

use super::{
    Body, HeaderRules,
    bearer::{self, Caller, Refusal, json_response},
    body::UpstreamBody,
    deadline::Deadlines,
    headers::{self, InvalidHeaderRules, REQUEST_HEADERS, allow_any_origin, deny_any_origin},
    mcp_session,
    origin::Origins,
    pool::{Connector, Pool, PoolError, connector},
    redirect::{self, Places, SendError, Spelling},
    request_body::{RequestBody, RequestBodyError},
    verified::{SharedTokens, VerifiedTokens},
};
use crate::{
    api::InvalidUrl,
    proxy::{
        client_address::{Peer, client_address},
        metrics::Outcome,
        session::LiveSession,
        state::Proxy,
    },
};

/// The methods of an MCP endpoint. Nothing else is forwarded.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, HEAD, OPTIONS");

/// How often an open stream asks whether its session has ended.
const SESSION_CHECK: Duration = Duration::from_millis(500);

/// What the workers of a proxy share.
pub struct Forwarder {
    proxy: Arc<Proxy>,
    verified: SharedTokens,
    rules: HeaderRules,
    connector: Connector,
    origins: Origins,
    upstream: Uri,
    prefix: String,
    places: Places,
    /// One for each of the patterns of `upstream.paths`.
    spellings: Box<[Spelling]>,
    /// The most bytes of a request's body.
    most: u64,
    /// How long a client may pause within it.
    patience: Duration,
}

/// Why requests cannot be forwarded with this configuration.
#[derive(Debug, Error)]
pub enum ForwarderError {
    /// The upstream's address is not right.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The upstream's address has no host, or one that HTTP does not take.
    #[error("upstream.url cannot be connected to")]
    Upstream,
    /// A header of the configuration is not right.
    #[error(transparent)]
    Headers(#[from] InvalidHeaderRules),
    /// TLS cannot be set up.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Forwarder {
    /// Forwards what `proxy` admits.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(proxy: Arc<Proxy>) -> Result<Self, ForwarderError> {
        let url = Url::parse(proxy.config.upstream_url()?.as_str()).map_err(|_| ForwarderError::Upstream)?;
        let upstream: Uri = url.as_str().parse().map_err(|_| ForwarderError::Upstream)?;
        let host = upstream.authority().ok_or(ForwarderError::Upstream)?;
        let rules = HeaderRules::new(&proxy.config.upstream.identity, &proxy.public_url, host)?;
        let connector = connector(upstream.scheme_str() == Some("https"))?;
        let prefix = upstream.path().trim_end_matches('/').to_owned();
        let origins = Origins::new(&proxy.public_url, &proxy.config.clients);
        let places = Places::new(url, &proxy.public_url);
        let spellings = (0..proxy.resources.len()).map(|_| Spelling::default()).collect();
        let verified = VerifiedTokens::shared();
        let (most, patience) =
            (proxy.config.upstream.limits.request_body.bytes(), proxy.config.upstream.timeouts.request_body.get());
        Ok(Self { proxy, verified, rules, connector, origins, upstream, prefix, places, spellings, most, patience })
    }

    /// Whether a path, as the client spelled it, is an MCP endpoint.
    pub fn is_endpoint(&self, path: &str) -> bool {
        self.proxy.resources.path(path).is_some()
    }

    /// What the upstream is asked for: however the client spells the path, the upstream gets its own spelling.
    fn target(&self, uri: &Uri, spelling: &Spelling) -> Option<Uri> {
        let slash = spelling.has_slash();
        let spelled = if uri.path().ends_with('/') == slash { None } else { Some(redirect::respelled(uri, slash)?) };
        let path = spelled.as_ref().unwrap_or(uri).path_and_query()?;
        if self.prefix.is_empty() {
            return Some(path.clone().into());
        }
        format!("{}{path}", self.prefix).parse().ok()
    }
}

/// A worker's side of forwarding. Stays on its thread.
pub struct Worker {
    /// What it shares with the others.
    pub forwarder: Arc<Forwarder>,
    /// Its connections to the upstream.
    pub pool: Rc<Pool>,
    /// What its tasks wait for; to be told every [`TICK`](super::TICK).
    pub deadlines: Rc<Deadlines>,
    verified: VerifiedTokens,
}

impl Worker {
    /// A worker without connections yet.
    pub fn new(forwarder: Arc<Forwarder>) -> Self {
        let pool = Rc::new(Pool::new(forwarder.connector.clone(), forwarder.upstream.clone()));
        let verified = VerifiedTokens::new(forwarder.verified.clone());
        Self { forwarder, pool, deadlines: Rc::default(), verified }
    }
}

/// Answers a request for an MCP endpoint ([`Forwarder::is_endpoint`]).
pub async fn forward(request: Request<Incoming>, peer: &Peer, worker: &Worker) -> Response<Body> {
    let (outcome, response) = answer(request, peer, worker).await;
    worker.forwarder.proxy.metrics.count(outcome);
    response
}

async fn answer(mut request: Request<Incoming>, peer: &Peer, worker: &Worker) -> (Outcome, Response<Body>) {
    let Forwarder { proxy, rules, .. } = &*worker.forwarder;
    if !worker.forwarder.origins.admit(request.headers()) {
        return (Outcome::Refused, foreign_origin());
    }
    match *request.method() {
        Method::OPTIONS => return (Outcome::Preflight, preflight()),
        Method::GET | Method::POST | Method::DELETE | Method::HEAD => (),
        _ => return (Outcome::Refused, method_not_allowed()),
    }
    let caller = match caller(proxy, &worker.verified, &request).await {
        Ok(caller) => caller,
        Err(Refusal::Unavailable) => {
            return (Outcome::Unavailable, Refusal::Unavailable.response(proxy, request.uri().path()));
        }
        Err(refusal) => return (Outcome::Refused, refusal.response(proxy, request.uri().path())),
    };
    // Secrets may change while the upstream thinks, but both ways of one request use the same.
    let keyring = proxy.secrets.load().keyring.clone();
    if mcp_session::unbind(&keyring, &caller.session.user, request.headers_mut()).is_err() {
        return (Outcome::Refused, foreign_mcp_session());
    }
    let index = proxy.resources.find(request.uri().path()).map_or(0, |(index, _)| index);
    let Some(spelling) = worker.forwarder.spellings.get(index) else { return (Outcome::Refused, uri_too_long()) };
    let Some(target) = worker.forwarder.target(request.uri(), spelling) else {
        return (Outcome::Refused, uri_too_long());
    };
    let (head, body) = request.into_parts();
    let (most, patience) = (worker.forwarder.most, worker.forwarder.patience);
    let body = match RequestBody::new(body, most, patience, worker.deadlines.clone()) {
        Ok(body) => body,
        Err(error) => return (Outcome::Refused, refuse_body(&error)),
    };
    let mut request = Request::from_parts(head, body);
    *request.uri_mut() = target;
    *request.version_mut() = http::Version::HTTP_11;
    let client = client_address(peer.address.ip(), request.headers(), &proxy.config.trusted_proxies);
    rules.to_upstream(request.headers_mut(), peer.forwarded_for(client), &caller.email);
    let (mut response, lease) = match redirect::send(&worker.pool, &worker.forwarder.places, spelling, request).await {
        Ok(answered) => answered,
        Err(error @ SendError::Changed) => {
            tracing::warn!(%error, "a request was not sent again");
            return (Outcome::Unavailable, upstream_changed());
        }
        Err(error @ SendError::Elsewhere(_)) => {
            tracing::warn!(%error, "a redirect is not followed");
            return (Outcome::BadGateway, bad_gateway("the upstream redirects elsewhere"));
        }
        Err(SendError::Upstream(error)) => {
            if let Some(error) = RequestBodyError::cause_of(&error) {
                tracing::debug!(%error, "a request was not forwarded to its end");
                return (Outcome::Refused, refuse_body(error));
            }
            tracing::warn!(%error, "the upstream gave no answer");
            return (Outcome::BadGateway, bad_gateway("the upstream cannot be reached or broke off"));
        }
    };
    if response.status() == StatusCode::UNAUTHORIZED || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // A 401 would send the client into a login that cannot help: it is we whom the upstream does not accept.
        tracing::warn!(status = %response.status(), "the upstream does not accept the proxy's requests");
        return (Outcome::BadGateway, bad_gateway("the upstream does not accept the proxy's requests"));
    }
    headers::to_client(response.headers_mut());
    mcp_session::bind(&keyring, &caller.session.user, response.headers_mut());
    let is_stream = headers::is_event_stream(response.headers());
    let watched = Watched { proxy: proxy.clone(), session: caller.session, interval: None };
    (
        Outcome::Forwarded,
        response.map(|incoming| Body::Upstream(UpstreamBody::new(incoming, lease, watched, is_stream))),
    )
}

async fn caller(proxy: &Proxy, verified: &VerifiedTokens, request: &Request<Incoming>) -> Result<Caller, Refusal> {
    let token = bearer::token(request.headers())?;
    let path = proxy.resources.path(request.uri().path()).unwrap_or_default();
    bearer::verify(proxy, verified, token, path).await
}

fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    // The star is for `Mcp-Param-*`, whose names each tool makes up; it does not stand for `Authorization` (Fetch, CORS
    // protocol).
    if let Ok(allowed) = HeaderValue::from_str(&format!("{}, *", REQUEST_HEADERS.join(", "))) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    allow_any_origin(headers);
    response
}

fn method_not_allowed() -> Response<Body> {
    let body = json!({"error": "invalid_request", "error_description": "an MCP endpoint does not know this method"});
    let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &body);
    response.headers_mut().insert(ALLOW, METHODS);
    response
}

fn uri_too_long() -> Response<Body> {
    let body = json!({"error": "invalid_request", "error_description": "the request's path and query are too long"});
    json_response(StatusCode::URI_TOO_LONG, &body)
}

/// No CORS header: the page may not even read why.
fn foreign_origin() -> Response<Body> {
    let description = "requests from this web page are not let in: whoever runs this server can add its origin to spec.clients.origins";
    let body = json!({"error": "invalid_request", "error_description": description});
    let mut response = json_response(StatusCode::FORBIDDEN, &body);
    deny_any_origin(response.headers_mut());
    response
}

/// The rest of the body is not read, so the connection is of no use any more.
fn refuse_body(error: &RequestBodyError) -> Response<Body> {
    let status = match error {
        RequestBodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RequestBodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        RequestBodyError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    let mut response =
        json_response(status, &json!({"error": "invalid_request", "error_description": error.to_string()}));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn upstream_changed() -> Response<Body> {
    let body = json!({"error": "temporarily_unavailable", "error_description": "the upstream has changed: try again"});
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn bad_gateway(description: &str) -> Response<Body> {
    json_response(StatusCode::BAD_GATEWAY, &json!({"error": "bad_gateway", "error_description": description}))
}

/// What an MCP server answers for a session it does not know: the client begins a new one (MCP transports, session
/// management).
fn foreign_mcp_session() -> Response<Body> {
    let error = json!({"code": -32001, "message": "Session not found"});
    json_response(StatusCode::NOT_FOUND, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
}

/// Ends an open stream soon after its session has ended.
pub struct Watched {
    proxy: Arc<Proxy>,
    session: Arc<LiveSession>,
    // Made when a stream has to wait for the first time, which short answers never do.
    interval: Option<Interval>,
}

impl Watched {
    /// Whether the session has ended, as far as it is known.
    pub fn has_ended(&self) -> bool {
        !self.session.admits(self.proxy.now())
    }

    /// Ready when the session has ended; otherwise wakes the task for the next look.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.interval.get_or_insert_with(session_checks).poll_tick(cx));
            if self.has_ended() {
                return Poll::Ready(());
            }
        }
    }
}

fn session_checks() -> Interval {
    let mut interval = tokio::time::interval(SESSION_CHECK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval.reset();
    interval
}
