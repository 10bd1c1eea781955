//! What a proxy counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What became of a request for an MCP endpoint.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// The upstream answered.
    Forwarded,
    /// A browser asked whether it may send one.
    Preflight,
    /// The client was at fault: 4xx.
    Refused,
    /// The session could not be checked: 503.
    Unavailable,
    /// The upstream was at fault: 502.
    BadGateway,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    outcome: Outcome,
}

/// The counters of a proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    sessions: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mcp_oauth_proxy");
        let (requests, sessions) = (Family::default(), Gauge::default());
        registry.register("requests", "Requests for MCP endpoints", requests.clone());
        registry.register("sessions", "Live sessions", sessions.clone());
        Self { registry, requests, sessions }
    }
}

impl Metrics {
    /// Counts a request for an MCP endpoint.
    pub fn count(&self, outcome: Outcome) {
        self.requests.get_or_create(&RequestLabels { outcome }).inc();
    }

    /// All of them in the `OpenMetrics` text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string.
    pub fn text(&self, sessions: usize) -> Result<String, std::fmt::Error> {
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
