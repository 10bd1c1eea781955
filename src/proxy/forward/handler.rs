use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::{Method, Response, StatusCode, Uri, request::Parts};
use jiff::Timestamp;
use thiserror::Error;
use url::Url;

use super::{
    Arriving, Body, HeaderRules, answers,
    bearer::{self, Caller, Refusal},
    body::{OpenStream, UpstreamBody},
    breaker::Breaker,
    deadline::{Deadline, Deadlines},
    headers::{self, InvalidHeaderRules},
    limits::{Kind, Limits, memory_limit},
    mcp_session,
    origin::Origins,
    pool::{Connector, Pool, PoolError, UpstreamError, connector},
    redirect::{self, Places, SendError, Spelling},
    request_body::{RequestBody, RequestBodyError},
    verified::VerifiedTokens,
    watched::Watched,
    wire::RequestHead,
};
use crate::{
    api::InvalidUrl,
    proxy::{
        audit,
        client_address::{Peer, client_address},
        crypto::now_seconds,
        metrics::{Outcome, WorkerMetrics},
        state::Proxy,
        traces::Span,
    },
};

/// What the workers of a proxy share.
pub struct Forwarder {
    proxy: Arc<Proxy>,
    rules: HeaderRules,
    connector: Connector,
    origins: Origins,
    upstream: Uri,
    prefix: String,
    places: Places,
    /// One for each of the patterns of `upstream.paths`.
    spellings: Box<[Spelling]>,
    breaker: Arc<Breaker>,
    limits: Arc<Limits>,
    pace: Pace,
}

/// How large and how slow things may be.
struct Pace {
    /// How long connecting to the upstream may take.
    connect: Duration,
    /// The most bytes of a request's body.
    largest: u64,
    /// How long a client may pause within it, and in taking an answer.
    request_body: Duration,
    /// How long the upstream may take to begin its answer, and pause in one that is no stream.
    response: Duration,
    /// How long it may pause in a stream.
    stream: Duration,
    /// How many seconds a stream may go on after its access token.
    stream_grace: u64,
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
        let connect = proxy.config.upstream.timeouts.connect.get();
        let connector = connector(upstream.scheme_str() == Some("https"), connect)?;
        let prefix = upstream.path().trim_end_matches('/').to_owned();
        let origins = Origins::new(&proxy.public_url, &proxy.config.clients);
        let places = Places::new(url, &proxy.public_url);
        let spellings = (0..proxy.resources.len()).map(|_| Spelling::default()).collect();
        let (timeouts, limits) = (&proxy.config.upstream.timeouts, &proxy.config.upstream.limits);
        let pace = Pace {
            connect,
            largest: limits.request_body.bytes(),
            request_body: timeouts.request_body.get(),
            response: timeouts.response_head.get(),
            stream: timeouts.stream_idle.get(),
            stream_grace: proxy.config.tokens.stream_grace.as_secs(),
        };
        let (limits, breaker) = (Arc::new(Limits::new(limits, memory_limit())), Arc::new(Breaker::new(Instant::now())));
        Ok(Self { proxy, rules, connector, origins, upstream, prefix, places, spellings, breaker, limits, pace })
    }

    /// How long a client may let us wait.
    pub fn client_patience(&self) -> Duration {
        self.pace.request_body
    }

    /// How long what is open may go on when this process has to end.
    pub fn drain(&self) -> Duration {
        self.proxy.config.upstream.timeouts.drain.get()
    }

    /// The time by the proxy's clock.
    pub fn now(&self) -> Timestamp {
        self.proxy.now()
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
    /// Set when this process is about to end: clients shall go elsewhere.
    pub leaving: Cell<bool>,
    verified: VerifiedTokens,
    metrics: Arc<WorkerMetrics>,
}

