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
    Arriving, Body, HeaderRules, ResourceServer,
    admission::admit,
    breaker::Breaker,
    deadline::Deadlines,
    exchange::exchange,
    headers::InvalidHeaderRules,
    limits::{Limits, memory_limit},
    origin::Origins,
    pool::{Connector, Pool, PoolError, connector},
    redirect::{self, Places, Spelling},
    verified::VerifiedTokens,
};
use crate::http1::Scratch;
use crate::{
    config::ProxyConfig,
    proxy::{
        client_ip::Peer,
        observability::metrics::{Outcome, WorkerMetrics},
    },
};

/// What the workers of a proxy share.
pub struct Forwarder {
    pub(super) server: ResourceServer,
    pub(super) rules: HeaderRules,
    connector: Connector,
    pub(super) origins: Origins,
    upstream: Uri,
    prefix: String,
    pub(super) places: Places,
    /// One for each of the patterns of `upstream.paths`.
    pub(super) spellings: Box<[Spelling]>,
    breaker: Arc<Breaker>,
    pub(super) limits: Arc<Limits>,
    pub(super) pace: Pace,
}

/// How large and how slow things may be.
pub(super) struct Pace {
    /// How long connecting to the upstream may take.
    connect: Duration,
    /// The most bytes of a request's body.
    pub(super) largest: u64,
    /// How long a client may pause within it, and in taking an answer.
    pub(super) request_body: Duration,
    /// How long the upstream may take to begin its answer, and pause in one that is no stream.
    pub(super) response: Duration,
    /// How long it may pause in a stream.
    pub(super) stream: Duration,
    /// How long open requests may continue while this process shuts down.
    drain: Duration,
    /// How many seconds a stream may go on after its access token.
    pub(super) stream_grace: u64,
}

/// Why requests cannot be forwarded with this configuration.
#[derive(Debug, Error)]
pub enum ForwarderError {
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
    /// Forwards what `server` admits, as `config` says.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: &ProxyConfig, server: ResourceServer) -> Result<Self, ForwarderError> {
        let url = Url::parse(config.upstream.url.as_str()).map_err(|_| ForwarderError::Upstream)?;
        let upstream: Uri = url.as_str().parse().map_err(|_| ForwarderError::Upstream)?;
        let host = upstream.authority().ok_or(ForwarderError::Upstream)?;
        let rules = HeaderRules::new(&config.upstream.identity, &server.public_url, host)?;
        let connect = config.upstream.timeouts.connect.get();
        let connector = connector(upstream.scheme_str() == Some("https"), connect)?;
        let prefix = upstream.path().trim_end_matches('/').to_owned();
        let origins = Origins::new(&server.public_url, &config.clients);
        let places = Places::new(url, &server.public_url);
        let spellings = (0..server.resources.len()).map(|_| Spelling::default()).collect();
        let (timeouts, limits) = (&config.upstream.timeouts, &config.upstream.limits);
        let pace = Pace {
            connect,
            largest: limits.request_body.bytes(),
            request_body: timeouts.request_body.get(),
            response: timeouts.response_head.get(),
            stream: timeouts.stream_idle.get(),
            drain: timeouts.drain.get(),
            stream_grace: config.tokens.stream_grace.as_secs(),
        };
        let (limits, breaker) = (Arc::new(Limits::new(limits, memory_limit())), Arc::new(Breaker::new(Instant::now())));
        Ok(Self { server, rules, connector, origins, upstream, prefix, places, spellings, breaker, limits, pace })
    }

    /// How long a client may let us wait.
    pub fn client_patience(&self) -> Duration {
        self.pace.request_body
    }

    /// How long what is open may go on when this process has to end.
    pub fn drain(&self) -> Duration {
        self.pace.drain
    }

    /// The time by the proxy's clock.
    pub fn now(&self) -> Timestamp {
        self.server.now()
    }

    /// Whether a path, as the client spelled it, is an MCP endpoint.
    pub fn is_endpoint(&self, path: &str) -> bool {
        self.server.resources.path(path).is_some()
    }

    /// What the upstream is asked for: however the client spells the path, the upstream gets its own spelling.
    pub(super) fn target(&self, uri: &Uri, spelling: &Spelling) -> Option<Uri> {
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
    /// What its connections read to.
    pub scratch: Rc<Scratch>,
    /// Set when this process is about to end: clients shall go elsewhere.
    pub leaving: Cell<bool>,
    pub(super) verified: VerifiedTokens,
    pub(super) metrics: Arc<WorkerMetrics>,
}

impl Worker {
    /// A worker without connections yet.
    pub fn new(forwarder: Arc<Forwarder>) -> Self {
        let Forwarder { connector, upstream, breaker, pace, .. } = &*forwarder;
        let metrics = forwarder.server.metrics.worker();
        let (scratch, patience) = (Rc::<Scratch>::default(), pace.connect);
        let (connector, upstream, breaker) = (connector.clone(), upstream.clone(), breaker.clone());
        let pool = Rc::new(Pool::new(connector, upstream, breaker, patience, scratch.clone(), metrics.clone()));
        let verified = VerifiedTokens::new(forwarder.server.verified.clone());
        let deadlines = Rc::new(Deadlines::new(forwarder.server.now()));
        Self { forwarder, pool, deadlines, scratch, leaving: Cell::new(false), verified, metrics }
    }
}

/// Answers a request for an MCP endpoint ([`Forwarder::is_endpoint`]).
pub async fn forward(request: &mut Parts, body: Arriving, peer: &Peer, worker: &Worker) -> Response<Body> {
    let begun = Instant::now();
    let span = worker.forwarder.server.tracer.begin(request);
    let mut counted = Counted { metrics: &worker.metrics, outcome: Outcome::ClientGone };
    let (outcome, response) = match admit(request, body, peer, worker, &span).await {
        Ok(admitted) => exchange(admitted, worker, begun, request.uri.path()).await,
        Err(answered) => *answered,
    };
    span.end(outcome, response.status());
    counted.outcome = outcome;
    if outcome == Outcome::Forwarded {
        worker.metrics.response_head.observe(begun.elapsed());
    }
    response
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
