//! Metrics. Each worker has its own counters on the request path ([`WorkerMetrics`]); a scrape adds them up.
//! docs/observability.md lists all metrics.

mod export;
mod labels;
mod numbers;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

use self::{
    export::{Labels, Page},
    numbers::{bounds, seconds},
};
pub use self::{
    labels::{CacheLookup, Connect, Consent, Grant, IssuerOutcome, Label, OAuthOutcome, Outcome},
    numbers::{Counts, OpenConnection, WorkerMetrics},
};
use crate::reasons::SessionEnd;

#[derive(Debug, Default)]
pub struct Metrics {
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    pub consents: Counts<Consent>,
    /// Callbacks from the issuer.
    pub logins: Counts<OAuthOutcome>,
    /// Token requests, indexed by [`Grant`].
    tokens: [Counts<OAuthOutcome>; Grant::ALL.len()],
    pub registrations: Counts<OAuthOutcome>,
    pub revocations: Counts<OAuthOutcome>,
    /// Sessions that this replica has ended.
    pub ended_sessions: Counts<SessionEnd>,
    /// Responses with 429.
    pub rate_limited: AtomicU64,
}

/// Values that are read at each scrape.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    pub sessions: usize,
    pub max_sessions: usize,
    /// Unix time in seconds of the last response of the session store.
    pub last_contact: i64,
    pub cached_tokens: usize,
    pub issuer: &'a Counts<IssuerOutcome>,
}

impl Metrics {
    /// Adds a worker.
    pub fn worker(&self) -> Arc<WorkerMetrics> {
        let metrics = Arc::new(WorkerMetrics::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(metrics.clone());
        metrics
    }

    pub fn count_token_request(&self, grant: Grant, outcome: OAuthOutcome) {
        if let Some(outcomes) = self.tokens.get(grant.index()) {
            outcomes.count(outcome);
        }
    }

    /// All metrics in the `OpenMetrics` text format.
    pub fn text(&self, observed: Observed<'_>) -> Result<String, fmt::Error> {
        let mut page = Page::default();
        page.info("build", "Version of the running proxy.", vec![("version", env!("CARGO_PKG_VERSION"))]);
        self.add_requests(&mut page, observed);
        self.add_logins(&mut page, observed);
        page.text("mcp_oauth_proxy")
    }

    fn add_requests(&self, page: &mut Page, observed: Observed<'_>) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let total = |number: fn(&WorkerMetrics) -> i64| workers.iter().map(|worker| number(worker)).sum();
        let requests = sum(&workers, |worker| &worker.requests);
        page.counters("requests", "Requests to MCP endpoints, by outcome.", requests);
        let mut buckets: Vec<_> = bounds().map(|bound| (bound, 0)).collect();
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
        let open = total(|worker| worker.open_streams.load(Relaxed));
        page.gauge("open_streams", "Open event streams to clients.", open);
        let ended = sum(&workers, |worker| &worker.ended_streams);
        page.counters("ended_streams", "Ended event streams to clients, by reason.", ended);
        let cut = sum(&workers, |worker| &worker.cut_responses);
        let help = "Responses other than event streams that were cut before their end, by reason.";
        page.counters("cut_answers", help, cut);
        let lookups = sum(&workers, |worker| &worker.token_cache);
        page.counters("token_cache_lookups", "Look-ups in the cache of verified access tokens, by result.", lookups);
        let entries = number(observed.cached_tokens);
        page.gauge("token_cache_entries", "Access tokens in the cache of verified tokens.", entries);
        let connections = total(|worker| worker.upstream_connections.load(Relaxed));
        page.gauge("upstream_connections", "Open connections to the upstream.", connections);
        let idle = total(|worker| number(worker.upstream_idle.load(Relaxed)));
        page.gauge("upstream_idle_connections", "Idle upstream connections.", idle);
        let connects = sum(&workers, |worker| &worker.upstream_connects);
        page.counters("upstream_connects", "Connection attempts to the upstream, by outcome.", connects);
    }

    fn add_logins(&self, page: &mut Page, observed: Observed<'_>) {
        page.counters("consents", "Submitted consent pages, by outcome.", all(&self.consents));
        page.counters("logins", "Callbacks from the issuer after a login, by outcome.", all(&self.logins));
        let tokens = self.tokens.iter().zip(Grant::ALL).flat_map(|(outcomes, grant)| {
            let grant = (Grant::NAME, grant.text());
            outcomes.all().map(move |(outcome, count)| (vec![grant, (OAuthOutcome::NAME, outcome.text())], count))
        });
        page.counters("token_requests", "Requests to the token endpoint, by grant type and outcome.", tokens);
        page.counters("registrations", "Client registration requests, by outcome.", all(&self.registrations));
        page.counters("revocations", "Token revocation requests, by outcome.", all(&self.revocations));
        let help = "Requests to the authorization server rejected by the rate limit (429).";
        page.counters("rate_limited_requests", help, [(Labels::new(), self.rate_limited.load(Relaxed))]);
        page.counters("issuer_requests", "Requests to the issuer, by outcome.", all(observed.issuer));
        page.gauge("sessions", "Live sessions.", number(observed.sessions));
        page.gauge("sessions_max", "Limit of live sessions.", number(observed.max_sessions));
        page.counters("ended_sessions", "Sessions that this replica has ended, by reason.", all(&self.ended_sessions));
        page.timestamp(
            "session_watch_contact_timestamp",
            "Unix time of the last response from the session store; without contact, an ended session remains valid until its access token expires.",
            observed.last_contact,
        );
    }
}

fn all<L: Label>(counts: &Counts<L>) -> impl Iterator<Item = (Labels, u64)> {
    counts.all().map(|(label, count)| (vec![(L::NAME, label.text())], count))
}

fn sum<L: Label>(workers: &[Arc<WorkerMetrics>], counts: fn(&WorkerMetrics) -> &Counts<L>) -> Vec<(Labels, u64)> {
    let mut sums: Vec<_> = L::all().map(|label| (vec![(L::NAME, label.text())], 0)).collect();
    for worker in workers {
        for (sum, (_, count)) in sums.iter_mut().zip(counts(worker).all()) {
            sum.1 += count;
        }
    }
    sums
}

fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