impl Worker {
    /// A worker without connections yet.
    pub fn new(forwarder: Arc<Forwarder>) -> Self {
        let Forwarder { connector, upstream, breaker, pace, .. } = &*forwarder;
        let metrics = forwarder.proxy.metrics.worker();
        let pool = Pool::new(connector.clone(), upstream.clone(), breaker.clone(), pace.connect, metrics.clone());
        let pool = Rc::new(pool);
        let verified = VerifiedTokens::new(forwarder.proxy.verified.clone());
        let deadlines = Rc::new(Deadlines::new(forwarder.proxy.now()));
        Self { forwarder, pool, deadlines, leaving: Cell::new(false), verified, metrics }
    }
}

/// Answers a request for an MCP endpoint ([`Forwarder::is_endpoint`]).
pub async fn forward(request: &mut Parts, body: Arriving, peer: &Peer, worker: &Worker) -> Response<Body> {
    let begun = Instant::now();
    let span = worker.forwarder.proxy.tracer.begin(request);
    let mut counted = Counted { metrics: &worker.metrics, outcome: Outcome::ClientGone };
    let (outcome, response) = answer(request, body, peer, worker, begun, &span).await;
    span.end(outcome, response.status());
    counted.outcome = outcome;
    if outcome == Outcome::Forwarded {
        worker.metrics.response_head.observe(begun.elapsed());
    }
    response
}

/// Why the upstream's answer is not waited for any longer.
enum Unanswered {
    /// It did not begin in time.
    TimedOut,
    /// The session or the token ended before the client had sent all of its request.
    Over,
}

/// Counts a request when this is dropped: with the request itself, if the client goes before there is an answer.
struct Counted<'a> {
    metrics: &'a WorkerMetrics,
    outcome: Outcome,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.requests.count(self.outcome);
    }
}

