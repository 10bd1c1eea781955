//! What a proxy counts. On the request path each worker has numbers of its own ([`WorkerMetrics`]); everything is put
//! together when it is asked for. docs/observability.md has the table of all names.

mod export;
mod labels;
mod numbers;

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
    labels::{
        Answer, AnswerCut, CacheLookup, Connect, Consent, Grant, IssuerAnswer, Label, Outcome, SessionEnd, StreamEnd,
    },
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
        page.info("build", "The version that runs.", vec![("version", env!("CARGO_PKG_VERSION"))]);
        self.add_requests(&mut page, observed);
        self.add_logins(&mut page, observed);
        page.text(PREFIX)
    }

    fn add_requests(&self, page: &mut Page, observed: Observed<'_>) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        page.counters("requests", "Requests for MCP endpoints.", sum(workers.iter().map(|worker| &worker.requests)));
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
            "From the head of a request that was forwarded to the head of the upstream's answer.",
            seconds(nanos),
            buckets,
        );
        let open = workers.iter().map(|worker| worker.open_streams.load(Relaxed)).sum();
        page.gauge("open_streams", "Event streams to clients that are open.", None, open);
        let ended = sum(workers.iter().map(|worker| &worker.ended_streams));
        page.counters("ended_streams", "Event streams to clients that are no longer open.", ended);
        let cut = sum(workers.iter().map(|worker| &worker.cut_answers));
        page.counters("cut_answers", "Answers but event streams that clients did not get to their end.", cut);
        let lookups = sum(workers.iter().map(|worker| &worker.token_cache));
        page.counters("token_cache_lookups", "Tokens that were looked for among those verified before.", lookups);
        page.gauge("token_cache_entries", "Verified tokens that are remembered.", None, number(observed.cached_tokens));
        let connections = workers.iter().map(|worker| worker.upstream_connections.load(Relaxed)).sum();
        page.gauge("upstream_connections", "Connections to the upstream that are open.", None, connections);
        let idle = workers.iter().map(|worker| worker.upstream_idle.load(Relaxed)).sum();
        page.gauge("upstream_idle_connections", "Those of them that wait for a request.", None, number(idle));
        let connects = sum(workers.iter().map(|worker| &worker.upstream_connects));
        page.counters("upstream_connects", "Connections to the upstream that were tried.", connects);
    }

    fn add_logins(&self, page: &mut Page, observed: Observed<'_>) {
        page.counters("consents", "Consent pages that were answered.", one(&self.consents));
        page.counters("logins", "Logins that came back from the issuer.", one(&self.logins));
        let tokens = self.tokens.iter().zip(Grant::all()).flat_map(|(answers, grant)| {
            one(answers).map(move |(mut labels, count)| {
                labels.insert(0, (Grant::NAME, grant.text()));
                (labels, count)
            })
        });
        page.counters("token_requests", "Requests for tokens.", tokens);
        page.counters("registrations", "Clients that registered.", one(&self.registrations));
        page.counters("revocations", "Requests to revoke a token.", one(&self.revocations));
        let limited = [(Labels::new(), self.rate_limited.load(Relaxed))];
        page.counters("rate_limited_requests", "Requests to the authorization server that came too often.", limited);
        page.counters("issuer_requests", "Requests to the issuer.", one(observed.issuer));
        page.gauge("sessions", "Live sessions.", None, number(observed.sessions));
        page.gauge("sessions_max", "How many there may be.", None, number(observed.max_sessions));
        page.counters("ended_sessions", "Sessions that this replica has ended.", one(&self.ended_sessions));
        page.gauge(
            "session_watch_contact_timestamp",
            "When the session store was last heard of, since 1970: without contact, an ended session lives as long as its access token.",
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
