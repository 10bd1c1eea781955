//! What a proxy counts. On the request path each worker has numbers of its own ([`WorkerMetrics`]); everything is put
//! together when it is asked for. docs/observability.md has the table of all names.

mod export;
mod labels;
mod numbers;

use crate::reasons::SessionEnd;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

use prometheus_client::registry::Unit;

use self::{
    export::{Labels, Page},
    numbers::BOUNDS,
};
pub use self::{
    labels::{Answer, CacheLookup, Connect, Consent, Grant, IssuerAnswer, Label, Outcome},
    numbers::{Counts, Held, WorkerMetrics},
};

/// How every name begins.
const PREFIX: &str = "mcp_oauth_proxy";

/// The counters of a proxy.
#[derive(Debug, Default)]
pub struct Metrics {
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    /// Consent pages that were answered.
    pub consents: Counts<Consent>,
    /// Logins that came back from the issuer.
    pub logins: Counts<Answer>,
    /// Requests for tokens, by what they ask with, in the order of [`Grant`].
    tokens: [Counts<Answer>; 3],
    /// Registrations of clients.
    pub registrations: Counts<Answer>,
    /// Requests to revoke a token.
    pub revocations: Counts<Answer>,
    /// Sessions that this replica has ended.
    pub ended_sessions: Counts<SessionEnd>,
    /// Requests that came too often: 429.
    pub rate_limited: AtomicU64,
}

/// What is looked at when the metrics are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Live sessions.
    pub sessions: usize,
    /// How many there may be.
    pub max_sessions: usize,
    /// When the session store was last heard of, in seconds since 1970.
    pub last_contact: i64,
    /// Verified tokens that are remembered.
    pub cached_tokens: usize,
    /// What the issuer has answered.
    pub issuer: &'a Counts<IssuerAnswer>,
}

impl Metrics {
    /// The numbers of one more worker.
    pub fn worker(&self) -> Arc<WorkerMetrics> {
        let metrics = Arc::new(WorkerMetrics::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(metrics.clone());
        metrics
    }

    /// Counts a request for tokens.
    pub fn count_token_request(&self, grant: Grant, answer: Answer) {
        if let Some(answers) = self.tokens.get(grant.index()) {
            answers.count(answer);
        }
    }

    /// All of them in the `OpenMetrics` text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string.
    pub fn text(&self, observed: Observed<'_>) -> Result<String, fmt::Error> {
        let mut page = Page::default();
        page.info("build", "Version of the running proxy.", vec![("version", env!("CARGO_PKG_VERSION"))]);
        self.add_requests(&mut page, observed);
        self.add_logins(&mut page, observed);
        page.text(PREFIX)
    }

    fn add_requests(&self, page: &mut Page, observed: Observed<'_>) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        page.counters(
            "requests",
            "Requests to MCP endpoints, by outcome.",
            sum(workers.iter().map(|worker| &worker.requests)),
        );
        let mut buckets: Vec<_> =
            BOUNDS.iter().map(|nanos| seconds(*nanos)).chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        for worker in &workers {
            for (bucket, count) in buckets.iter_mut().zip(&worker.response_head.counts) {
                bucket.1 += count.load(Relaxed);
            }
        }
        let nanos = workers.iter().map(|worker| worker.response_head.sum.load(Relaxed)).sum();
        page.seconds(
            "response_head",
            "Time from the head of a forwarded request to the head of the upstream's response.",
            seconds(nanos),
            buckets,
        );
        let open = workers.iter().map(|worker| worker.open_streams.load(Relaxed)).sum();
        page.gauge("open_streams", "Open event streams to clients.", None, open);
        let ended = sum(workers.iter().map(|worker| &worker.ended_streams));
        page.counters("ended_streams", "Ended event streams to clients, by reason.", ended);
        let cut = sum(workers.iter().map(|worker| &worker.cut_answers));
        page.counters(
            "cut_answers",
            "Responses other than event streams that were cut before their end, by reason.",
            cut,
        );
        let lookups = sum(workers.iter().map(|worker| &worker.token_cache));
        page.counters("token_cache_lookups", "Look-ups in the cache of verified access tokens, by result.", lookups);
        page.gauge(
            "token_cache_entries",
            "Access tokens in the cache of verified tokens.",
            None,
            number(observed.cached_tokens),
        );
        let connections = workers.iter().map(|worker| worker.upstream_connections.load(Relaxed)).sum();
        page.gauge("upstream_connections", "Open connections to the upstream.", None, connections);
        let idle = workers.iter().map(|worker| worker.upstream_idle.load(Relaxed)).sum();
        page.gauge("upstream_idle_connections", "Idle upstream connections.", None, number(idle));
        let connects = sum(workers.iter().map(|worker| &worker.upstream_connects));
        page.counters("upstream_connects", "Connection attempts to the upstream, by outcome.", connects);
    }

    fn add_logins(&self, page: &mut Page, observed: Observed<'_>) {
        page.counters("consents", "Submitted consent pages, by outcome.", one(&self.consents));
        page.counters("logins", "Callbacks from the issuer after a login, by outcome.", one(&self.logins));
        let tokens = self.tokens.iter().zip(Grant::all()).flat_map(|(answers, grant)| {
            one(answers).map(move |(mut labels, count)| {
                labels.insert(0, (Grant::NAME, grant.text()));
                (labels, count)
            })
        });
        page.counters("token_requests", "Requests to the token endpoint, by grant type and outcome.", tokens);
        page.counters("registrations", "Client registration requests, by outcome.", one(&self.registrations));
        page.counters("revocations", "Token revocation requests, by outcome.", one(&self.revocations));
        let limited = [(Labels::new(), self.rate_limited.load(Relaxed))];
        page.counters(
            "rate_limited_requests",
            "Requests to the authorization server rejected by the rate limit (429).",
            limited,
        );
        page.counters("issuer_requests", "Requests to the issuer, by outcome.", one(observed.issuer));
        page.gauge("sessions", "Live sessions.", None, number(observed.sessions));
        page.gauge("sessions_max", "Limit of live sessions.", None, number(observed.max_sessions));
        page.counters("ended_sessions", "Sessions that this replica has ended, by reason.", one(&self.ended_sessions));
        page.gauge(
            "session_watch_contact_timestamp",
            "Unix time of the last response from the session store; without contact, an ended session remains valid until its access token expires.",
            Some(Unit::Seconds),
            observed.last_contact,
        );
    }
}

fn one<L: Label>(counts: &Counts<L>) -> impl Iterator<Item = (Labels, u64)> {
    counts.all().map(|(label, count)| (vec![(L::NAME, label.text())], count))
}

/// Those of all workers.
fn sum<'a, L: Label>(counts: impl Iterator<Item = &'a Counts<L>>) -> impl Iterator<Item = (Labels, u64)> {
    let mut sums: Vec<_> = L::all().map(|label| (vec![(L::NAME, label.text())], 0)).collect();
    for counts in counts {
        for (sum, (_, count)) in sums.iter_mut().zip(counts.all()) {
            sum.1 += count;
        }
    }
    sums.into_iter()
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
