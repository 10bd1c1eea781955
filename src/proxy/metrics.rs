//! What a proxy counts.

use std::fmt::Write;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// What became of a request for an MCP endpoint.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
    /// The upstream took too long: 504.
    TimedOut,
    /// Too much was open already: 503.
    Shed,
    /// The upstream could not be reached before, and was not tried: 503.
    Broken,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Forwarded => "forwarded",
            Self::Preflight => "preflight",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::BadGateway => "bad_gateway",
            Self::TimedOut => "timed_out",
            Self::Shed => "shed",
            Self::Broken => "broken",
        })
    }
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
    watch_contact: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mcp_oauth_proxy");
        let (requests, sessions, watch_contact) = (Family::default(), Gauge::default(), Gauge::default());
        registry.register("requests", "Requests for MCP endpoints", requests.clone());
        registry.register("sessions", "Live sessions", sessions.clone());
        registry.register_with_unit(
            "session_watch_contact_timestamp",
            "When the session store was last heard of, since 1970: without contact, an ended session lives as long as its access token",
            Unit::Seconds,
            watch_contact.clone(),
        );
        Self { registry, requests, sessions, watch_contact }
    }
}

impl Metrics {
    /// Counts a request for an MCP endpoint.
    pub fn count(&self, outcome: Outcome) {
        self.requests.get_or_create(&RequestLabels { outcome }).inc();
    }

    /// All of them in the `OpenMetrics` text format; `last_contact` is when the session store was last heard of, in seconds
    /// since 1970.
    ///
    /// # Errors
    /// Never in practice: writing to a string.
    pub fn text(&self, sessions: usize, last_contact: i64) -> Result<String, std::fmt::Error> {
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        self.watch_contact.set(last_contact);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
