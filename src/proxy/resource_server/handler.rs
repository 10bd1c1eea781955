use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, Uri, request::Parts};
use jiff::Timestamp;
use thiserror::Error;
use url::Url;

use super::{
    Body, IncomingBody, ResourceServer,
    admission::admit,
    breaker::Breaker,
    deadline::Deadlines,
    exchange::exchange,
    headers::{HeaderRules, InvalidHeaderRules},
    limits::{ConcurrencyLimits, memory_limit},
    origin::Origins,
    pool::{Connector, Pool, PoolError, connector},
    redirect::{SlashRedirects, TrailingSlashes, with_slash},
    responses::CountedResponse,
    verified::VerifiedTokens,
};
use crate::http1::Scratch;
use crate::{
    api::proxy::Timeouts,
    config::ProxyConfig,
    proxy::{
        client_ip::Peer,
        observability::metrics::{Outcome, WorkerMetrics},
    },
};

/// What the workers of a proxy share.
pub struct Forwarder {
    pub(super) server: Arc<ResourceServer>,
    pub(super) rules: HeaderRules,
    connector: Connector,
    pub(super) origins: Origins,
    upstream: Uri,
    /// The path of the upstream's URL, without trailing slash.
    prefix: String,
    pub(super) redirects: SlashRedirects,
    breaker: Arc<Breaker>,
    pub(super) limits: Arc<ConcurrencyLimits>,
    pub(super) timeouts: Timeouts,
    /// In bytes.
    pub(super) max_request_body: u64,
    /// How many seconds a stream may continue after its access token expires.
    pub(super) stream_grace: u64,
}

/// Why the configuration allows no forwarding.
#[derive(Debug, Error)]
pub enum ForwarderError {
    /// It has no host, or one that is invalid in HTTP.
    #[error("upstream.url cannot be connected to")]
    Upstream,
    #[error(transparent)]
    Headers(#[from] InvalidHeaderRules),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Forwarder {
    pub fn new(config: &ProxyConfig, server: Arc<ResourceServer>) -> Result<Self, ForwarderError> {
        let url = Url::parse(config.upstream.url.as_str()).map_err(|_| ForwarderError::Upstream)?;
        let upstream: Uri = url.as_str().parse().map_err(|_| ForwarderError::Upstream)?;
        let host = upstream.authority().ok_or(ForwarderError::Upstream)?;
        let timeouts = config.upstream.timeouts.clone();
        Ok(Self {
            rules: HeaderRules::new(&config.upstream.identity, &server.public_url, host)?,
            connector: connector(upstream.scheme_str() == Some("https"), timeouts.connect.get())?,
            origins: Origins::new(&server.public_url, &config.clients),
            prefix: upstream.path().trim_end_matches('/').to_owned(),
            upstream,
            redirects: SlashRedirects::new(url, &server.public_url),
            breaker: Arc::new(Breaker::new(Instant::now())),
            limits: Arc::new(ConcurrencyLimits::new(&config.upstream.limits, memory_limit())),
            timeouts,
            max_request_body: config.upstream.limits.request_body.bytes(),
            stream_grace: config.tokens.stream_grace.as_secs(),
            server,
        })
    }

    /// How long a client may pause while it sends a request or reads a response.
    pub fn client_timeout(&self) -> Duration {
        self.timeouts.request_body.get()
    }

    /// How long open requests may continue during a shutdown.
    pub fn drain_timeout(&self) -> Duration {
        self.timeouts.drain.get()
    }

    pub fn now(&self) -> Timestamp {
        self.server.now()
    }

    /// Whether a path, as the client spelled it, is an MCP endpoint.
    pub fn is_endpoint(&self, path: &str) -> bool {
        self.server.resources.path(path).is_some()
    }

    /// The upstream's path and query for a client's, with or without a trailing slash.
    pub(super) fn target(&self, uri: &Uri, slash: bool) -> Option<Uri> {
        let changed = if uri.path().ends_with('/') == slash { None } else { Some(with_slash(uri, slash)?) };
        let path = changed.as_ref().unwrap_or(uri).path_and_query()?;
        if self.prefix.is_empty() {
            return Some(path.clone().into());
        }
        format!("{}{path}", self.prefix).parse().ok()
    }
}

/// The state of one worker thread.
pub struct Worker {
    pub forwarder: Arc<Forwarder>,
    pub pool: Rc<Pool>,
    /// Its tick must be called every [`TICK`](super::TICK).
    pub deadlines: Rc<Deadlines>,
    pub scratch: Rc<Scratch>,
    /// Whether this process shuts down soon, so that clients should reconnect elsewhere.
    pub leaving: Cell<bool>,
    /// Whether connections close as soon as they are idle.
    pub draining: Cell<bool>,
    pub(super) verified: VerifiedTokens,
    pub(super) slashes: TrailingSlashes,
    pub(super) metrics: Arc<WorkerMetrics>,
}

impl Worker {
    pub fn new(forwarder: Arc<Forwarder>) -> Self {
        let Forwarder { server, connector, upstream, breaker, timeouts, .. } = &*forwarder;
        let (metrics, scratch, timeout) = (server.metrics.worker(), Rc::<Scratch>::default(), timeouts.connect.get());
        let (connector, upstream, breaker) = (connector.clone(), upstream.clone(), breaker.clone());
        let pool = Rc::new(Pool::new(connector, upstream, breaker, timeout, scratch.clone(), metrics.clone()));
        let (verified, slashes) = (VerifiedTokens::new(server.verified.clone()), TrailingSlashes::default());
        let deadlines = Rc::new(Deadlines::new(server.now()));
        let (leaving, draining) = (Cell::default(), Cell::default());
        Self { forwarder, pool, deadlines, scratch, leaving, draining, verified, slashes, metrics }
    }

    /// Closes idle connections, and the others after their response.
    pub fn drain(&self) {
        self.leaving.set(true);
        self.draining.set(true);
        // An idle connection waits for its idle timeout.
        self.deadlines.wake_all();
    }
}

/// Handles a request for an MCP endpoint ([`Forwarder::is_endpoint`]).
pub async fn forward(request: &mut Parts, body: IncomingBody, peer: &Peer, worker: &Worker) -> Response<Body> {
    let start = Instant::now();
    let span = worker.forwarder.server.tracer.begin(request);
    let mut guard = OutcomeGuard { metrics: &worker.metrics, outcome: Outcome::ClientGone };
    let exchanged = async {
        let admitted = admit(request, body, peer, worker, &span).await?;
        Ok(exchange(admitted, worker, start, request.uri.path()).await)
    };
    let (outcome, response) = exchanged.await.unwrap_or_else(|refused: Box<CountedResponse>| *refused);
    span.end(outcome, response.status());
    guard.outcome = outcome;
    if outcome == Outcome::Forwarded {
        worker.metrics.response_head.observe(start.elapsed());
    }
    response
}

/// Counts a request when it is dropped, which also happens if the client disconnects before the response.
struct OutcomeGuard<'a> {
    metrics: &'a WorkerMetrics,
    outcome: Outcome,
}

impl Drop for OutcomeGuard<'_> {
    fn drop(&mut self) {
        self.metrics.requests.count(self.outcome);
    }
}
