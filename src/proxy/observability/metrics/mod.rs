//! Metrics. Each worker has its own counters on the request path ([`WorkerMetrics`]); a scrape adds them up.
//! docs/observability.md lists all metrics.

mod export;
mod labels;
mod numbers;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use self::{
    export::{Counters, Histogram},
    numbers::{bounds, seconds},
};
pub use self::{
    labels::{CacheLookup, ConnectOutcome, ConsentOutcome, Grant, IssuerOutcome, Label, OAuthOutcome, Outcome},
    numbers::{Counts, OpenConnection, WorkerMetrics},
};
use crate::end_reasons::SessionEndReason;

#[derive(Debug, Default)]
pub struct Metrics {
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    pub consents: Counts<ConsentOutcome>,
    /// Callbacks from the issuer.
    pub logins: Counts<OAuthOutcome>,
    /// Token requests, indexed by [`Grant`].
    tokens: [Counts<OAuthOutcome>; Grant::ALL.len()],
    pub registrations: Counts<OAuthOutcome>,
    pub revocations: Counts<OAuthOutcome>,
    /// Sessions that this replica has ended.
    pub ended_sessions: Counts<SessionEndReason>,
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
        let mut registry = Registry::with_prefix("mcp_oauth_proxy");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the running proxy", version);
        self.register_requests(&mut registry, observed);
        self.register_logins(&mut registry, observed);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn register_requests(&self, registry: &mut Registry, observed: Observed<'_>) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let total = |number: fn(&WorkerMetrics) -> i64| {
            ConstGauge::new(workers.iter().map(|worker| number(worker)).sum::<i64>())
        };
        let requests = sum(&workers, |worker| &worker.requests);
        registry.register("requests", "Requests to MCP endpoints, by outcome", requests);
        let mut buckets: Vec<_> = bounds().map(|bound| (bound, 0)).collect();
        for worker in &workers {
            for (bucket, count) in buckets.iter_mut().zip(&worker.response_head.counts) {
                bucket.1 += count.load(Relaxed);
            }
        }
        let nanos = workers.iter().map(|worker| worker.response_head.sum.load(Relaxed)).sum();
        let response_head = Histogram { sum: seconds(nanos), buckets };
        let help = "Time from the head of a forwarded request to the head of the upstream's response";
        registry.register_with_unit("response_head", help, Unit::Seconds, response_head);
        let open = total(|worker| worker.open_streams.load(Relaxed));
        registry.register("open_streams", "Open event streams to clients", open);
        let ended = sum(&workers, |worker| &worker.ended_streams);
        registry.register("ended_streams", "Ended event streams to clients, by reason", ended);
        let cut = sum(&workers, |worker| &worker.cut_responses);
        let help = "Responses other than event streams that were cut before their end, by reason";
        registry.register("cut_answers", help, cut);
        let lookups = sum(&workers, |worker| &worker.token_cache);
        let help = "Look-ups in the cache of verified access tokens, by result";
        registry.register("token_cache_lookups", help, lookups);
        let entries = gauge(observed.cached_tokens);
        registry.register("token_cache_entries", "Access tokens in the cache of verified tokens", entries);
        let connections = total(|worker| worker.upstream_connections.load(Relaxed));
        registry.register("upstream_connections", "Open connections to the upstream", connections);
        let idle = total(|worker| number(worker.upstream_idle.load(Relaxed)));
        registry.register("upstream_idle_connections", "Idle upstream connections", idle);
        let connects = sum(&workers, |worker| &worker.upstream_connects);
        registry.register("upstream_connects", "Connection attempts to the upstream, by outcome", connects);
    }

    fn register_logins(&self, registry: &mut Registry, observed: Observed<'_>) {
        registry.register("consents", "Submitted consent pages, by outcome", all(&self.consents));
        registry.register("logins", "Callbacks from the issuer after a login, by outcome", all(&self.logins));
        let tokens = self.tokens.iter().zip(Grant::ALL).flat_map(|(outcomes, grant)| {
            let grant = (Grant::NAME, grant.text());
            outcomes.all().map(move |(outcome, count)| (vec![grant, (OAuthOutcome::NAME, outcome.text())], count))
        });
        let help = "Requests to the token endpoint, by grant type and outcome";
        registry.register("token_requests", help, Counters(tokens.collect()));
        registry.register("registrations", "Client registration requests, by outcome", all(&self.registrations));
        registry.register("revocations", "Token revocation requests, by outcome", all(&self.revocations));
        let help = "Requests to the authorization server rejected by the rate limit (429)";
        registry.register("rate_limited_requests", help, Counters(vec![(Vec::new(), self.rate_limited.load(Relaxed))]));
        registry.register("issuer_requests", "Requests to the issuer, by outcome", all(observed.issuer));
        registry.register("sessions", "Live sessions", gauge(observed.sessions));
        registry.register("sessions_max", "Limit of live sessions", gauge(observed.max_sessions));
        let help = "Sessions that this replica has ended, by reason";
        registry.register("ended_sessions", help, all(&self.ended_sessions));
        let help = "Unix time of the last response from the session store; without contact, an ended session remains valid until its access token expires";
        let contact = ConstGauge::new(observed.last_contact);
        registry.register_with_unit("session_watch_contact_timestamp", help, Unit::Seconds, contact);
    }
}

fn all<L: Label>(counts: &Counts<L>) -> Counters {
    Counters(counts.all().map(|(label, count)| (vec![(L::NAME, label.text())], count)).collect())
}

fn sum<L: Label>(workers: &[Arc<WorkerMetrics>], counts: fn(&WorkerMetrics) -> &Counts<L>) -> Counters {
    let mut sums = all(&Counts::<L>::default());
    for worker in workers {
        for (sum, (_, count)) in sums.0.iter_mut().zip(counts(worker).all()) {
            sum.1 += count;
        }
    }
    sums
}

fn gauge(value: usize) -> ConstGauge<i64> {
    ConstGauge::new(number(value))
}

fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