async fn answer(
    request: &mut Parts,
    body: Arriving,
    peer: &Peer,
    worker: &Worker,
    begun: Instant,
    span: &Span,
) -> (Outcome, Response<Body>) {
    let Forwarder { proxy, rules, pace, .. } = &*worker.forwarder;
    if !worker.forwarder.origins.admit(&request.headers) {
        return (Outcome::Refused, answers::foreign_origin());
    }
    match request.method {
        Method::OPTIONS => return (Outcome::Preflight, answers::preflight()),
        Method::GET | Method::POST | Method::DELETE | Method::HEAD => (),
        _ => return (Outcome::Refused, answers::method_not_allowed()),
    }
    let caller = match caller(worker, request).await {
        Ok(caller) => caller,
        Err(refusal) => return (refusal.outcome(), refusal.response(proxy, request.uri.path())),
    };
    // Secrets may change while the upstream thinks, but both ways of one request use the same.
    let keyring = proxy.secrets.load().keyring.clone();
    if mcp_session::unbind(&keyring, &caller.session.user, &mut request.headers).is_err() {
        let from = client_address(peer.address.ip(), &request.headers, &proxy.config.trusted_proxies);
        audit::mcp_session_refused(&caller.session, from);
        return (Outcome::Refused, answers::foreign_mcp_session());
    }
    let index = proxy.resources.find(request.uri.path()).map_or(0, |(index, _)| index);
    let Some(spelling) = worker.forwarder.spellings.get(index) else {
        return (Outcome::Refused, answers::uri_too_long());
    };
    let Some(target) = worker.forwarder.target(&request.uri, spelling) else {
        return (Outcome::Refused, answers::uri_too_long());
    };
    let listens = request.method == Method::GET;
    let kind = if listens { Kind::Stream } else { Kind::Request };
    let permit = match worker.forwarder.limits.admit(&caller.session, kind) {
        Ok(permit) => permit,
        Err(shed) => return (Outcome::Shed, answers::shed(shed)),
    };
    let upload = body.upload().clone();
    let body = match RequestBody::new(body, pace.largest, pace.request_body, worker.deadlines.clone()) {
        Ok(body) => body,
        Err(error) => return (Outcome::Refused, answers::refuse_body(&error)),
    };
    let client = client_address(peer.address.ip(), &request.headers, &proxy.config.trusted_proxies);
    let fields = rules.to_upstream(&request.headers, &peer.forwarded_for(client), &caller.email, &span.headers());
    let mut head = RequestHead { method: request.method.clone(), target, fields };
    let mut sent = pin!(redirect::send(&worker.pool, &worker.forwarder.places, spelling, &mut head, body));
    let until = caller.expires.saturating_add(pace.stream_grace);
    let mut waiting = Deadline::new(worker.deadlines.clone());
    waiting.watch(caller.session.clone(), i64::try_from(until).unwrap_or(i64::MAX));
    let answered = poll_fn(|cx| {
        if let Poll::Ready(answered) = sent.as_mut().poll(cx) {
            return Poll::Ready(Ok(answered));
        }
        if upload.take_wanted() {
            // Half of a request has done nothing yet; a whole one is not taken back.
            let now = worker.deadlines.time();
            if !caller.session.admits(now) || now_seconds(now) >= until {
                return Poll::Ready(Err(Unanswered::Over));
            }
            // The upstream's time begins anew with all that it takes; how long the client takes is the body's business.
            waiting.stop();
        }
        waiting.poll(pace.response, cx).map(|()| Err(Unanswered::TimedOut))
    });
    let answered = match answered.await {
        Ok(answered) => answered,
        Err(Unanswered::TimedOut) => {
            tracing::warn!("the upstream did not begin its answer in time");
            return (Outcome::TimedOut, answers::gateway_timeout());
        }
        Err(Unanswered::Over) => {
            let refusal = Refusal::InvalidToken("the session or the access token has ended: log in again");
            return (refusal.outcome(), refusal.response(proxy, request.uri.path()));
        }
    };
    let (mut response, lease) = match answered {
        Ok(answered) => answered,
        Err(error @ SendError::Changed) => {
            tracing::warn!(%error, "a request was not sent again");
            return (Outcome::Unavailable, answers::upstream_changed());
        }
        Err(error @ SendError::Elsewhere(_)) => {
            tracing::warn!(%error, "a redirect is not followed");
            return (Outcome::BadGateway, answers::bad_gateway("the upstream redirects elsewhere"));
        }
        Err(SendError::Upstream(UpstreamError::Broken(broken))) => {
            tracing::debug!(error = %broken, "a request was not forwarded");
            return (Outcome::Broken, answers::broken(broken));
        }
        Err(SendError::Upstream(error)) => {
            if let Some(error) = RequestBodyError::cause_of(&error) {
                tracing::debug!(%error, "a request was not forwarded to its end");
                return (Outcome::Refused, answers::refuse_body(error));
            }
            tracing::warn!(%error, "the upstream gave no answer");
            return (Outcome::BadGateway, answers::bad_gateway("the upstream cannot be reached or broke off"));
        }
    };
    if response.status() == StatusCode::UNAUTHORIZED || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // A 401 would send the client into a login that cannot help: it is we whom the upstream does not accept.
        tracing::warn!(status = %response.status(), "the upstream does not accept the proxy's requests");
        return (Outcome::BadGateway, answers::bad_gateway("the upstream does not accept the proxy's requests"));
    }
    headers::allow_any_origin(response.headers_mut());
    mcp_session::bind(&keyring, &caller.session.user, response.headers_mut());
    let is_stream = headers::is_event_stream(response.headers());
    let idle = if is_stream { pace.stream } else { pace.response };
    let stream =
        is_stream.then(|| OpenStream::new(worker.metrics.clone(), caller.session.clone(), client, begun, listens));
    let watched = Watched::new(waiting, caller.session, until, idle);
    (Outcome::Forwarded, response.map(|()| Body::Upstream(UpstreamBody::new(lease, watched, permit, stream))))
}

async fn caller(worker: &Worker, request: &Parts) -> Result<Caller, Refusal> {
    let proxy = &worker.forwarder.proxy;
    let token = bearer::token(&request.headers)?;
    let path = proxy.resources.path(request.uri.path()).unwrap_or_default();
    bearer::verify(proxy, &worker.verified, &worker.metrics, token, path).await
}
